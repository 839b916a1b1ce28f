"""Draw the elements of streams: what `draw_embeddings` and `draw_matrix` are made of.

Call q of a stream is Philox with counter (q, 0, c2, c3) and key (k0, k1); its four words are eight halves,
low half first; element e is half ``e mod 8`` of call ``e div 8``, looked up in the table.
"""

from collections.abc import Iterable, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from hallmark.kernels.draw_words import draw_calls
from hallmark.kernels.launch import Launch, dense
from hallmark.kernels.path import KernelPath, kernel_path
from hallmark.kernels.philox import random_words

__all__ = [
    "STREAM_ELEMENTS",
    "draw_normals",
    "draw_normals_reference",
    "launch_draw_normals",
    "stream_words",
    "streams_tensor",
    "table_indices",
]

STREAM_ELEMENTS = 2**35
"""A stream has fewer elements than this: the counter's first word does not carry into the second."""

# PyTorch splits elementwise work between threads from half of this on; the buffers of a thread, about 5 MB,
# still come from the caches.
_CALLS_PER_THREAD = 2**16

# A program's 1,024 calls are 8 a thread: the table's way into shared memory is then a fortieth of its work.
_CALLS_PER_PROGRAM = 1024
_NUM_WARPS = 4

_TABLE_ENTRIES = tl.constexpr(2048)
_INDEX_BITS = tl.constexpr(0x7FF)
_SIGN_BIT = tl.constexpr(0x8000)


def streams_tensor(streams: Iterable[Sequence[int]]) -> Tensor:
    """Put streams into the form that is drawn from: int64 [n, 4] on the CPU, columns k0, k1, c2, c3."""
    return torch.tensor([tuple(stream) for stream in streams], dtype=torch.int64).reshape(-1, 4)


@triton.jit
def stream_words(
    call: tl.tensor, k0: tl.tensor, k1: tl.tensor, c2: tl.tensor, c3: tl.tensor, WORDS: tl.constexpr
) -> tl.tensor:
    """Return the words of calls, in the stream's order.

    Args:
        call: uint32, any shape; row after row of it makes the result.
        k0: uint32, of a shape that broadcasts to that of `call`, as are the other three.
        k1: The key's second word.
        c2: The counter's third word.
        c3: Its last.
        WORDS: four times the number of calls.

    Returns:
        uint32 [WORDS].
    """
    zero = tl.zeros_like(call)
    w0, w1, w2, w3 = random_words(call, zero, zero + c2, zero + c3, zero + k0, zero + k1)
    return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), [WORDS])


@triton.jit
def table_indices(words: tl.tensor, WORDS: tl.constexpr) -> tl.tensor:
    """Return where the table has the entries of the words' halves: int32 [2 · WORDS]."""
    low = words & _INDEX_BITS
    high = (words >> 16) & _INDEX_BITS
    return tl.reshape(tl.join(low, high), [2 * WORDS]).to(tl.int32)


@triton.jit(do_not_specialize=["calls"])  # one compilation serves every batch shape
def _draw_normals_kernel(
    out_ptr: tl.tensor,
    streams_ptr: tl.tensor,
    table_ptr: tl.tensor,
    calls: tl.tensor,
    CALLS: tl.constexpr,
    BITS: tl.constexpr,
) -> None:
    """out[stream, 8·call + j] = table[half j of the call's words], with the half's sign.

    The table is gathered from shared memory: from global memory its entries would be some 20 cache lines a
    warp. 16-bit elements leave in pairs, as the words came, so that a thread stores 16 bytes at once.

    Args:
        out_ptr: int32, the elements' bits, two of them in one where they have 16.
        streams_ptr: int64 [n, 4].
        table_ptr: int16 or int32 [2048], the bits of the positive entries.
        calls: of each stream.
        CALLS: calls of one program.
        BITS: of an element.
    """
    # Rounded up without a sum that could be too large.
    blocks = (calls - 1) // CALLS + 1
    stream = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    name = streams_ptr + stream * 4
    k0 = tl.load(name).to(tl.uint32)
    k1 = tl.load(name + 1).to(tl.uint32)
    c2 = tl.load(name + 2).to(tl.uint32)
    c3 = tl.load(name + 3).to(tl.uint32)
    # The counter is 32 bits and wraps; places in memory do not.
    done = block.to(tl.int64) * CALLS
    call = done.to(tl.uint32) + tl.arange(0, CALLS).to(tl.uint32)
    words = stream_words(call, k0, k1, c2, c3, 4 * CALLS)
    table = tl.load(table_ptr + tl.arange(0, _TABLE_ENTRIES))
    entries = tl.gather(table, table_indices(words, 4 * CALLS), 0)
    if BITS == 16:
        low, high = tl.split(tl.reshape(entries.to(tl.uint16, bitcast=True), [4 * CALLS, 2]))
        signs = words & (_SIGN_BIT << 16 | _SIGN_BIT)
        bits = low.to(tl.uint32) | (high.to(tl.uint32) << 16) | signs
    else:
        signs = tl.join((words & _SIGN_BIT) << 16, words & (_SIGN_BIT << 16))
        bits = entries.to(tl.uint32, bitcast=True) | tl.reshape(signs, [8 * CALLS])
    PER_CALL: tl.constexpr = BITS // 4
    first = out_ptr + (stream.to(tl.int64) * calls + done) * PER_CALL
    place = tl.arange(0, PER_CALL * CALLS)
    left = tl.minimum(calls - done, CALLS).to(tl.int32)
    tl.store(first + place, bits.to(tl.int32, bitcast=True), mask=place < left * PER_CALL)


