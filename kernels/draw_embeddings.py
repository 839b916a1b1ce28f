"""Draw the inputs of nonces: ``X[i, r, c] = z · scale``, element ``r·columns + c`` of stream i."""

import torch
from torch import Tensor

from hallmark.kernels.draw_normals import draw_normals_reference
from hallmark.kernels.normal_table import signed_table

__all__ = ["draw_embeddings_reference"]


def draw_embeddings_reference(
    streams: Tensor,
    rows: int,
    columns: int,
    scale: float,
    dtype: torch.dtype,
    device: torch.device | str | None = None,
) -> Tensor:
    """One matrix for each stream, in plain PyTorch.

    Args:
        streams: int64 [n, 4]: k0, k1, c2, c3 of each stream.
        rows: Rows of a matrix, e.g. the sequence length.
        columns: Columns of a matrix, e.g. the hidden size.
        scale: A power of two. The product is exact, and rounded to nearest even where `dtype` cannot hold
            it, as float16's subnormal numbers cannot.
        dtype: bfloat16, float16 or float32.
        device: Where to draw; None is the CPU.

    Returns:
        `dtype` [n, rows, columns].
    """
    table = signed_table(scale, dtype, device)
    return draw_normals_reference(streams.to(table.device), rows * columns, table).view(-1, rows, columns)
