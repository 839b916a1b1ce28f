"""Copies between host and device that wait for nothing."""

import torch
from torch import Tensor

__all__ = ["HostCopy", "to_device"]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor up in the order of the current stream.

    An ordinary copy would first wait for everything that was launched before it.
    """
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """A device tensor on its way to the host, in the order of the current stream."""

    def __init__(self, tensor: Tensor) -> None:
        self._done: torch.Event | None = None
        self._tensor = tensor
        if tensor.device.type != "cpu":
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._tensor.copy_(tensor, non_blocking=True)
            self._done = torch.Event(device=tensor.device)
            self._done.record(torch.cuda.current_stream(tensor.device))

    def has_arrived(self) -> bool:
        """Return whether the device has done everything that leads to the tensor, and the copy."""
        return self._done is None or self._done.query()

    @property
    def tensor(self) -> Tensor:
        """The tensor on the host; its values mean nothing before it has arrived."""
        return self._tensor
