"""Private KV scratch: what the attention layers of a PoC forward write instead of inference's cache.

Within one prefill a layer reads only what it has just written, so all layers of one cache shape share one
tensor of one layer's size. Layers that read another layer's cache (KV sharing) are the exception: their
target keeps its own.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hallmark.poc.core.errors import UnsupportedError

# vLLM's block 0 is the null block, which kernels may skip; sequences start at block 1.
FIRST_BLOCK = 1


def allocate_scratch(
    caches: Mapping[str, Tensor], sharing_targets: Mapping[str, str], blocks: Mapping[str, int]
) -> dict[str, Tensor]:
    """Allocate scratch for every layer, in the layout of its own cache.

    Args:
        caches: inference's cache of each layer, dimension 0 counting blocks. Only shape, dtype and strides
            are read.
        sharing_targets: for each layer that reads another layer's cache, that layer's name.
        blocks: for each layer, the number of blocks that sequences may use.

    Returns:
        For each layer a tensor of shape (`FIRST_BLOCK + blocks + 1`, *rest), dense in the stride order of its
        cache. The first and the last block are never named by a block table: tests put guard values there.

    Raises:
        UnsupportedError: a cache is not one plain tensor.
    """
    scratch: dict[str, Tensor] = {}
    shared: dict[tuple[object, ...], Tensor] = {}
    targets = set(sharing_targets.values())
    for name, cache in caches.items():
        if not isinstance(cache, Tensor) or cache.dim() < 2:
            raise UnsupportedError(
                f"PoC does not work with the cache of layer {name!r}: it is not one plain tensor"
            )
        owner = sharing_targets.get(name, name if name in targets else "")
        shape = (FIRST_BLOCK + blocks[name] + 1, *cache.shape[1:])
        order = _stride_order(cache)
        key = (shape, cache.dtype, order, owner)
        if key not in shared:
            shared[key] = _empty_in_order(shape, order, cache)
        scratch[name] = shared[key]
    return scratch


def scratch_bytes(scratch: Mapping[str, Tensor]) -> int:
    """Return the bytes held, each shared tensor counted once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in scratch.values()}.values())


def block_tables(batch_size: int, seq_len: int, block_size: int) -> tuple[Tensor, Tensor]:
    """Lay out `batch_size` sequences one after the other in scratch blocks.

    Returns:
        The block table, int32 `[batch_size, ceil(seq_len / block_size)]`, and the slot of each token, int64
        `[batch_size * seq_len]`, both on the CPU.
    """
    blocks_per_sequence = -(-seq_len // block_size)
    table = FIRST_BLOCK + torch.arange(batch_size * blocks_per_sequence, dtype=torch.int64)
    table = table.view(batch_size, blocks_per_sequence)
    position = torch.arange(seq_len, dtype=torch.int64)
    slots = table[:, position // block_size] * block_size + position % block_size
    return table.to(torch.int32), slots.reshape(-1)


def used_blocks(batch_size: int, seq_len: int, block_size: int) -> slice:
    """Return the blocks that `block_tables` names."""
    return slice(FIRST_BLOCK, FIRST_BLOCK + batch_size * -(-seq_len // block_size))


def _stride_order(cache: Tensor) -> tuple[int, ...]:
    """Return the dimensions from outermost to innermost in memory."""
    strides = cache.stride()
    return tuple(sorted(range(cache.dim()), key=lambda dim: (-strides[dim], dim)))


def _empty_in_order(shape: Sequence[int], order: Sequence[int], like: Tensor) -> Tensor:
    dense = torch.zeros([shape[dim] for dim in order], dtype=like.dtype, device=like.device)
    return dense.permute([order.index(dim) for dim in range(len(order))])
