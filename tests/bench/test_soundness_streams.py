"""The experiment on streams, shortened, and its tests of randomness on generators known to be bad."""

import math
from collections.abc import Callable
from pathlib import Path

import _random_matrix
import _randomness
import numpy as np
import pytest
import streams
import torch
from experiments import shortened
from torch import Tensor

from hallmark.kernels.normal_table import signed_table


def test_streams_pass_every_test(tmp_path: Path) -> None:
    results = shortened("streams", tmp_path)
    assert 3 <= len(results["findings"]) <= 8
    assert {row["family"] for row in results["rows"]} >= streams.FAMILIES.keys()
    assert results["combined"]["tests"] == len(results["rows"])
    assert results["combined"]["bonferroni"] > streams.MIN_P_VALUE


def good_halves() -> Tensor:
    draw = np.random.default_rng(3)
    return torch.from_numpy(draw.integers(0, 2**16, (16, 4096), dtype=np.int32))


@pytest.mark.parametrize(
    ("spoil", "seen_by"),
    [
        (lambda halves: halves & 0x7FFF, "signs by place in a call"),
        (lambda halves: halves & ~1, "entries of the table with their signs"),
        (lambda halves: halves | 1 << 12, "each of the 16 bits"),
        (lambda halves: halves.repeat_interleave(2, dim=1)[:, :4096], "pairs of low bytes of neighbours"),
        (lambda halves: torch.cat((halves[:1], halves[:-1] ^ halves[:1])), "equal pairs of 32-bit words"),
        (lambda halves: halves[:1].expand(16, -1), "bits in which neighbouring streams differ"),
        (lambda halves: torch.where(halves % 8 == 0, 0x5555, halves), "runs of bits"),
    ],
)
def test_bad_halves_are_seen(spoil: Callable[[Tensor], Tensor], seen_by: str) -> None:
    good = {outcome.name: outcome.p_value for outcome in _randomness.of_halves(good_halves())}
    bad = {
        outcome.name: outcome.p_value for outcome in _randomness.of_halves(spoil(good_halves()).contiguous())
    }
    assert min(good.values()) * len(good) > 1e-3
    assert bad[seen_by] < streams.MIN_P_VALUE


@pytest.mark.parametrize(
    ("spoil", "seen_by"),
    [
        (lambda x: x + 0.03, "mean"),
        (lambda x: 1.03 * x, "variance"),
        (lambda x: x.clamp(-2.5, 2.5), "kurtosis"),
        (lambda x: x + 0.06 * x.roll(3, dims=1), f"correlation at {len(_randomness.LAGS)} lags"),
        (lambda x: x + 0.1 * x[:1], "correlation between streams"),
        (lambda x: torch.cat((x[:1], x[:1] + 0.2 * x[1:2], x[2:])), "largest correlation between streams"),
        (lambda x: x + 0.2 * x[0], "sums at a place across streams"),
    ],
)
def test_bad_numbers_are_seen(spoil: Callable[[Tensor], Tensor], seen_by: str) -> None:
    table = signed_table(1.0).float()
    good = table[good_halves().long()]
    assert min(outcome.p_value for outcome in _randomness.of_values(good)) > 1e-4
    bad = {outcome.name: outcome.p_value for outcome in _randomness.of_values(spoil(good))}
    assert bad[seen_by] < streams.MIN_P_VALUE


def test_laws_of_singular_values_hold_for_normal_matrices() -> None:
    """200 matrices of width 60: their p-values are uniform, to within what the approximations leave."""
    draw = torch.Generator().manual_seed(4)
    values = torch.linalg.svdvals(torch.randn(200, 60, 60, dtype=torch.float64, generator=draw))
    for law, column in ((_random_matrix.tracy_widom_p, 0), (_random_matrix.smallest_singular_value_p, -1)):
        p_values = np.array([law(float(row[column]), 60) for row in values])
        assert abs(p_values.mean() - 0.5) < 4 / math.sqrt(12 * 200)
        assert 0.02 < (p_values < 0.1).mean() < 0.2


@pytest.mark.parametrize("reach", [0.1, 0.5, 0.9, 2.0])
def test_stretching_of_a_large_matrix_is_the_law_s(reach: float) -> None:
    draw = torch.Generator().manual_seed(5)
    noise = torch.randn(400, 400, dtype=torch.float64, generator=draw) * reach / 20
    values = torch.linalg.svdvals(torch.eye(400, dtype=torch.float64) + noise)
    least, largest = _random_matrix.residual_singular_values(reach)
    assert values[0] == pytest.approx(largest, rel=0.02)
    assert values[-1] == pytest.approx(least, abs=0.02)


def test_one_character_of_the_block_hash_changes() -> None:
    blocks = [streams.one_character(i) for i in range(200)]
    assert len(set(blocks)) == 200
    assert all(sum(a != b for a, b in zip(block, streams.BLOCK, strict=True)) == 1 for block in blocks)
