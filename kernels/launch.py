"""A kernel together with everything it is launched with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

__all__ = ["Launch", "dense", "kernels_are_interpreted"]


def kernels_are_interpreted() -> bool:
    """Return whether Triton runs kernels in its interpreter, on CPU tensors (``TRITON_INTERPRET=1``)."""
    return bool(triton.knobs.runtime.interpret)


def dense(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy of it: contiguous, on a boundary of 16 bytes, as wide accesses need it."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch: made once, then run on the device of its tensors, or compiled only.

    Attributes:
        kernel: A function under `triton.jit`.
        grid: Programs in each dimension.
        arguments: What the kernel takes, in its order; tensors stand for pointers.
        constants: Its `tl.constexpr` parameters.
        num_warps: Warps of a program.
        num_stages: Depth of the software pipeline.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[object, ...]
    constants: Mapping[str, object]
    num_warps: int
    num_stages: int

    def run(self) -> None:
        """Put the kernel on the current stream of its first tensor's device."""
        device = next(argument.device for argument in self.arguments if isinstance(argument, Tensor))
        if device.type == "cpu":
            self.kernel[self.grid](*self.arguments, **self._keywords())
            return
        with torch.cuda.device(device):
            self.kernel[self.grid](*self.arguments, **self._keywords())

    def compile(self) -> Any:
        """Compile for Triton's current target without running.

        Returns:
            Triton's `CompiledKernel`: `asm` has its code, `metadata` its shared memory.
        """
        return self.kernel.warmup(*self.arguments, grid=self.grid, **self._keywords())

    def _keywords(self) -> dict[str, object]:
        # Fused multiply-adds change bits, and Triton's default is about to change: never leave it open.
        return {
            **self.constants,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "enable_fp_fusion": True,
        }
