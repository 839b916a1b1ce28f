"""Which rows of a nonce's final hidden states its numbers read: balanced groups, each row in one of them.

Rows 0 to 7 are not read. The others are ranked by a random word each; rank r is in group ``(r div 2) mod k``,
with + where r is even and with − where it is odd.
"""

import torch
from torch import Tensor

from hallmark.kernels.draw_words import draw_words
from hallmark.poc.protocol.round_spec import FIRST_ROW

__all__ = ["row_order", "sign_matrix"]

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


def sign_matrix(order: Tensor, numbers: int, seq_len: int) -> Tensor:
    """Write the groups as matrices that sum them.

    Args:
        order: int64 [n, seq_len − 8], as of `row_order`.
        numbers: k, the number of groups.
        seq_len: Rows of a nonce's input.

    Returns:
        float32 [n, numbers, seq_len] of 1, −1 and 0, on the device of `order`.
    """
    rank = torch.arange(order.shape[1], device=order.device)
    group = rank // 2 % numbers
    sign = 1.0 - 2.0 * (rank % 2)
    matrix = torch.zeros((len(order), numbers, seq_len), device=order.device)
    nonce = torch.arange(len(order), device=order.device).unsqueeze(1)
    matrix[nonce, group.expand_as(order), order] = sign.expand(order.shape)
    return matrix