def launch_draw_normals(out: Tensor, streams: Tensor, table: Tensor) -> Launch:
    """Return the launch that draws into `out`.

    Args:
        out: [n, elements] in the table's dtype, dense, as is all else.
        streams: int64 [n, 4].
        table: As for `draw_normals`.

    Raises:
        ValueError: `elements` is not a multiple of 16 below 2**35, or zero.
    """
    elements = out.shape[1]
    if elements % 16 or not 0 < elements < STREAM_ELEMENTS:
        raise ValueError(
            f"elements: {elements} is not allowed; allowed: multiples of 16 below {STREAM_ELEMENTS}"
        )
    bits = table.element_size() * 8
    calls = elements // 8
    return Launch(
        _draw_normals_kernel,
        (len(streams) * triton.cdiv(calls, _CALLS_PER_PROGRAM),),
        (
            out.view(torch.int32),
            streams,
            table[: _TABLE_ENTRIES.value].view(torch.int16 if bits == 16 else torch.int32),
            calls,
        ),
        {"CALLS": _CALLS_PER_PROGRAM, "BITS": bits},
        num_warps=_NUM_WARPS,
        num_stages=1,
    )


@torch.library.custom_op("hallmark::draw_normals", mutates_args=())
def draw_normals(streams: Tensor, elements: int, table: Tensor) -> Tensor:
    """The first `elements` elements of each stream; by a kernel where there is one for the table's device.

    Args:
        streams: int64 [n, 4]: k0, k1, c2, c3 of each stream, on the table's device.
        elements: How many.
        table: The value of each of the 65,536 half words: bfloat16, float16 or float32 (`signed_table`).

    Returns:
        [n, elements] in the table's dtype, on its device.

    Raises:
        ValueError: `elements` is negative or 2**35 or more.
    """
    return draw_normals_reference(streams, elements, table)


@draw_normals.register_kernel("cuda")
def _(streams: Tensor, elements: int, table: Tensor) -> Tensor:
    path = kernel_path(table.device, elements, most=STREAM_ELEMENTS - 1)
    if path is KernelPath.REFERENCE or not streams.numel():
        return draw_normals_reference(streams, elements, table)
    drawn = torch.empty((len(streams), elements), dtype=table.dtype, device=table.device)
    launch_draw_normals(drawn, dense(streams), dense(table)).run()
    return drawn


@draw_normals.register_fake
def _(streams: Tensor, elements: int, table: Tensor) -> Tensor:
    return table.new_empty((streams.shape[0], elements))


def draw_normals_reference(streams: Tensor, elements: int, table: Tensor) -> Tensor:
    """Return the first `elements` elements of each stream, in plain PyTorch; see `draw_normals`."""
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
            words = draw_calls(some, call, min(call + calls_per_tile, calls))
            into = drawn[stream : stream + streams_per_tile, call * 8 : (call + calls_per_tile) * 8]
            halves = _halves(words)[:, : into.shape[1]]
            torch.index_select(table, 0, halves.reshape(-1), out=into.view(-1))
    return drawn


def _halves(words: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Return the words' halves in order: int32 [n, 8·calls], 0 to 65,535."""
    packed = torch.empty((*words[0].shape, 4), dtype=torch.int32, device=words[0].device)
    for place, word in enumerate(words):
        packed[..., place] = word  # keeps the low 32 bits
    # Every platform that PyTorch runs on is little-endian: the low half comes first.
    return packed.view(torch.uint16).to(torch.int32).flatten(1)
