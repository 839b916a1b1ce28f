"""The projection with its residual: ``round(X + X·P)``, accumulated wide, rounded once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hallmark.kernels.launch import Launch, dense, kernels_are_interpreted
from hallmark.kernels.path import KernelPath, kernel_path
from hallmark.kernels.rounding import round_to
from hallmark.kernels.tiles import (
    KERNEL_DTYPES,
    PROJECT_RESIDUAL_TILES,
    Architecture,
    architecture_of,
    shape_of,
)

__all__ = [
    "add_products",
    "launch_project_residual",
    "project_residual",
    "project_residual_reference",
]

# Row blocks that share their columns of P in the L2 cache while they run side by side.
_GROUP_M = 8


@triton.jit
def _add_dot(total: tl.tensor, x: tl.tensor, p: tl.tensor, INTERPRETED: tl.constexpr) -> tl.tensor:
    """``total + x @ p`` of bf16 operands."""
    if INTERPRETED:
        total = tl.dot(x.to(tl.float32), p.to(tl.float32), total, input_precision="ieee")
    else:
        total = tl.dot(x, p, total)
    return total


@triton.jit
def add_products(total: tl.tensor, x: tl.tensor, p: tl.tensor, INTERPRETED: tl.constexpr) -> tl.tensor:
    """``total + x @ p`` in fp32, no operand rounded.

    P is bf16. Its products with bf16 numbers are exact in fp32; an fp16 number is, exactly, the sum of two
    bf16 numbers; with fp32 numbers it is multiplied in fp32 ("ieee": Triton's default would round them to
    TF32).

    Args:
        total: fp32 [m, n].
        x: [m, k].
        p: bf16 [k, n].
        INTERPRETED: whether this runs in the interpreter, which has no bf16 arithmetic: fp32 then does it.
    """
    if x.dtype == tl.float16:
        # The high part is cut off, not rounded: 8 bits, and the 3 that are left.
        wide = x.to(tl.float32)
        cut = (wide.to(tl.uint32, bitcast=True) & 0xFFFF0000).to(tl.float32, bitcast=True)
        high = cut.to(tl.bfloat16)
        low = (wide - cut).to(tl.bfloat16)
        # Added up apart and then to the total, so that both products are done before the next step makes its
        # operands: on sm_90, Triton 3.6 to 3.8 would let the second one still read registers that are written
        # then (triton-lang/triton issue 9433; seen in the machine code).
        part = _add_dot(tl.zeros_like(total), high, p, INTERPRETED)
        total += _add_dot(part, low, p, INTERPRETED)
    elif x.dtype == tl.bfloat16:
        total = _add_dot(total, x, p, INTERPRETED)
    else:
        total = tl.dot(x, p.to(tl.float32), total, input_precision="ieee")
    return total


@triton.jit(do_not_specialize=["rows"])  # one compilation serves every batch shape
def _project_residual_kernel(
    out_ptr: tl.tensor,
    x_ptr: tl.tensor,
    p_ptr: tl.tensor,
    gather_ptr: tl.tensor,
    scatter_ptr: tl.tensor,
    rows: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    GATHERS: tl.constexpr,
    SCATTERS: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    """``out = round(x + x @ p)``, the residual added to the accumulator before the only rounding.

    Args:
        out_ptr: [rows, WIDTH], or more rows where SCATTERS says that only some are written.
        x_ptr: [rows, WIDTH], or more rows where GATHERS says that only some are read.
        p_ptr: bf16 [WIDTH, WIDTH].
        gather_ptr: int64 [rows], the rows of x; read only where GATHERS says so.
        scatter_ptr: int64 [rows], the rows of out; read only where SCATTERS says so.
        rows: that are projected.
        WIDTH: a multiple of 16.
        BLOCK_M: rows of a program's tile.
        BLOCK_N: its columns.
        BLOCK_K: products added in one step.
        GROUP_M: row blocks that walk through the columns together.
        GATHERS: whether rows of x are picked.
        SCATTERS: whether rows of out are.
        INTERPRETED: as for `add_products`.
    """
    program = tl.program_id(0)
    row_blocks = tl.cdiv(rows, BLOCK_M)
    COLUMN_BLOCKS: tl.constexpr = (WIDTH + BLOCK_N - 1) // BLOCK_N
    group = program // (GROUP_M * COLUMN_BLOCKS)
    in_group = program % (GROUP_M * COLUMN_BLOCKS)
    first_block = group * GROUP_M
    height = tl.minimum(row_blocks - first_block, GROUP_M)
    row_block = first_block + in_group % height
    column_block = in_group // height

    row = tl.arange(0, BLOCK_M)
    column = column_block * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    left = row < rows - row_block * BLOCK_M
    # One offset of 64 bits for the tile; those within it fit in 32. A picked row may be anywhere.
    first = row_block.to(tl.int64) * BLOCK_M
    x_rows = x_ptr + first * WIDTH + row[:, None] * WIDTH
    if GATHERS:
        x_rows = x_ptr + (tl.load(gather_ptr + first + row, mask=left, other=0) * WIDTH)[:, None]
    row_mask = left[:, None]
    column_mask = (column < WIDTH)[None, :]
    x_ptrs = x_rows + k[None, :]
    p_ptrs = p_ptr + k[:, None] * WIDTH + column[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, WIDTH, BLOCK_K):
        if WIDTH % BLOCK_K == 0:
            x = tl.load(x_ptrs, mask=row_mask, other=0.0)
            p = tl.load(p_ptrs, mask=column_mask, other=0.0)
        else:
            inside = k < WIDTH - start
            x = tl.load(x_ptrs, mask=row_mask & inside[None, :], other=0.0)
            p = tl.load(p_ptrs, mask=column_mask & inside[:, None], other=0.0)
        total = add_products(total, x, p, INTERPRETED)
        x_ptrs += BLOCK_K
        p_ptrs += BLOCK_K * WIDTH
    mask = row_mask & column_mask
    total += tl.load(x_rows + column[None, :], mask=mask, other=0.0).to(tl.float32)
    out_rows = out_ptr + first * WIDTH + row[:, None] * WIDTH
    if SCATTERS:
        # Not before the loop, whose registers these would take.
        out_rows = out_ptr + (tl.load(scatter_ptr + first + row, mask=left, other=0) * WIDTH)[:, None]
    rounded = round_to(total, out_ptr.dtype.element_ty, INTERPRETED)
    tl.store(out_rows + column[None, :], rounded, mask=mask)


def launch_project_residual(
    out: Tensor,
    x: Tensor,
    p: Tensor,
    architecture: Architecture | None = None,
    *,
    gather: Tensor | None = None,
    scatter: Tensor | None = None,
) -> Launch:
    """Return the launch that projects `x` into `out`.

    Args:
        out: [rows, D], dense; bfloat16, float16 or float32.
        x: [rows, D], dense; bfloat16, float16 or float32.
        p: bfloat16 [D, D], dense.
        gather: int64 [m], dense: the rows of x that are projected; None: all of them.
        scatter: int64 [m], dense: the rows of `out` that they are written to; None: one after the other.
        architecture: Whose tiles are used; None: those of x's device.

    Raises:
        ValueError: D is not a multiple of 16.
    """
    width = x.shape[1]
    rows = len(x if gather is None else gather)
    if width % 16:
        raise ValueError(f"width: {width} is not allowed; allowed: multiples of 16")
    tile = PROJECT_RESIDUAL_TILES[architecture or architecture_of(x.device), x.dtype, shape_of(width)]
    return Launch(
        _project_residual_kernel,
        (triton.cdiv(rows, tile.m) * triton.cdiv(width, tile.n),),
        # What the kernel does not read is anything.
        (out, x, p, p if gather is None else gather, p if scatter is None else scatter, rows),
        {
            "WIDTH": width,
            "BLOCK_M": tile.m,
            "BLOCK_N": tile.n,
            "BLOCK_K": tile.k,
            "GROUP_M": _GROUP_M,
            "GATHERS": gather is not None,
            "SCATTERS": scatter is not None,
            "INTERPRETED": kernels_are_interpreted(),
        },
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


@torch.library.custom_op("hallmark::project_residual", mutates_args=())
def project_residual(x: Tensor, p: Tensor, out_dtype: torch.dtype) -> Tensor:
    """``x + x @ p``; by a kernel where there is one for the device, the dtypes and the width.

    Args:
        x: [..., D], floating point.
        p: [D, D], floating point.
        out_dtype: What the sum is rounded to, to nearest even; float32 keeps the accumulator.

    Returns:
        `out_dtype` [..., D].
    """
    return project_residual_reference(x, p, out_dtype)


@project_residual.register_kernel("cuda")
def _(x: Tensor, p: Tensor, out_dtype: torch.dtype) -> Tensor:
    width = x.shape[-1]
    has_kernel = x.dtype in KERNEL_DTYPES and p.dtype == torch.bfloat16 and x.numel() > 0
    if kernel_path(x.device, width) is KernelPath.REFERENCE or not has_kernel:
        return project_residual_reference(x, p, out_dtype)
    out = torch.empty(x.shape, dtype=out_dtype, device=x.device)
    launch_project_residual(out.view(-1, width), dense(x.reshape(-1, width)), dense(p)).run()
    return out


@project_residual.register_fake
def _(x: Tensor, p: Tensor, out_dtype: torch.dtype) -> Tensor:
    return x.new_empty(x.shape, dtype=out_dtype)


def project_residual_reference(x: Tensor, p: Tensor, out_dtype: torch.dtype) -> Tensor:
    """``x + x @ p`` in plain PyTorch; see `project_residual`."""
    # Products of bf16 numbers are exact in every mode that PyTorch has for float32 matrices, TF32 and the
    # CPU's bf16 mode included, so no process-wide switch has to be touched. Wider numbers are multiplied
    # in float64, which no such mode reaches.
    exact_in_float32 = x.dtype == p.dtype == torch.bfloat16
    accumulator = torch.float32 if exact_in_float32 else torch.float64
    rows = x.reshape(-1, x.shape[-1]).to(accumulator)
    total = torch.addmm(rows, rows, p.to(accumulator)).to(torch.float32)
    return total.to(out_dtype).view(x.shape)
