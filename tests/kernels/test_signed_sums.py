"""Signed sums of rows: exact but for one rounding, and of the rows that are read only."""

import math

import pytest
import torch
from tolerances import ROUNDOFF
from torch import Tensor

from hallmark.kernels.signed_sums import signed_sums_reference
from hallmark.poc.protocol.row_groups import sign_matrix

N, ROWS, WIDTH, NUMBERS = 3, 32, 48, 5
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def signs() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    order = torch.stack([torch.randperm(ROWS - 8, generator=generator) + 8 for _ in range(N)])
    return sign_matrix(order, NUMBERS, ROWS)


def hidden(dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return (3 * torch.randn(N * ROWS, WIDTH, generator=generator)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_is_exact_but_for_its_rounding(dtype: torch.dtype) -> None:
    h, s = hidden(dtype), signs()
    sums = signed_sums_reference(h, s)
    assert sums.shape == (N, NUMBERS, WIDTH)
    exact = torch.einsum("nkr,nrd->nkd", s.double(), h.double().view(N, ROWS, WIDTH))
    kept = torch.float32 if dtype == torch.float16 else dtype
    assert sums.dtype == kept
    # What float32 loses on the way is a few units of its own last place.
    torch.testing.assert_close(sums.double(), exact, rtol=ROUNDOFF[kept] * 1.001, atol=2.0**-18)


@pytest.mark.parametrize("mode", ["highest", "high", "medium"])
def test_no_mode_of_float32_products_changes_it(mode: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(mode)
        found = [signed_sums_reference(hidden(dtype), signs()) for dtype in DTYPES]
    finally:
        torch.set_float32_matmul_precision(before)
    for sums, dtype in zip(found, DTYPES, strict=True):
        assert torch.equal(sums, signed_sums_reference(hidden(dtype), signs()))


def test_what_fp16_cannot_hold_is_summed_in_float32() -> None:
    h = torch.full((ROWS, WIDTH), 60_000.0, dtype=torch.float16)
    one_sided = signs()[:1].abs()
    sums = signed_sums_reference(h, one_sided)
    assert bool(sums.isfinite().all())
    assert torch.equal(sums[0, :, 0], one_sided[0].sum(dim=1) * float(h[0, 0]))


def test_equal_rows_cancel() -> None:
    h = hidden(torch.bfloat16)[:1].expand(N * ROWS, -1)
    assert not bool(signed_sums_reference(h, signs()).any())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_are_not_read_do_not_count_whatever_they_are(dtype: torch.dtype, bad: float) -> None:
    h, s = hidden(dtype), signs()
    whole = signed_sums_reference(h, s)
    spoilt = h.clone().view(N, ROWS, WIDTH)
    spoilt[:, :8] = bad
    assert torch.equal(signed_sums_reference(spoilt.view(-1, WIDTH), s), whole)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_spoils_its_nonce_and_no_other(bad: float) -> None:
    h, s = hidden(torch.bfloat16), signs()
    whole = signed_sums_reference(h, s)
    h[ROWS + 20, 7] = bad
    sums = signed_sums_reference(h, s)
    assert not bool(sums[1, :, 7].isfinite().all())
    assert torch.equal(sums[[0, 2]], whole[[0, 2]])
