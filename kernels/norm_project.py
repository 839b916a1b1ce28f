"""From final hidden states to the numbers of nonces: the last op of a batch.

``S = norm_sums(hidden)``, ``H' = S + S·P_post``, ``c = √D · ⟨H', z⟩ / (‖H'‖·‖z‖)``. Three launches: the
signed sums; the parts of the three products that a block of columns has, its share of the targets z drawn on
the spot; the sums of the parts, in fixed order, and c.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from hallmark.kernels.draw_embeddings import draw_embeddings_reference
from hallmark.kernels.draw_normals import stream_words, table_indices
from hallmark.kernels.final_norm import FinalNorm
from hallmark.kernels.launch import Launch, dense, kernels_are_interpreted
from hallmark.kernels.norm_sums import norm_sums, norm_sums_reference
from hallmark.kernels.numbers import numbers_reference
from hallmark.kernels.path import KernelPath, kernel_path
from hallmark.kernels.project_residual import add_products
from hallmark.kernels.tiles import (
    KERNEL_DTYPES,
    NORM_PROJECT_TILES,
    Architecture,
    architecture_of,
    height_of,
    shape_of,
)

__all__ = [
    "launch_project_numbers",
    "norm_project",
    "norm_project_reference",
    "project_numbers",
]

_NUMBERS_AT_ONCE = 16
_TABLE_ENTRIES = tl.constexpr(2048)
_SIGN_BIT = tl.constexpr(0x8000)


@triton.jit(do_not_specialize=["rows", "numbers"])  # one compilation serves every batch shape
def _project_kernel(
    parts_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    p_ptr: tl.tensor,
    streams_ptr: tl.tensor,
    table_ptr: tl.tensor,
    rows: tl.tensor,
    numbers: tl.tensor,
    WIDTH: tl.constexpr,
    COLUMN_BLOCKS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HAS_PROJECTION: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    """``parts[row, :, b]`` = ‖H'‖², ⟨H', z⟩ and ‖z‖² of a row over the columns of block b.

    Args:
        parts_ptr: float64 [rows, 3, COLUMN_BLOCKS].
        sums_ptr: [rows, WIDTH].
        p_ptr: bf16 [WIDTH, WIDTH].
        streams_ptr: int64 [rows / numbers, 4], the nonces' streams of their targets.
        table_ptr: int16 [2048], the bits of the bf16 entries.
        rows: one for each number of each nonce.
        numbers: of a nonce.
        WIDTH: a multiple of 16.
        COLUMN_BLOCKS: programs that share a row.
        BLOCK_M: rows of a program's tile.
        BLOCK_N: its columns.
        BLOCK_K: products added in one step.
        HAS_PROJECTION: whether H' is anything but S; p_ptr is read only then.
        INTERPRETED: as for `add_products`.
    """
    block = tl.program_id(0)
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = block * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    row_mask = (row < rows)[:, None]
    column_mask = (column < WIDTH)[None, :]
    sums_rows = sums_ptr + (row.to(tl.int64) * WIDTH)[:, None]
    y = tl.load(sums_rows + column[None, :], mask=row_mask & column_mask, other=0.0).to(tl.float32)
    if HAS_PROJECTION:
        s_ptrs = sums_rows + k[None, :]
        p_ptrs = p_ptr + k[:, None] * WIDTH + column[None, :]
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, WIDTH, BLOCK_K):
            if WIDTH % BLOCK_K == 0:
                s = tl.load(s_ptrs, mask=row_mask, other=0.0)
                p = tl.load(p_ptrs, mask=column_mask, other=0.0)
            else:
                inside = k < WIDTH - start
                s = tl.load(s_ptrs, mask=row_mask & inside[None, :], other=0.0)
                p = tl.load(p_ptrs, mask=column_mask & inside[:, None], other=0.0)
            total = add_products(total, s, p, INTERPRETED)
            s_ptrs += BLOCK_K
            p_ptrs += BLOCK_K * WIDTH
        y += total

    # A nonce's targets follow each other in its stream, and WIDTH is whole calls of 8 elements.
    name = streams_ptr + (row // numbers) * 4
    k0 = tl.load(name, mask=row < rows, other=0).to(tl.uint32)[:, None]
    k1 = tl.load(name + 1, mask=row < rows, other=0).to(tl.uint32)[:, None]
    c2 = tl.load(name + 2, mask=row < rows, other=0).to(tl.uint32)[:, None]
    c3 = tl.load(name + 3, mask=row < rows, other=0).to(tl.uint32)[:, None]
    call = (row % numbers * (WIDTH // 8))[:, None] + (block * (BLOCK_N // 8) + tl.arange(0, BLOCK_N // 8))[
        None, :
    ]
    WORDS: tl.constexpr = BLOCK_M * BLOCK_N // 2
    words = stream_words(call.to(tl.uint32), k0, k1, c2, c3, WORDS)
    table = tl.load(table_ptr + tl.arange(0, _TABLE_ENTRIES))
    entries = tl.gather(table, table_indices(words, WORDS), 0).to(tl.uint16, bitcast=True).to(tl.uint32)
    signs = tl.reshape(tl.join(words & _SIGN_BIT, (words >> 16) & _SIGN_BIT), [BLOCK_M * BLOCK_N])
    z = ((entries | signs) << 16).to(tl.float32, bitcast=True)

    # Squares of fp32 numbers are exact in float64, and cannot overflow there.
    y64 = tl.where(column_mask, y, 0.0).to(tl.float64)
    z64 = tl.where(column_mask, tl.reshape(z, [BLOCK_M, BLOCK_N]), 0.0).to(tl.float64)
    part = parts_ptr + row.to(tl.int64) * (3 * COLUMN_BLOCKS) + block
    tl.store(part, tl.sum(y64 * y64, 1), mask=row < rows)
    tl.store(part + COLUMN_BLOCKS, tl.sum(y64 * z64, 1), mask=row < rows)
    tl.store(part + 2 * COLUMN_BLOCKS, tl.sum(z64 * z64, 1), mask=row < rows)


@triton.jit(do_not_specialize=["numbers"])
def _numbers_kernel(
    out_ptr: tl.tensor,
    parts_ptr: tl.tensor,
    largest: tl.tensor,
    numbers: tl.tensor,
    AT_ONCE: tl.constexpr,
    COLUMN_BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The numbers of one nonce from the parts of its rows, added in fixed order; one program a nonce.

    Args:
        out_ptr: float64 [n, numbers]; NaN in the whole row where one of its H' is not finite or is zero.
        parts_ptr: float64 [n * numbers, 3, COLUMN_BLOCKS].
        largest: √D.
        numbers: of a nonce.
        AT_ONCE: numbers computed in one step.
        COLUMN_BLOCKS: of the parts.
        BLOCK: a power of two from COLUMN_BLOCKS on.
    """
    nonce = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCK)
    failures = tl.zeros((AT_ONCE,), dtype=tl.int32)
    first = 0
    while first < numbers:
        number = first + tl.arange(0, AT_ONCE)
        mask = (number < numbers)[:, None] & (block < COLUMN_BLOCKS)[None, :]
        part = parts_ptr + ((nonce * numbers + number) * (3 * COLUMN_BLOCKS))[:, None] + block[None, :]
        y_square = tl.sum(tl.load(part, mask=mask, other=0.0), 1)
        product = tl.sum(tl.load(part + COLUMN_BLOCKS, mask=mask, other=0.0), 1)
        z_square = tl.sum(tl.load(part + 2 * COLUMN_BLOCKS, mask=mask, other=0.0), 1)
        norms = tl.sqrt(y_square) * tl.sqrt(z_square)
        cosine = product / tl.where(number < numbers, norms, 1.0)
        # Rounding may take a cosine a little past ±1. Both comparisons are false for NaN, which stays.
        cosine = tl.where(cosine > 1.0, 1.0, cosine)
        cosine = tl.where(cosine < -1.0, -1.0, cosine)
        failures += (cosine != cosine).to(tl.int32)
        tl.store(out_ptr + nonce * numbers + number, cosine * largest, mask=number < numbers)
        first += AT_ONCE
    if tl.sum(failures, 0) > 0:
        first = 0
        while first < numbers:
            number = first + tl.arange(0, AT_ONCE)
            nothing = tl.full((AT_ONCE,), float("nan"), dtype=tl.float64)
            tl.store(out_ptr + nonce * numbers + number, nothing, mask=number < numbers)
            first += AT_ONCE


