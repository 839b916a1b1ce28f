"""The random projections of a block: light layers around a model whose weights stay as they are."""

import torch
from torch import nn

from hallmark.kernels.draw_matrix import draw_matrix
from hallmark.kernels.draw_normals import streams_tensor
from hallmark.poc.core.checks import check_integer
from hallmark.poc.protocol.streams import post_stream, pre_stream

__all__ = ["RandomProjection"]


class RandomProjection(nn.Module):
    """The pair of projections that a block hash seeds, each a residual ``x + x @ P``.

    The matrices are drawn from the protocol's streams, so that every machine has the same bits. They hold
    ``2·dim²`` bf16 numbers, 4·dim² bytes: 4 MiB at width 1,024, 64 MiB at 4,096, 1 GiB at 16,384.

    `.to(device)` moves them. Of the dtypes that `.to(dtype)` knows, only those as wide as bf16 or wider keep
    the protocol's values.

    Args:
        block_seed: The block hash; an integer stands for its decimal text.
        dim: Width of the model's hidden state.
        scale: Standard deviation of the matrices' elements.
        device: Where the matrices are drawn; None is the CPU.

    Attributes:
        pre_proj: bf16 [dim, dim], frozen.
        post_proj: bf16 [dim, dim], frozen.

    Raises:
        FieldError: `dim` is less than 1.
    """

    def __init__(
        self,
        block_seed: int | str,
        dim: int,
        scale: float = 0.01,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_integer("dim", dim, least=1)
        block_hash = str(block_seed)
        pre, post = streams_tensor((pre_stream(block_hash), post_stream(block_hash)))
        self.pre_proj = nn.Parameter(draw_matrix(pre, dim, dim, scale, device), requires_grad=False)
        self.post_proj = nn.Parameter(draw_matrix(post, dim, dim, scale, device), requires_grad=False)

    @property
    def memory_bytes(self) -> int:
        """What the pair holds, in bytes."""
        return sum(matrix.nbytes for matrix in (self.pre_proj, self.post_proj))
