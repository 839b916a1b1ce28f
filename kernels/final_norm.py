"""A model's final RMSNorm that is still to be applied: ``H = RMSNorm(hidden + residual)``."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["FinalNorm", "NormRounding", "final_norm_reference"]


class NormRounding(NamedTuple):
    """Where a norm rounds to the model's dtype on its way; its result it rounds in any case.

    Implementations differ in it, and so do versions of one.

    Attributes:
        sum: After adding the residual, before anything else.
        scaled: After the division by the root mean square, before the multiplication by the weight.
    """

    sum: bool
    scaled: bool


class FinalNorm(NamedTuple):
    """A model's final RMSNorm that is still to be applied.

    Attributes:
        weight: [D], floating point.
        epsilon: What is added to the mean square.
        residual: What is added to the hidden states first, of their shape; None where nothing is.
        adds_one: Whether 1 is added to the weight, as Gemma does.
        rounding: Where it rounds.
    """

    weight: Tensor
    epsilon: float
    residual: Tensor | None
    adds_one: bool
    rounding: NormRounding


def final_norm_reference(hidden: Tensor, residual: Tensor | None, norm: FinalNorm) -> Tensor:
    """Norm some rows in plain PyTorch, rounded where the norm rounds.

    Args:
        hidden: [..., D] in the model's dtype.
        residual: The rows of the norm's residual that belong to them; None where there is none.
        norm: The norm; its own residual, of all rows, is not looked at.

    Returns:
        The shape and dtype of `hidden`.
    """
    dtype = hidden.dtype
    x = hidden.float()
    if residual is not None:
        x = x + residual.float()
    if norm.rounding.sum:
        x = x.to(dtype).float()
    x = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + norm.epsilon)
    if norm.rounding.scaled:
        x = x.to(dtype).float()
    return (x * (norm.weight.float() + float(norm.adds_one))).to(dtype)