def launch_project_numbers(
    out: Tensor,
    sums: Tensor,
    p_post: Tensor | None,
    streams: Tensor,
    table: Tensor,
    architecture: Architecture | None = None,
) -> tuple[Launch, Launch]:
    """Return the launches, in their order, that write the numbers of signed sums into `out`.

    Args:
        out: float64 [n, k], dense, as is all else.
        sums: [n, k, D], bfloat16 or float32.
        p_post: As for `norm_project`.
        streams: int64 [n, 4].
        table: As for `norm_project`.
        architecture: Whose tiles are used; None: those of the device.

    Raises:
        ValueError: D is not a multiple of 16.
    """
    n, numbers, width = sums.shape
    if width % 16:
        raise ValueError(f"width: {width} is not allowed; allowed: multiples of 16")
    rows = n * numbers
    chip = architecture or architecture_of(sums.device)
    tile = NORM_PROJECT_TILES[chip, sums.dtype, shape_of(width), height_of(rows)]
    column_blocks = triton.cdiv(width, tile.n)
    parts = torch.empty((rows, 3, column_blocks), dtype=torch.float64, device=sums.device)
    return (
        Launch(
            _project_kernel,
            (column_blocks, triton.cdiv(rows, tile.m)),
            (
                parts,
                sums,
                # Without a projection the kernel does not read P.
                sums if p_post is None else p_post,
                streams,
                table[: _TABLE_ENTRIES.value].view(torch.int16),
                rows,
                numbers,
            ),
            {
                "WIDTH": width,
                "COLUMN_BLOCKS": column_blocks,
                "BLOCK_M": tile.m,
                "BLOCK_N": tile.n,
                "BLOCK_K": tile.k,
                "HAS_PROJECTION": p_post is not None,
                "INTERPRETED": kernels_are_interpreted(),
            },
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        ),
        Launch(
            _numbers_kernel,
            (n,),
            (out, parts, math.sqrt(width), numbers),
            {
                "AT_ONCE": _NUMBERS_AT_ONCE,
                "COLUMN_BLOCKS": column_blocks,
                "BLOCK": triton.next_power_of_2(column_blocks),
            },
            num_warps=8,
            num_stages=1,
        ),
    )


