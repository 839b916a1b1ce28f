"""Draw the words of streams: word w is word ``w mod 4`` of Philox's call ``w div 4``."""

import torch
from torch import Tensor

from hallmark.kernels.philox import philox4x32

__all__ = ["draw_words"]


def draw_words(streams: Tensor, count: int) -> Tensor:
    """Draw the first words of each stream, in plain PyTorch.

    Args:
        streams: int64 [n, 4]: k0, k1, c2, c3 of each stream.
        count: How many words of each.

    Returns:
        int64 [n, count] of values below 2**32, on the streams' device.
    """
    calls = torch.arange(-(-count // 4), device=streams.device)
    key0, key1, c2, c3 = (column.unsqueeze(1) for column in streams.unbind(1))
    words = philox4x32((calls, torch.zeros_like(c2), c2, c3), (key0, key1))
    return torch.stack(words, dim=2).flatten(1)[:, :count]
