"""Draw the words of streams: word w is word ``w mod 4`` of Philox's call ``w div 4``."""

import torch
from torch import Tensor

from hallmark.kernels.philox import philox4x32

__all__ = ["draw_calls", "draw_words"]


def draw_calls(streams: Tensor, start: int, end: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw the four words of calls `start` to `end` of each stream: four int64 [n, end − start]."""
    calls = torch.arange(start, end, device=streams.device)
    key0, key1, c2, c3 = (column.unsqueeze(1) for column in streams.unbind(1))
    return philox4x32((calls, torch.zeros_like(c2), c2, c3), (key0, key1))


def draw_words(streams: Tensor, count: int) -> Tensor:
    """Draw the first words of each stream, in plain PyTorch.

    Args:
        streams: int64 [n, 4]: k0, k1, c2, c3 of each stream.
        count: How many words of each.

    Returns:
        int64 [n, count] of values below 2**32, on the streams' device.
    """
    words = draw_calls(streams, 0, -(-count // 4))
    return torch.stack(words, dim=2).flatten(1)[:, :count]
