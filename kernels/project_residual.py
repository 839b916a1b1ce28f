"""The projection with its residual: ``round(X + X·P)``, accumulated wide, rounded once."""

import torch
from torch import Tensor

__all__ = ["project_residual_reference"]


def project_residual_reference(x: Tensor, p: Tensor, out_dtype: torch.dtype) -> Tensor:
    """``x + x @ p`` in plain PyTorch.

    Args:
        x: [..., D], floating point.
        p: [D, D], floating point.
        out_dtype: What the sum is rounded to, to nearest even; float32 keeps the accumulator.

    Returns:
        `out_dtype` [..., D].
    """
    # Products of bf16 numbers are exact in every mode that PyTorch has for float32 matrices, TF32 and the
    # CPU's bf16 mode included, so no process-wide switch has to be touched. Wider numbers are multiplied
    # in float64, which no such mode reaches.
    exact_in_float32 = x.dtype == p.dtype == torch.bfloat16
    accumulator = torch.float32 if exact_in_float32 else torch.float64
    rows = x.reshape(-1, x.shape[-1]).to(accumulator)
    total = torch.addmm(rows, rows, p.to(accumulator)).to(torch.float32)
    return total.to(out_dtype).view(x.shape)
