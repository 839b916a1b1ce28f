"""Draw the elements of streams, the reference that both `draw_embeddings` and `draw_matrix` are made of.

Call q of a stream is Philox with counter (q, 0, c2, c3) and key (k0, k1); its four words are eight halves,
low half first; element e is half ``e mod 8`` of call ``e div 8``, looked up in the table.
"""

import torch
from torch import Tensor

from hallmark.kernels.philox import philox4x32

__all__ = ["STREAM_ELEMENTS", "draw_normals_reference"]

STREAM_ELEMENTS = 2**35
"""A stream has fewer elements than this: the counter's first word does not carry into the second."""

# PyTorch splits elementwise work between threads from half of this on; the buffers of a thread, about 5 MB,
# still come from the caches.
_CALLS_PER_THREAD = 2**16


def draw_normals_reference(streams: Tensor, elements: int, table: Tensor) -> Tensor:
    """The first `elements` elements of each stream.

    Args:
        streams: int64 [n, 4]: k0, k1, c2, c3 of each stream, on the table's device.
        elements: How many.
        table: The value of each of the 65,536 half words, any dtype (`signed_table`).

    Returns:
        [n, elements] in the table's dtype, on its device.

    Raises:
        ValueError: `elements` is negative or 2**35 or more.
    """
    if not 0 <= elements < STREAM_ELEMENTS:
        raise ValueError(f"elements: {elements} is not allowed; allowed: 0 to {STREAM_ELEMENTS - 1}")
    drawn = torch.empty((len(streams), elements), dtype=table.dtype, device=table.device)
    calls = -(-elements // 8)
    # A tile is a run of calls of one stream, or all calls of several short streams.
    tile = _CALLS_PER_THREAD * torch.get_num_threads()
    calls_per_tile = max(1, min(calls, tile))
    streams_per_tile = tile // calls_per_tile
    for stream in range(0, len(streams), streams_per_tile):
        some = streams[stream : stream + streams_per_tile]
        for call in range(0, calls, calls_per_tile):
            words = _random_words(some, call, min(call + calls_per_tile, calls))
            into = drawn[stream : stream + streams_per_tile, call * 8 : (call + calls_per_tile) * 8]
            halves = _halves(words)[:, : into.shape[1]]
            torch.index_select(table, 0, halves.reshape(-1), out=into.view(-1))
    return drawn


def _random_words(streams: Tensor, start: int, end: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Calls `start` to `end` of each stream: four int64 [n, end − start]."""
    calls = torch.arange(start, end, device=streams.device)
    key0, key1, c2, c3 = (column.unsqueeze(1) for column in streams.unbind(1))
    return philox4x32((calls, torch.zeros_like(c2), c2, c3), (key0, key1))


def _halves(words: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """The words' halves in order: int32 [n, 8·calls], 0 to 65,535."""
    packed = torch.empty((*words[0].shape, 4), dtype=torch.int32, device=words[0].device)
    for place, word in enumerate(words):
        packed[..., place] = word  # keeps the low 32 bits
    # Every platform that PyTorch runs on is little-endian: the low half comes first.
    return packed.view(torch.uint16).to(torch.int32).flatten(1)
