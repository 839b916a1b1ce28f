"""A model's final RMSNorm, done to the last row of each sequence only: ``H = RMSNorm(hidden + residual)``."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hallmark.kernels.launch import Launch, kernels_are_interpreted
from hallmark.kernels.rounding import round_to

__all__ = ["FinalNorm", "final_norm_reference", "launch_final_norm"]


class FinalNorm(NamedTuple):
    """A model's final RMSNorm that is still to be applied.

    Attributes:
        weight: [D], in the model's dtype.
        epsilon: What is added to the mean square.
        residual: What is added to the hidden states first, of their shape; None where nothing is.
    """

    weight: Tensor
    epsilon: float
    residual: Tensor | None


@triton.jit(do_not_specialize=["rows_each"])  # one compilation serves every batch shape
def _norm_kernel(
    out_ptr: tl.tensor,
    hidden_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    rows_each: tl.tensor,
    epsilon: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    """``out[i] = RMSNorm(hidden + residual)`` of sequence i's last row; one program a sequence.

    Rounded to the dtype where vLLM's fused kernel and transformers round: after the addition, after the
    division by the root mean square, after the multiplication by the weight.

    Args:
        out_ptr: [n, WIDTH], in the dtype of hidden_ptr.
        hidden_ptr: [n * rows_each, WIDTH].
        residual_ptr: the same; read only where HAS_RESIDUAL says so.
        weight_ptr: [WIDTH].
        rows_each: rows of a sequence.
        epsilon: what is added to the mean square.
        WIDTH: of a row.
        BLOCK: a power of two from WIDTH on.
        HAS_RESIDUAL: whether there is something to add first.
        INTERPRETED: as for `round_to`.
    """
    sequence = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < WIDTH
    place = ((sequence + 1) * rows_each - 1) * WIDTH + column
    dtype = out_ptr.dtype.element_ty
    x = tl.load(hidden_ptr + place, mask=mask, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        x += tl.load(residual_ptr + place, mask=mask, other=0.0).to(tl.float32)
        x = round_to(x, dtype, INTERPRETED).to(tl.float32)
    # A product: how Triton divides differs between its versions.
    mean_square = tl.sum(x * x, 0) * (1.0 / WIDTH)
    x = round_to(x * tl.rsqrt(mean_square + epsilon), dtype, INTERPRETED).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + sequence * WIDTH + column, round_to(x * weight, dtype, INTERPRETED), mask=mask)


def launch_final_norm(out: Tensor, hidden: Tensor, norm: FinalNorm) -> Launch:
    """The launch that writes H into `out`.

    Args:
        out: [n, D] in the dtype of `hidden`, dense, as is all else.
        hidden: [n * rows, D].
        norm: The norm, whose tensors have the dtype of `hidden`.
    """
    n, width = out.shape
    block = triton.next_power_of_2(width)
    # Where there is no residual the kernel does not read one.
    residual = hidden if norm.residual is None else norm.residual
    return Launch(
        _norm_kernel,
        (n,),
        (out, hidden, residual, norm.weight, len(hidden) // n, norm.epsilon),
        {
            "WIDTH": width,
            "BLOCK": block,
            "HAS_RESIDUAL": norm.residual is not None,
            "INTERPRETED": kernels_are_interpreted(),
        },
        num_warps=max(4, min(16, block // 512)),
        num_stages=1,
    )


def final_norm_reference(hidden: Tensor, n: int, norm: FinalNorm) -> Tensor:
    """H of n sequences in plain PyTorch, rounded where the kernel rounds.

    Args:
        hidden: [n * rows, D].
        n: Sequences.
        norm: The norm.

    Returns:
        [n, D] in the dtype of `hidden`.
    """
    rows = len(hidden) // n
    x = hidden[rows - 1 :: rows]
    if norm.residual is not None:
        x = x + norm.residual[rows - 1 :: rows]
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(dim=1, keepdim=True) + norm.epsilon)
    return (wide * scale).to(x.dtype) * norm.weight
