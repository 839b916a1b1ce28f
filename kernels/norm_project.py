"""From final hidden states to distances, for the last rows only.

``H = RMSNorm(hidden + residual)``, ``H' = H + H·P_post``, ``y·t = ⟨H', z⟩ / (‖H'‖·‖z‖)`` and
``d = sqrt(max(0, 2 − 2·y·t))``. Three launches: H of each row; the parts of the sums that a block of columns
has, its share of the target z drawn on the spot; the sums of the parts, in fixed order, and d.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hallmark.kernels.distance import distance_reference
from hallmark.kernels.draw_embeddings import draw_embeddings_reference
from hallmark.kernels.draw_normals import stream_words, table_indices
from hallmark.kernels.final_norm import FinalNorm, final_norm_reference, launch_final_norm
from hallmark.kernels.launch import Launch, dense, kernels_are_interpreted
from hallmark.kernels.path import KernelPath, kernel_path
from hallmark.kernels.project_residual import add_products
from hallmark.kernels.tiles import (
    KERNEL_DTYPES,
    NORM_PROJECT_TILES,
    Architecture,
    architecture_of,
    shape_of,
)

__all__ = [
    "launch_norm_project",
    "norm_project",
    "norm_project_reference",
]

_TABLE_ENTRIES = tl.constexpr(2048)
_SIGN_BIT = tl.constexpr(0x8000)


@triton.jit(do_not_specialize=["n", "rows_each"])  # one compilation serves every batch shape
def _project_kernel(
    parts_ptr: tl.tensor,
    hidden_ptr: tl.tensor,
    p_ptr: tl.tensor,
    streams_ptr: tl.tensor,
    table_ptr: tl.tensor,
    n: tl.tensor,
    rows_each: tl.tensor,
    WIDTH: tl.constexpr,
    COLUMN_BLOCKS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HAS_PROJECTION: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    """``parts[i, :, b]`` = ‖H'‖², ⟨H', z⟩ and ‖z‖² of row i over the columns of block b.

    Args:
        parts_ptr: float64 [n, 3, COLUMN_BLOCKS].
        hidden_ptr: [n * rows_each, WIDTH], of which every rows_each-th row is H.
        p_ptr: bf16 [WIDTH, WIDTH].
        streams_ptr: int64 [n, 4], the targets' streams.
        table_ptr: int16 [2048], the bits of the bf16 entries.
        n: sequences.
        rows_each: rows of a sequence.
        WIDTH: a multiple of 16.
        COLUMN_BLOCKS: programs that share a row.
        BLOCK_M: rows of a program's tile.
        BLOCK_N: its columns.
        BLOCK_K: products added in one step.
        HAS_PROJECTION: whether H' is anything but H; p_ptr is read only then.
        INTERPRETED: as for `add_products`.
    """
    block = tl.program_id(0)
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = block * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    row_mask = (row < n)[:, None]
    column_mask = (column < WIDTH)[None, :]
    hidden_rows = hidden_ptr + (((row.to(tl.int64) + 1) * rows_each - 1) * WIDTH)[:, None]
    y = tl.load(hidden_rows + column[None, :], mask=row_mask & column_mask, other=0.0).to(tl.float32)
    if HAS_PROJECTION:
        h_ptrs = hidden_rows + k[None, :]
        p_ptrs = p_ptr + k[:, None] * WIDTH + column[None, :]
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, WIDTH, BLOCK_K):
            if WIDTH % BLOCK_K == 0:
                h = tl.load(h_ptrs, mask=row_mask, other=0.0)
                p = tl.load(p_ptrs, mask=column_mask, other=0.0)
            else:
                inside = k < WIDTH - start
                h = tl.load(h_ptrs, mask=row_mask & inside[None, :], other=0.0)
                p = tl.load(p_ptrs, mask=column_mask & inside[:, None], other=0.0)
            total = add_products(total, h, p, INTERPRETED)
            h_ptrs += BLOCK_K
            p_ptrs += BLOCK_K * WIDTH
        y += total

    name = streams_ptr + row * 4
    k0 = tl.load(name, mask=row < n, other=0).to(tl.uint32)[:, None]
    k1 = tl.load(name + 1, mask=row < n, other=0).to(tl.uint32)[:, None]
    c2 = tl.load(name + 2, mask=row < n, other=0).to(tl.uint32)[:, None]
    c3 = tl.load(name + 3, mask=row < n, other=0).to(tl.uint32)[:, None]
    call = block * (BLOCK_N // 8) + tl.arange(0, BLOCK_N // 8)
    calls = tl.zeros((BLOCK_M, BLOCK_N // 8), dtype=tl.uint32) + call.to(tl.uint32)[None, :]
    WORDS: tl.constexpr = BLOCK_M * BLOCK_N // 2
    words = stream_words(calls, k0, k1, c2, c3, WORDS)
    table = tl.load(table_ptr + tl.arange(0, _TABLE_ENTRIES))
    entries = tl.gather(table, table_indices(words, WORDS), 0).to(tl.uint16, bitcast=True).to(tl.uint32)
    signs = tl.reshape(tl.join(words & _SIGN_BIT, (words >> 16) & _SIGN_BIT), [BLOCK_M * BLOCK_N])
    z = ((entries | signs) << 16).to(tl.float32, bitcast=True)

    # Squares of fp32 numbers are exact in float64, and cannot overflow there.
    y64 = tl.where(column_mask, y, 0.0).to(tl.float64)
    z64 = tl.where(column_mask, tl.reshape(z, [BLOCK_M, BLOCK_N]), 0.0).to(tl.float64)
    part = parts_ptr + row.to(tl.int64) * (3 * COLUMN_BLOCKS) + block
    tl.store(part, tl.sum(y64 * y64, 1), mask=row < n)
    tl.store(part + COLUMN_BLOCKS, tl.sum(y64 * z64, 1), mask=row < n)
    tl.store(part + 2 * COLUMN_BLOCKS, tl.sum(z64 * z64, 1), mask=row < n)


@triton.jit
def _distance_kernel(
    out_ptr: tl.tensor, parts_ptr: tl.tensor, COLUMN_BLOCKS: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """``d = sqrt(max(0, 2 − 2·y·t))`` from the parts of one row, added in fixed order; one program a row.

    Args:
        out_ptr: float64 [n]; NaN where the row of H' is not finite or is zero.
        parts_ptr: float64 [n, 3, COLUMN_BLOCKS].
        COLUMN_BLOCKS: of the parts.
        BLOCK: a power of two from COLUMN_BLOCKS on.
    """
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCK)
    mask = block < COLUMN_BLOCKS
    part = parts_ptr + row * (3 * COLUMN_BLOCKS) + block
    y_square = tl.sum(tl.load(part, mask=mask, other=0.0), 0)
    product = tl.sum(tl.load(part + COLUMN_BLOCKS, mask=mask, other=0.0), 0)
    z_square = tl.sum(tl.load(part + 2 * COLUMN_BLOCKS, mask=mask, other=0.0), 0)
    square = 2.0 - 2.0 * product / (tl.sqrt(y_square) * tl.sqrt(z_square))
    # Rounding may take the cosine a little past ±1. Both comparisons are false for NaN, which stays.
    square = tl.where(square < 0.0, 0.0, square)
    square = tl.where(square > 4.0, 4.0, square)
    tl.store(out_ptr + row, tl.sqrt(square))


def launch_norm_project(
    out: Tensor,
    hidden: Tensor,
    norm: FinalNorm | None,
    p_post: Tensor | None,
    streams: Tensor,
    table: Tensor,
    architecture: Architecture | None = None,
) -> tuple[Launch, ...]:
    """The launches, in their order, that write distances into `out`.

    Args:
        out: float64 [n], dense, as is all else.
        hidden: As for `norm_project`.
        norm: As for `norm_project`.
        p_post: As for `norm_project`.
        streams: int64 [n, 4].
        table: As for `norm_project`.
        architecture: Whose tiles are used; None: those of the device.

    Raises:
        ValueError: D is not a multiple of 16.
    """
    n, width, device = len(streams), hidden.shape[1], hidden.device
    rows_each = len(hidden) // n
    if width % 16:
        raise ValueError(f"width: {width} is not allowed; allowed: multiples of 16")
    tile = NORM_PROJECT_TILES[architecture or architecture_of(device), hidden.dtype, shape_of(width)]
    column_blocks = triton.cdiv(width, tile.n)
    parts = torch.empty((n, 3, column_blocks), dtype=torch.float64, device=device)
    launches = []
    if norm is not None:
        final = torch.empty((n, width), dtype=hidden.dtype, device=device)
        launches.append(launch_final_norm(final, hidden, norm))
        hidden, rows_each = final, 1
    # Without a projection the kernel does not read P.
    p = hidden if p_post is None else p_post
    entries = table[: _TABLE_ENTRIES.value].view(torch.int16)
    launches += [
        Launch(
            _project_kernel,
            (column_blocks, triton.cdiv(n, tile.m)),
            (parts, hidden, p, streams, entries, n, rows_each),
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
            _distance_kernel,
            (n,),
            (out, parts),
            {"COLUMN_BLOCKS": column_blocks, "BLOCK": triton.next_power_of_2(column_blocks)},
            num_warps=1,
            num_stages=1,
        ),
    ]
    return tuple(launches)


def norm_project(
    hidden: Tensor, norm: FinalNorm | None, p_post: Tensor | None, streams: Tensor, table: Tensor
) -> Tensor:
    """The distances of a batch; by kernels where there are some for the device, the dtype and the width.

    Args:
        hidden: [n * rows, D] in the model's dtype, of which each sequence's last row counts: what the model's
            own final norm returned, or what it would have been given.
        norm: The final norm where it is still to be applied, which is then done to the last rows only.
        p_post: bfloat16 [D, D]; None where the projection is off.
        streams: int64 [n, 4]: k0, k1, c2, c3 of each target's stream. They are read when the kernels run.
        table: The value of each of the 65,536 half words at scale 1: bfloat16 (`signed_table`).

    Returns:
        float64 [n], from 0 to 2; NaN where the hidden state is not finite or is zero: the nonce failed.
    """
    weight, epsilon, residual = norm or (None, 0.0, None)
    distances: Tensor = _norm_project(hidden, weight, epsilon, residual, p_post, streams, table)
    return distances


@torch.library.custom_op("hallmark::norm_project", mutates_args=())
def _norm_project(
    hidden: Tensor,
    weight: Tensor | None,
    epsilon: float,
    residual: Tensor | None,
    p_post: Tensor | None,
    streams: Tensor,
    table: Tensor,
) -> Tensor:
    norm = None if weight is None else FinalNorm(weight, epsilon, residual)
    return norm_project_reference(hidden, norm, p_post, streams, table)


@_norm_project.register_kernel("cuda")
def _(
    hidden: Tensor,
    weight: Tensor | None,
    epsilon: float,
    residual: Tensor | None,
    p_post: Tensor | None,
    streams: Tensor,
    table: Tensor,
) -> Tensor:
    norm = None if weight is None else FinalNorm(weight, epsilon, residual)
    same_dtype = all(t is None or t.dtype == hidden.dtype for t in (weight, residual))
    in_bf16 = all(t is None or t.dtype == torch.bfloat16 for t in (p_post, table))
    has_kernel = hidden.dtype in KERNEL_DTYPES and same_dtype and in_bf16
    if kernel_path(hidden.device, hidden.shape[1]) is KernelPath.REFERENCE or not has_kernel:
        return norm_project_reference(hidden, norm, p_post, streams, table)
    if norm is not None:
        norm = FinalNorm(dense(norm.weight), epsilon, None if residual is None else dense(residual))
    out = torch.empty(len(streams), dtype=torch.float64, device=hidden.device)
    p = None if p_post is None else dense(p_post)
    for launch in launch_norm_project(out, dense(hidden), norm, p, dense(streams), dense(table)):
        launch.run()
    return out


@_norm_project.register_fake
def _(
    hidden: Tensor,
    weight: Tensor | None,
    epsilon: float,
    residual: Tensor | None,
    p_post: Tensor | None,
    streams: Tensor,
    table: Tensor,
) -> Tensor:
    return hidden.new_empty(streams.shape[0], dtype=torch.float64)


def norm_project_reference(
    hidden: Tensor, norm: FinalNorm | None, p_post: Tensor | None, streams: Tensor, table: Tensor
) -> Tensor:
    """The distances of a batch in plain PyTorch; see `norm_project`."""
    n, width = len(streams), hidden.shape[1]
    rows_each = len(hidden) // n
    last = hidden[rows_each - 1 :: rows_each] if norm is None else final_norm_reference(hidden, n, norm)
    target = draw_embeddings_reference(streams, 1, width, table).squeeze(1)
    return distance_reference(last, target, p_post)
