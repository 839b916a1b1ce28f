"""Which rows of a nonce's final hidden states its numbers read, and in which order.

Rows 0 to 7 are not read. The others are ranked by a random word each; by rank they make balanced
groups (`norm_sums`).
"""

import torch
from torch import Tensor

from hallmark.kernels.draw_words import draw_words
from hallmark.poc.protocol.round_spec import FIRST_ROW

__all__ = ["row_order"]

_INDEX_BITS = 31


def row_order(streams: Tensor, seq_len: int) -> Tensor:
    """Rank the rows that are read.

    Args:
        streams: int64 [n, 4], the nonces' streams of the purpose `rows`, on the host.
        seq_len: Rows of a nonce's input.

    Returns:
        int64 [n, seq_len − 8]: the row of each rank, ascending by (word, row).
    """
    words = draw_words(streams, seq_len - FIRST_ROW)
    # Below 2**63, and no two alike: any sort will do.
    ranked = ((words << _INDEX_BITS) | torch.arange(words.shape[1])).sort(dim=1).values
    return (ranked & (1 << _INDEX_BITS) - 1) + FIRST_ROW
