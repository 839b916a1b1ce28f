"""The model's input in one kernel: rows of its embedding table, projected, ``round(E[τ] + E[τ]·P)``.

The rows are loaded by their tokens where the product needs them: no embeddings are written to be read again.
"""

import torch
from torch import Tensor

from hallmark.kernels.launch import dense
from hallmark.kernels.path import KernelPath, kernel_path
from hallmark.kernels.project_residual import launch_project_residual, project_residual_reference
from hallmark.kernels.tiles import KERNEL_DTYPES

__all__ = ["embed_project", "embed_project_reference"]


_ROWS_OF_A_TILE = 64


@torch.library.custom_op("hallmark::embed_project", mutates_args=())
def embed_project(
    table: Tensor, tokens: Tensor, p_pre: Tensor, places: Tensor | None = None, rows: int | None = None
) -> Tensor:
    """The inputs of a batch; by a kernel where there is one for the device, the dtypes and the width.

    Args:
        table: [V, D], the embedding table, or a rank's shard of it.
        tokens: int64 [m]: rows of `table`, each below V. They are read when the kernel runs.
        p_pre: bfloat16 [D, D].
        places: int64 [m]: which row of the result each token's is; None where all of them are there in their
            order.
        rows: How many rows the result has, where `places` says which ones they are.

    Returns:
        [rows, D], [m, D] without `places`, in the table's dtype; zeros in the rows that `places` leaves out.
    """
    return embed_project_reference(table, tokens, p_pre, places, rows)


@embed_project.register_kernel("cuda")
def _(
    table: Tensor, tokens: Tensor, p_pre: Tensor, places: Tensor | None = None, rows: int | None = None
) -> Tensor:
    width = table.shape[1]
    if places is not None and not tokens.numel():
        return table.new_zeros((rows or 0, width))
    has_kernel = table.dtype in KERNEL_DTYPES and p_pre.dtype == torch.bfloat16 and tokens.numel() > 0
    if kernel_path(table.device, width) is KernelPath.REFERENCE or not has_kernel:
        return embed_project_reference(table, tokens, p_pre, places, rows)
    if places is None:
        out = table.new_empty((len(tokens), width))
    else:
        out, places = table.new_zeros((rows or 0, width)), dense(places)
    launch_project_residual(out, dense(table), dense(p_pre), gather=dense(tokens), scatter=places).run()
    return out


@embed_project.register_fake
def _(
    table: Tensor, tokens: Tensor, p_pre: Tensor, places: Tensor | None = None, rows: int | None = None
) -> Tensor:
    return table.new_empty((tokens.shape[0] if places is None else rows or 0, table.shape[1]))


def embed_project_reference(
    table: Tensor, tokens: Tensor, p_pre: Tensor, places: Tensor | None = None, rows: int | None = None
) -> Tensor:
    """Return the inputs of a batch in plain PyTorch; see `embed_project`."""
    if places is None:
        return project_residual_reference(table[tokens], p_pre, table.dtype)
    # Libraries for CPUs add in another order where a few rows are left over. How many tokens a rank has
    # differs from batch to batch; a row's bits must not.
    whole = torch.nn.functional.pad(tokens, (0, -len(tokens) % _ROWS_OF_A_TILE))
    projected = project_residual_reference(table[whole], p_pre, table.dtype)[: len(tokens)]
    return table.new_zeros((rows or 0, table.shape[1])).index_copy_(0, places, projected)
