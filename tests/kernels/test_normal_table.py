"""The table of normal numbers: regenerated, and scaled with one rounding."""

from fractions import Fraction

import independent_verifier
import numpy as np
import pytest
import torch
from scipy.stats import norm

from hallmark.kernels.normal_table import NORMAL_TABLE_BITS, normal_table, signed_table


def quantiles() -> np.ndarray:
    found: np.ndarray = norm.ppf(0.5 + (np.arange(2048) + 0.5) / 4096)
    return found


def test_is_regenerated_from_scipy() -> None:
    # float64 to bf16 on the bits: 45 bits of fraction are dropped, ties go to even.
    bits = quantiles().view(np.uint64)
    rounded = bits + np.uint64(2**44 - 1) + (bits >> np.uint64(45) & np.uint64(1))
    as_float = (rounded >> np.uint64(45) << np.uint64(45)).view(np.float64).astype(np.float32)
    assert tuple(as_float.view(np.uint32) >> 16) == NORMAL_TABLE_BITS


def test_is_regenerated_from_the_standard_library() -> None:
    assert tuple(independent_verifier.table()) == NORMAL_TABLE_BITS


def test_has_no_entry_near_a_rounding_tie() -> None:
    """Any inverse distribution function good to 5e-7 relative gives the same table."""
    for error in (-5e-7, 5e-7):
        moved = torch.from_numpy(quantiles() * (1 + error)).to(torch.bfloat16)
        assert torch.equal(moved, normal_table())


def test_moments_are_those_of_the_protocol() -> None:
    values = normal_table().double()
    variance = float(values.square().mean())
    assert variance == pytest.approx(0.9996, abs=5e-5)
    assert float(values.pow(4).mean()) / variance**2 == pytest.approx(2.991, abs=5e-4)
    assert float(values.max()) == pytest.approx(3.67, abs=5e-3)
    assert bool((values.diff() >= 0).all())
    assert float(values.min()) > 0


def test_signed_table_follows_the_bits_of_the_half_word() -> None:
    table = signed_table(1.0)
    assert table.shape == (65536,)
    assert table.dtype == torch.bfloat16
    halves = torch.arange(65536)
    expected = normal_table()[halves & 0x7FF] * torch.where(halves & 0x8000 > 0, -1, 1)
    assert torch.equal(table, expected)


@pytest.mark.parametrize("scale", [0.01, 0.1, 1 / 3, 1e-6, 1.0, 0.0299, 0.0301])
def test_bfloat16_is_rounded_once(scale: float) -> None:
    """Against exact fractions: no neighbour is nearer, and a tie is even."""
    table = signed_table(scale)
    exact_scale = Fraction(float(np.float32(scale)))
    for entry, drawn in zip(normal_table().tolist(), table[:2048], strict=True):
        exact = exact_scale * Fraction(entry)
        pattern = int(drawn.view(torch.int16))
        error = abs(Fraction(independent_verifier.from_bf16(pattern)) - exact)
        for neighbour in (pattern - 1, pattern + 1):
            other = abs(Fraction(independent_verifier.from_bf16(neighbour)) - exact)
            assert error < other or (error == other and pattern % 2 == 0)
    assert torch.equal(table[0x8000:], -table[:0x8000])


def test_some_scale_would_differ_if_rounded_twice() -> None:
    """Why the table is not rounded by way of float32: here it matters."""
    scale = float(np.float32(0.02997))
    differing = 0
    for candidate in np.float32(scale) + np.arange(400, dtype=np.float32) * np.float32(2**-29):
        twice = (normal_table().float() * float(candidate)).to(torch.bfloat16)
        differing += not torch.equal(signed_table(float(candidate))[:2048], twice)
    assert differing > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("exponent", [-24, -5, 0, 8])
def test_powers_of_two_scale_exactly(dtype: torch.dtype, exponent: int) -> None:
    table = signed_table(2.0**exponent, dtype)
    assert table.dtype == dtype
    assert torch.equal(table.double() * 2.0**-exponent, signed_table(1.0).double())


@pytest.mark.parametrize("exponent", [-5, -12, -20])
def test_float16_rounds_to_nearest_even_down_to_its_subnormals(exponent: int) -> None:
    table = signed_table(2.0**exponent, torch.float16)
    exact = signed_table(1.0).double().numpy() * 2.0**exponent
    assert np.array_equal(table.numpy().view(np.uint16), exact.astype(np.float16).view(np.uint16))
