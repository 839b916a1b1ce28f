"""Signed sums of final hidden states: ``S[i, j] = Σ ± H[i, row]`` over the rows of group j of nonce i."""

import torch
from torch import Tensor

__all__ = ["signed_sums_reference"]


def signed_sums_reference(hidden: Tensor, signs: Tensor) -> Tensor:
    """Sum in plain PyTorch, and round once. Rows without any sign do not count, whatever is in them.

    Args:
        hidden: [n · rows, D] in the model's dtype: what its final norm returned.
        signs: float32 [n, k, rows] of 1, −1 and 0.

    Returns:
        [n, k, D] in the model's dtype; of float16, where a sum could overflow, in float32.
    """
    n, _, rows = signs.shape
    # Products of bf16 numbers are exact in every mode that PyTorch has for float32 matrices; wider numbers
    # are multiplied in float64, which no such mode reaches.
    accumulator = torch.float32 if hidden.dtype == torch.bfloat16 else torch.float64
    # A product of 0 with what is not finite would be NaN.
    unread = (signs == 0).all(dim=1).unsqueeze(2)
    read = hidden.view(n, rows, -1).to(accumulator).masked_fill(unread, 0.0)
    sums = torch.bmm(signs.to(accumulator), read)
    return sums.to(torch.float32 if hidden.dtype == torch.float16 else hidden.dtype)
