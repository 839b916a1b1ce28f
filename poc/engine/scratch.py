"""Private scratch: what the layers of a PoC forward write instead of inference's caches and states.

Within one prefill a layer reads only what it has just written, so all layers of one form share tensors of one
layer's size. Layers that read another layer's cache (KV sharing) are the exception: their target keeps its
own.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

# vLLM's block 0 is the null block, which kernels may skip; sequences start at block 1.
FIRST_BLOCK = 1


def allocate_scratch(
    caches: Mapping[str, Sequence[Tensor]],
    sharing_targets: Mapping[str, str],
    blocks: Mapping[str, int],
    device: torch.device | None = None,
) -> dict[str, tuple[Tensor, ...]]:
    """Allocate scratch for every layer, in the layout of its own cache or states.

    Args:
        caches: inference's cache of each layer, or its states, dimension 0 counting blocks. Only shapes,
            dtypes and strides are read.
        sharing_targets: for each layer that reads another layer's cache, that layer's name.
        blocks: for each layer, the number of blocks that sequences may use.
        device: where; None is where a cache is.

    Returns:
        For each layer tensors of shape (`FIRST_BLOCK + blocks + 1`, *rest), dense in the stride order of its
        own. The first and the last block are never named by a block table: tests put guard values there.
    """
    scratch: dict[str, tuple[Tensor, ...]] = {}
    shared: dict[tuple[object, ...], tuple[Tensor, ...]] = {}
    targets = set(sharing_targets.values())
    for name, cache in caches.items():
        owner = sharing_targets.get(name, name if name in targets else "")
        count = FIRST_BLOCK + blocks[name] + 1
        key = (owner, count, *((part.shape[1:], part.dtype, _stride_order(part)) for part in cache))
        if key not in shared:
            shared[key] = tuple(_zeros_like(part, count, device) for part in cache)
        scratch[name] = shared[key]
    return scratch


def scratch_bytes(scratch: Iterable[Sequence[Tensor]]) -> int:
    """Return the bytes of some layers' scratch, each shared tensor counted once."""
    return sum({id(tensor): tensor.nbytes for tensors in scratch for tensor in tensors}.values())


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


def _zeros_like(cache: Tensor, blocks: int, device: torch.device | None) -> Tensor:
    """Return zeros in a cache's layout, dense, with another number of blocks."""
    shape, order = (blocks, *cache.shape[1:]), _stride_order(cache)
    dense = torch.zeros([shape[dim] for dim in order], dtype=cache.dtype, device=device or cache.device)
    return dense.permute([order.index(dim) for dim in range(len(order))])
