"""The stream of PoC's forward: always the one that inference's thread is on.

vLLM keeps a stream for each thread and makes one where a thread first asks for it, its worker's own included.
Where graphs are captured that is before PoC is set up; on an eager server it may be in any later step (layers
of experts ask in the first small one). From then on the worker's thread is on the new stream for good, and a
forward that kept the old one would run at the same time as inference: collectives in no order, workspaces
that both write, and a slice that seems over before it is.
"""

from collections.abc import Callable
from functools import partial

import torch

__all__ = ["SameStream"]


class SameStream:
    """Keeps a thread on the stream of another one.

    A stream that changes in the middle of a batch is followed, rather than the batch given up: nothing of a
    batch that stands still is under way, since each slice has waited for the device.

    Args:
        device: Of both threads.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None

    def __call__(self) -> Callable[[], None] | None:
        """Return what the thread has to call to be where the calling one is; None where it is already."""
        if self._device.type == "cpu":
            return None
        stream = torch.cuda.current_stream(self._device)
        return None if stream == self._stream else partial(self._enter, stream)

    def _enter(self, stream: torch.cuda.Stream) -> None:
        if self._stream is None:
            torch.cuda.set_device(self._device)
        else:
            # The round's tensors and the batch's may have been made on the old one.
            stream.wait_stream(self._stream)
        # vLLM's own, once it is imported; without it, it would make a new stream for a new thread.
        torch.cuda.set_stream(stream)
        self._stream = stream
