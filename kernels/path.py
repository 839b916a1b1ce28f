"""Which code an op runs: decided here, from the device and the size alone."""

from enum import StrEnum

import torch

__all__ = ["MAX_WIDTH", "KernelPath", "kernel_path"]

MAX_WIDTH = 16_384
"""The widest hidden state that the kernels are compiled and tested for."""


class KernelPath(StrEnum):
    """The two implementations that every op has."""

    TRITON = "triton"
    REFERENCE = "reference"


def kernel_path(device: torch.device, size: int, most: int = MAX_WIDTH) -> KernelPath:
    """Return the implementation for tensors of a size on a device.

    Args:
        device: Where the tensors are. PyTorch calls AMD's GPUs `cuda` as well; NVIDIA's need sm_80, the first
            with bf16 in its tensor cores.
        size: The width of the hidden state, or the number of elements to draw. A multiple of 16 keeps every
            row of a dense tensor on a boundary of 16 bytes, which the kernels' loads and stores need.
        most: The largest size there is a kernel for.
    """
    has_kernel = device.type == "cuda" and size % 16 == 0 and 0 < size <= most
    if has_kernel and torch.version.hip is None:
        has_kernel = torch.cuda.get_device_capability(device) >= (8, 0)
    return KernelPath.TRITON if has_kernel else KernelPath.REFERENCE
