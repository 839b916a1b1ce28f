"""The model's input in one call: draw ``X`` and project it, ``round(X + X·P)``.

Two kernels, not one: drawn where the product needs it, every element would be drawn again for each block of
columns.
"""

from torch import Tensor

from hallmark.kernels.draw_embeddings import draw_embeddings, draw_embeddings_reference
from hallmark.kernels.project_residual import project_residual, project_residual_reference

__all__ = ["embed_project", "embed_project_reference"]


def embed_project(streams: Tensor, rows: int, columns: int, table: Tensor, p_pre: Tensor | None) -> Tensor:
    """The inputs of a batch; by kernels where there are some for the table's device.

    Args:
        streams: int64 [n, 4]: k0, k1, c2, c3 of each nonce's stream, on the table's device. It is read when
            the kernels run, so that a captured graph draws what the tensor holds at its replay.
        rows: The sequence length.
        columns: The hidden size.
        table: The value of each of the 65,536 half words, scale included (`signed_table`).
        p_pre: bfloat16 [columns, columns]; None where the projection is off.

    Returns:
        [n, rows, columns] in the table's dtype.
    """
    drawn = draw_embeddings(streams, rows, columns, table)
    if p_pre is None:
        return drawn
    projected: Tensor = project_residual(drawn, p_pre, drawn.dtype)
    return projected


def embed_project_reference(
    streams: Tensor, rows: int, columns: int, table: Tensor, p_pre: Tensor | None
) -> Tensor:
    """The inputs of a batch in plain PyTorch; see `embed_project`."""
    drawn = draw_embeddings_reference(streams, rows, columns, table)
    return drawn if p_pre is None else project_residual_reference(drawn, p_pre, drawn.dtype)
