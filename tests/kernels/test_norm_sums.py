"""Signed sums in plain PyTorch: exact but for one rounding, of the rows that are read only, normed before."""

import math

import pytest
import torch
from tolerances import ROUNDOFF
from torch import Tensor

from hallmark.kernels.final_norm import FinalNorm, NormRounding, final_norm_reference
from hallmark.kernels.norm_sums import norm_sums_reference, sign_matrix

N, ROWS, WIDTH, NUMBERS = 3, 32, 48, 5
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def order() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.stack([torch.randperm(ROWS - 8, generator=generator) + 8 for _ in range(N)]).int()


def hidden(dtype: torch.dtype, seed: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(N * ROWS, WIDTH, generator=generator)).to(dtype)


def test_ranks_take_turns_in_pairs_of_plus_and_minus() -> None:
    assert sign_matrix(10, 2).tolist() == [
        [1, -1, 0, 0, 1, -1, 0, 0, 1, -1],
        [0, 0, 1, -1, 0, 0, 1, -1, 0, 0],
    ]
    assert sign_matrix(1, 1).tolist() == [[1]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_is_exact_but_for_its_rounding(dtype: torch.dtype) -> None:
    h = hidden(dtype)
    sums = norm_sums_reference(h, None, order(), NUMBERS)
    assert sums.shape == (N, NUMBERS, WIDTH)
    kept = torch.float32 if dtype == torch.float16 else dtype
    assert sums.dtype == kept
    for nonce in range(N):
        exact = torch.zeros(NUMBERS, WIDTH, dtype=torch.float64)
        for rank, row in enumerate(order()[nonce].tolist()):
            exact[rank // 2 % NUMBERS] += (-1) ** rank * h[nonce * ROWS + row].double()
        # What float32 loses on the way is a few units of its own last place.
        torch.testing.assert_close(sums[nonce].double(), exact, rtol=ROUNDOFF[kept] * 1.001, atol=2.0**-18)


@pytest.mark.parametrize("mode", ["highest", "high", "medium"])
def test_no_mode_of_float32_products_changes_it(mode: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(mode)
        found = [norm_sums_reference(hidden(dtype), None, order(), NUMBERS) for dtype in DTYPES]
    finally:
        torch.set_float32_matmul_precision(before)
    for sums, dtype in zip(found, DTYPES, strict=True):
        assert torch.equal(sums, norm_sums_reference(hidden(dtype), None, order(), NUMBERS))


def test_what_fp16_cannot_hold_is_summed_in_float32() -> None:
    h = torch.full((ROWS, WIDTH), 60_000.0, dtype=torch.float16)
    h[order()[0, 1::2].long()] *= -1
    sums = norm_sums_reference(h, None, order()[:1], NUMBERS)
    assert bool(sums.isfinite().all())
    members = sign_matrix(ROWS - 8, NUMBERS).abs().sum(dim=1).float()
    assert torch.equal(sums[0, :, 0], members * float(h[:, 0].max()))


def test_equal_rows_cancel() -> None:
    h = hidden(torch.bfloat16)[:1].expand(N * ROWS, -1)
    assert not bool(norm_sums_reference(h, None, order(), NUMBERS).any())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normed", [False, True])
def test_rows_that_are_not_read_do_not_count_whatever_they_are(
    dtype: torch.dtype, bad: float, normed: bool
) -> None:
    h, residual = hidden(dtype), hidden(dtype, 5)
    norm = FinalNorm(h[0], 1e-6, residual, False, NormRounding(True, True)) if normed else None
    whole = norm_sums_reference(h, norm, order(), NUMBERS)
    for spoilt in (h, residual):
        spoilt[1:].view(-1)[: 7 * WIDTH] = bad  # the weight of the norm is row 0
        spoilt.view(N, ROWS, WIDTH)[1:, :8] = bad
    assert torch.equal(norm_sums_reference(h, norm, order(), NUMBERS), whole)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_spoils_its_nonce_and_no_other(bad: float) -> None:
    h = hidden(torch.bfloat16)
    whole = norm_sums_reference(h, None, order(), NUMBERS)
    h[ROWS + 20, 7] = bad
    sums = norm_sums_reference(h, None, order(), NUMBERS)
    assert not bool(sums[1, :, 7].isfinite().all())
    assert torch.equal(sums[[0, 2]], whole[[0, 2]])


@pytest.mark.parametrize("rounding", [NormRounding(a, b) for a in (True, False) for b in (True, False)])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_normed_and_rounded_before_they_are_added(
    dtype: torch.dtype, with_residual: bool, rounding: NormRounding
) -> None:
    h, residual = hidden(dtype), hidden(dtype, 5) if with_residual else None
    weight = hidden(dtype, 6)[0]
    norm = FinalNorm(weight, 1e-5, residual, False, rounding)
    rows = final_norm_reference(h, residual, norm)
    assert rows.dtype == dtype
    assert torch.equal(
        norm_sums_reference(h, norm, order(), NUMBERS), norm_sums_reference(rows, None, order(), NUMBERS)
    )
    # Next to the norm without any rounding but the last.
    x = h.double() if residual is None else h.double() + residual.double()
    exact = x / (x.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * weight.double()
    torch.testing.assert_close(rows.double(), exact, rtol=8 * ROUNDOFF[dtype], atol=16 * ROUNDOFF[dtype])


def test_one_is_added_to_a_weight_of_gemma() -> None:
    h, weight = hidden(torch.bfloat16), hidden(torch.float32)[0]
    rounding = NormRounding(False, False)
    of_gemma = final_norm_reference(h, None, FinalNorm(weight, 1e-6, None, True, rounding))
    assert torch.equal(
        of_gemma, final_norm_reference(h, None, FinalNorm(weight + 1, 1e-6, None, False, rounding))
    )
