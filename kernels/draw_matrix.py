"""Draw a projection: ``P[r, c] = bf16(fp32(scale) · z)``, element ``r·columns + c`` of its stream."""

import torch
from torch import Tensor

from hallmark.kernels.draw_normals import draw_normals, draw_normals_reference
from hallmark.kernels.normal_table import signed_table

__all__ = ["draw_matrix", "draw_matrix_reference"]


def draw_matrix(
    stream: Tensor, rows: int, columns: int, scale: float, device: torch.device | str | None = None
) -> Tensor:
    """Return one matrix; by a kernel where there is one for the device.

    Args:
        stream: int64 [4]: k0, k1, c2, c3.
        rows: Rows.
        columns: Columns.
        scale: Standard deviation of the elements.
        device: Where to draw; None is the CPU.

    Returns:
        bfloat16 [rows, columns], each element rounded once, to nearest even.

    Raises:
        ValueError: The matrix has 2**35 elements or more.
    """
    table = signed_table(scale, torch.bfloat16, device)
    drawn: Tensor = draw_normals(stream.to(table.device).view(1, 4), rows * columns, table)
    return drawn.view(rows, columns)


def draw_matrix_reference(
    stream: Tensor, rows: int, columns: int, scale: float, device: torch.device | str | None = None
) -> Tensor:
    """Return one matrix, in plain PyTorch; see `draw_matrix`."""
    table = signed_table(scale, torch.bfloat16, device)
    drawn = draw_normals_reference(stream.to(table.device).view(1, 4), rows * columns, table)
    return drawn.view(rows, columns)
