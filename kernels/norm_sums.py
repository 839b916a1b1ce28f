"""Signed sums of final hidden states, normed on the way: ``S[i, j] = Σ ± H[i, row]`` over group j's rows.

The rows of a nonce come in an order; rank r of it is in group ``(r div 2) mod k``, with + where r is even and
with − where it is odd. Each row is normed as the model's own norm would, where that has been left out, and
rounded to the model's dtype before it is added. Rows that the order does not name are never read.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hallmark.kernels.final_norm import FinalNorm, NormRounding, final_norm_reference
from hallmark.kernels.launch import Launch, dense, kernels_are_interpreted
from hallmark.kernels.path import KernelPath, kernel_path
from hallmark.kernels.rounding import round_to
from hallmark.kernels.tiles import KERNEL_DTYPES

__all__ = ["launch_norm_sums", "norm_sums", "norm_sums_reference", "sign_matrix", "sum_dtype"]


# Of wider rows a pair would leave registers for one program a multiprocessor, and nothing to do while that
# waits.
_MAX_BLOCK_OF_PAIRS = 4096


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return what sums of hidden states are rounded to: float32 for float16, which they could overflow."""
    return torch.float32 if dtype == torch.float16 else dtype


@triton.jit(do_not_specialize=["rows_each", "read", "numbers"])  # one compilation serves every batch shape
def _norm_sums_kernel(
    out_ptr: tl.tensor,
    hidden_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    order_ptr: tl.tensor,
    rows_each: tl.tensor,
    read: tl.tensor,
    numbers: tl.tensor,
    epsilon: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ADDS_ONE: tl.constexpr,
    ROUNDS_SUM: tl.constexpr,
    ROUNDS_SCALED: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    """``out[nonce, group]``, one program each, the whole width of a row or two in registers.

    Args:
        out_ptr: [n * numbers, WIDTH].
        hidden_ptr: [n * rows_each, WIDTH].
        residual_ptr: the same; read only where HAS_RESIDUAL says so.
        weight_ptr: [WIDTH]; read only where HAS_NORM says so.
        order_ptr: int32 [n, read].
        rows_each: rows of a nonce.
        read: how many of them are read.
        numbers: groups of a nonce.
        epsilon: what is added to the mean square.
        WIDTH: of a row.
        BLOCK: a power of two from WIDTH on.
        ROWS: that are read at once, 1 or 2.
        HAS_NORM: whether rows are normed.
        HAS_RESIDUAL: whether there is something to add first.
        ADDS_ONE: whether 1 is added to the weight.
        ROUNDS_SUM: as `NormRounding.sum`.
        ROUNDS_SCALED: as `NormRounding.scaled`.
        INTERPRETED: as for `round_to`.
    """
    nonce = (tl.program_id(0) // numbers).to(tl.int64)
    group = tl.program_id(0) % numbers
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    dtype = hidden_ptr.dtype.element_ty
    if HAS_NORM:
        weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
        if ADDS_ONE:
            weight += 1.0
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    # Not `range`, whose bounds the interpreter of Triton 3.6 cannot take from the newest NumPy's arrays.
    first = 2 * group
    while first < read:
        for done in tl.static_range(0, 2, ROWS):
            # The last pair may lack its second row, whose place zeros take.
            of_pair = done + tl.arange(0, ROWS)
            there = first + of_pair < read
            row = tl.load(order_ptr + nonce * read + first + of_pair, mask=there, other=0)
            place = ((nonce * rows_each + row) * WIDTH)[:, None] + column[None, :]
            mask = there[:, None] & inside[None, :]
            x = tl.load(hidden_ptr + place, mask=mask, other=0.0).to(tl.float32)
            if HAS_RESIDUAL:
                x += tl.load(residual_ptr + place, mask=mask, other=0.0).to(tl.float32)
            if HAS_NORM:
                if ROUNDS_SUM:
                    x = round_to(x, dtype, INTERPRETED).to(tl.float32)
                # A product: how Triton divides differs between its versions.
                mean_square = tl.sum(x * x, 1) * (1.0 / WIDTH)
                x = x * tl.where(there, tl.rsqrt(mean_square + epsilon), 0.0)[:, None]
                if ROUNDS_SCALED:
                    x = round_to(x, dtype, INTERPRETED).to(tl.float32)
                x = round_to(x * weight[None, :], dtype, INTERPRETED).to(tl.float32)
            total += tl.sum(x * (1 - 2 * of_pair).to(tl.float32)[:, None], 0)
        first += 2 * numbers
    place = tl.program_id(0).to(tl.int64) * WIDTH + column
    tl.store(out_ptr + place, round_to(total, out_ptr.dtype.element_ty, INTERPRETED), mask=inside)


def launch_norm_sums(
    out: Tensor, hidden: Tensor, norm: FinalNorm | None, order: Tensor, numbers: int
) -> Launch:
    """Return the launch that writes the sums into `out`.

    Args:
        out: [n, numbers, D] in the `sum_dtype` of hidden's, dense, as is all else.
        hidden: As for `norm_sums`.
        norm: As for `norm_sums`.
        order: int32 [n, read].
        numbers: Groups of a nonce.

    Raises:
        ValueError: D is not a multiple of 16.
    """
    n, width = len(order), hidden.shape[1]
    if width % 16:
        raise ValueError(f"width: {width} is not allowed; allowed: multiples of 16")
    block = triton.next_power_of_2(width)
    residual = None if norm is None else norm.residual
    return Launch(
        _norm_sums_kernel,
        (n * numbers,),
        (
            out,
            hidden,
            # What the kernel does not read is anything.
            hidden if residual is None else residual,
            hidden if norm is None else norm.weight,
            order,
            len(hidden) // n,
            order.shape[1],
            numbers,
            0.0 if norm is None else norm.epsilon,
        ),
        {
            "WIDTH": width,
            "BLOCK": block,
            "ROWS": 2 if block <= _MAX_BLOCK_OF_PAIRS else 1,
            "HAS_NORM": norm is not None,
            "HAS_RESIDUAL": residual is not None,
            "ADDS_ONE": norm is not None and norm.adds_one,
            "ROUNDS_SUM": norm is not None and norm.rounding.sum,
            "ROUNDS_SCALED": norm is not None and norm.rounding.scaled,
            "INTERPRETED": kernels_are_interpreted(),
        },
        num_warps=_num_warps(block),
        num_stages=1,
    )


def _num_warps(block: int) -> int:
    """Return the warps that keep two programs or more on a multiprocessor, up to a block of 8,192."""
    if block > 8192:
        return 16
    return 8 if block >= 4096 else 4


def norm_sums(hidden: Tensor, norm: FinalNorm | None, order: Tensor, numbers: int) -> Tensor:
    """Return the signed sums of a batch.

    By a kernel where there is one for the device, the dtype and the width.

    Args:
        hidden: [n * rows, D] in the model's dtype: what the model's own final norm returned, or what it would
            have been given.
        norm: The final norm where it is still to be applied.
        order: int32 [n, read], the rows of each nonce that are read, in their order. It is read when the
            kernel runs.
        numbers: k, how many groups a nonce has.

    Returns:
        [n, k, D], summed in float32 or wider and rounded once to the model's dtype; of float16, where a sum
        could overflow, float32.
    """
    weight, epsilon, residual, adds_one, rounding = norm or (None, 0.0, None, False, (False, False))
    sums: Tensor = _norm_sums(hidden, weight, epsilon, residual, adds_one, *rounding, order, numbers)
    return sums


@torch.library.custom_op("hallmark::norm_sums", mutates_args=())
def _norm_sums(
    hidden: Tensor,
    weight: Tensor | None,
    epsilon: float,
    residual: Tensor | None,
    adds_one: bool,
    rounds_sum: bool,
    rounds_scaled: bool,
    order: Tensor,
    numbers: int,
) -> Tensor:
    norm = _norm(weight, epsilon, residual, adds_one, rounds_sum, rounds_scaled)
    return norm_sums_reference(hidden, norm, order, numbers)


@_norm_sums.register_kernel("cuda")
def _(
    hidden: Tensor,
    weight: Tensor | None,
    epsilon: float,
    residual: Tensor | None,
    adds_one: bool,
    rounds_sum: bool,
    rounds_scaled: bool,
    order: Tensor,
    numbers: int,
) -> Tensor:
    norm = _norm(weight, epsilon, residual, adds_one, rounds_sum, rounds_scaled)
    width = hidden.shape[1]
    has_kernel = hidden.dtype in KERNEL_DTYPES and order.numel() > 0
    if kernel_path(hidden.device, width) is KernelPath.REFERENCE or not has_kernel:
        return norm_sums_reference(hidden, norm, order, numbers)
    if norm is not None:
        norm = norm._replace(
            weight=dense(norm.weight), residual=None if residual is None else dense(residual)
        )
    out = hidden.new_empty((len(order), numbers, width), dtype=sum_dtype(hidden.dtype))
    launch_norm_sums(out, dense(hidden), norm, dense(order), numbers).run()
    return out


@_norm_sums.register_fake
def _(
    hidden: Tensor,
    weight: Tensor | None,
    epsilon: float,
    residual: Tensor | None,
    adds_one: bool,
    rounds_sum: bool,
    rounds_scaled: bool,
    order: Tensor,
    numbers: int,
) -> Tensor:
    return hidden.new_empty((order.shape[0], numbers, hidden.shape[1]), dtype=sum_dtype(hidden.dtype))


def _norm(
    weight: Tensor | None,
    epsilon: float,
    residual: Tensor | None,
    adds_one: bool,
    rounds_sum: bool,
    rounds_scaled: bool,
) -> FinalNorm | None:
    if weight is None:
        return None
    return FinalNorm(weight, epsilon, residual, adds_one, NormRounding(rounds_sum, rounds_scaled))


def norm_sums_reference(hidden: Tensor, norm: FinalNorm | None, order: Tensor, numbers: int) -> Tensor:
    """Return the signed sums of a batch in plain PyTorch; see `norm_sums`."""
    n, read = order.shape
    nonce = torch.arange(n, device=order.device).unsqueeze(1)
    rows = nonce * (len(hidden) // n) + order
    h = hidden[rows]
    if norm is not None:
        residual = None if norm.residual is None else norm.residual[rows]
        h = final_norm_reference(h, residual, norm)
    # Products of bf16 numbers are exact in every mode that PyTorch has for float32 matrices; wider numbers
    # are multiplied in float64, which no such mode reaches.
    accumulator = torch.float32 if hidden.dtype == torch.bfloat16 else torch.float64
    signs = sign_matrix(read, numbers, order.device).to(accumulator)
    return (signs @ h.to(accumulator)).to(sum_dtype(hidden.dtype))


def sign_matrix(read: int, numbers: int, device: torch.device | None = None) -> Tensor:
    """Say with which sign each group counts each rank: float64 [numbers, read] of 1, −1 and 0.

    Args:
        read: Ranks.
        numbers: Groups.
        device: Of the matrix; None is the CPU.
    """
    rank = torch.arange(read, device=device)
    signs = torch.zeros((numbers, read), dtype=torch.float64, device=device)
    signs[rank // 2 % numbers, rank] = (1 - 2 * (rank % 2)).double()
    return signs
