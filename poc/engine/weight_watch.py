"""Whether a model's weights are those that a round was opened with.

vLLM can load others while it serves (`reload_weights`, its transfer of weights from a trainer), and tells
nobody. It copies them into the tensors that are there, past PyTorch's count of versions. So their places are
compared, and a sample of their bytes.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["WeightWatch"]

# Elements in the middle of each parameter: a step of training moves nearly all of them.
_SAMPLED = 256


class _Parameter(NamedTuple):
    """A parameter of a module.

    Attributes:
        module: The module.
        name: Its name there.
        value: What it was.
        address: Where that was.
        sample: A view of some of its bytes, in its storage; None where it has none on the watched device.
    """

    module: nn.Module
    name: str
    value: nn.Parameter
    address: int
    sample: Tensor | None


class WeightWatch:
    """The weights of a model, as they were when somebody last looked.

    What lies outside of its parameters is not seen, nor a change that leaves all samples as they were.

    Args:
        model: The model; its forward and its modules are left alone.
        device: Where its weights are.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._parameters: list[_Parameter] = []
        self._bytes: Tensor | None = None

    def remember(self) -> None:
        """Take the weights as they are now for what they are to be."""
        self._parameters = [
            _Parameter(module, name, value, value.data_ptr(), self._sample(value.data))
            for module in self._model.modules()
            for name, value in module.named_parameters(recurse=False)
        ]
        self._bytes = self._sampled()

    def forget(self) -> None:
        """Hold nothing of the weights any more."""
        self._parameters, self._bytes = [], None

    def moved(self) -> bool:
        """Return whether a parameter is another tensor, or lies elsewhere; the device is not waited for."""
        return any(
            getattr(known.module, known.name, None) is not known.value
            or known.value.data_ptr() != known.address
            for known in self._parameters
        )

    def differing(self) -> Tensor | None:
        """Compare the samples, where none has moved.

        Returns:
            bool `[1]` on the device, in the order of the current stream: whether any differs; None where
            nothing is remembered.
        """
        now = self._sampled()
        return None if now is None or self._bytes is None else (now != self._bytes).any().view(1)

    def _sample(self, value: Tensor) -> Tensor | None:
        if value.device != self._device or not value.numel():
            return None
        # In the order of memory, which a transposed weight has another one of.
        span = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
        size = min(_SAMPLED, span)
        start = value.storage_offset() + (span - size) // 2
        return value.as_strided((size,), (1,), start).view(torch.uint8)

    def _sampled(self) -> Tensor | None:
        samples = [known.sample for known in self._parameters if known.sample is not None]
        return torch.cat(samples) if samples else None