def norm_project(
    hidden: Tensor,
    norm: FinalNorm | None,
    order: Tensor,
    numbers: int,
    p_post: Tensor | None,
    streams: Tensor,
    table: Tensor,
) -> Tensor:
    """Return the numbers of a batch; by kernels where there are some for the device, the dtype and the width.

    Args:
        hidden: [n * rows, D] in the model's dtype: what the model's own final norm returned, or what it would
            have been given.
        norm: The final norm where it is still to be applied, which is then done to the rows that are read.
        order: int32 [n, read], the rows of each nonce that are read, as for `norm_sums`.
        numbers: k, how many numbers a nonce has.
        p_post: bfloat16 [D, D]; None where the projection is off.
        streams: int64 [n, 4]: k0, k1, c2, c3 of each nonce's targets. They are read when the kernels run.
        table: The value of each of the 65,536 half words at scale 1: bfloat16 (`signed_table`).

    Returns:
        float64 [n, k], from −√D to √D; NaN in the whole row where one of its numbers is not finite or one of
        its H' is zero: the nonce failed.
    """
    found: Tensor = project_numbers(norm_sums(hidden, norm, order, numbers), p_post, streams, table)
    return found


@torch.library.custom_op("hallmark::project_numbers", mutates_args=())
def project_numbers(sums: Tensor, p_post: Tensor | None, streams: Tensor, table: Tensor) -> Tensor:
    """The numbers of signed sums; by kernels where there are some for the device, the dtype and the width.

    Args:
        sums: [n, k, D], as of `norm_sums`.
        p_post: As for `norm_project`, as is all else.
        streams: int64 [n, 4].
        table: bfloat16.

    Returns:
        float64 [n, k], as of `norm_project`.
    """
    return _project_numbers_reference(sums, p_post, streams, table)


@project_numbers.register_kernel("cuda")
def _(sums: Tensor, p_post: Tensor | None, streams: Tensor, table: Tensor) -> Tensor:
    in_bf16 = all(t is None or t.dtype == torch.bfloat16 for t in (p_post, table))
    has_kernel = sums.dtype in KERNEL_DTYPES and in_bf16 and sums.numel() > 0
    if kernel_path(sums.device, sums.shape[2]) is KernelPath.REFERENCE or not has_kernel:
        return _project_numbers_reference(sums, p_post, streams, table)
    out = sums.new_empty(sums.shape[:2], dtype=torch.float64)
    p = None if p_post is None else dense(p_post)
    for launch in launch_project_numbers(out, dense(sums), p, dense(streams), dense(table)):
        launch.run()
    return out


@project_numbers.register_fake
def _(sums: Tensor, p_post: Tensor | None, streams: Tensor, table: Tensor) -> Tensor:
    return sums.new_empty(sums.shape[:2], dtype=torch.float64)


def _project_numbers_reference(sums: Tensor, p_post: Tensor | None, streams: Tensor, table: Tensor) -> Tensor:
    _, numbers, width = sums.shape
    return numbers_reference(sums, draw_embeddings_reference(streams, numbers, width, table), p_post)


def norm_project_reference(
    hidden: Tensor,
    norm: FinalNorm | None,
    order: Tensor,
    numbers: int,
    p_post: Tensor | None,
    streams: Tensor,
    table: Tensor,
) -> Tensor:
    """Return the numbers of a batch in plain PyTorch; see `norm_project`."""
    sums = norm_sums_reference(hidden, norm, order, numbers)
    return _project_numbers_reference(sums, p_post, streams, table)
