"""Draw the inputs of nonces: ``X[i, r, c] = z · scale``, element ``r·columns + c`` of stream i."""

from torch import Tensor

from hallmark.kernels.draw_normals import draw_normals, draw_normals_reference

__all__ = ["draw_embeddings", "draw_embeddings_reference"]


def draw_embeddings(streams: Tensor, rows: int, columns: int, table: Tensor) -> Tensor:
    """Return one matrix for each stream; by a kernel where there is one for the table's device.

    Args:
        streams: int64 [n, 4]: k0, k1, c2, c3 of each stream, on the table's device.
        rows: Rows of a matrix, e.g. the sequence length.
        columns: Columns of a matrix, e.g. the hidden size.
        table: The value of each of the 65,536 half words, scale included (`signed_table`).

    Returns:
        [n, rows, columns] in the table's dtype, on its device.

    Raises:
        ValueError: A matrix has 2**35 elements or more.
    """
    drawn: Tensor = draw_normals(streams, rows * columns, table)
    return drawn.view(-1, rows, columns)


def draw_embeddings_reference(streams: Tensor, rows: int, columns: int, table: Tensor) -> Tensor:
    """Return one matrix for each stream, in plain PyTorch; see `draw_embeddings`."""
    return draw_normals_reference(streams, rows * columns, table).view(-1, rows, columns)
