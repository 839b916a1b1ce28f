"""The experiment on honest noise, shortened; it fails where honest provers would be convicted."""

from pathlib import Path

import honest_noise
import numpy as np
import pytest
from _variants import Variant, in_order, order_of
from experiments import shortened

from hallmark.poc.verdict.hypothesis_tests import rms_test


def test_honest_ways_agree_far_below_the_tolerance(tmp_path: Path) -> None:
    results = shortened("honest_noise", tmp_path)
    assert 3 <= len(results["findings"]) <= 8
    same = [row for row in results["rows"] if row["kind"] == "same dtype"]
    (dtypes,) = [row for row in results["rows"] if row["kind"] == "other dtype"]
    assert all(row["sigma"] < 1e-4 and row["beyond"] == 0 for row in same)
    # Another dtype is another thing: the two really computed in their own.
    assert 1e-3 < dtypes["sigma"] < results["tolerance"]


def test_the_bound_covers_sigma_and_is_tight_for_many_nonces() -> None:
    draw = np.random.default_rng(0)
    bounds = [honest_noise.describe(0.05 * draw.standard_normal(200))["upper"] for _ in range(500)]
    assert 0.97 < np.mean(np.array(bounds) > 0.05) < 1
    assert honest_noise.sigma_bound(0.05, 10**6, 3.0) == pytest.approx(0.05, rel=0.01)
    # Heavier tails leave less to know from as many nonces.
    assert honest_noise.sigma_bound(0.05, 200, 9.0) > 1.1 * honest_noise.sigma_bound(0.05, 200, 3.0)


def test_the_default_sigma_holds_for_honest_errors_and_not_for_twice_as_large() -> None:
    draw = np.random.default_rng(1)
    errors = draw.standard_normal(300)
    small, large = 0.7 * honest_noise.DEFAULT_SIGMA * errors, 2 * honest_noise.DEFAULT_SIGMA * errors
    assert honest_noise.describe(small)["holds"]
    assert not honest_noise.describe(large)["holds"]
    assert rms_test(small, honest_noise.DEFAULT_SIGMA) > 0.01 > rms_test(large, honest_noise.DEFAULT_SIGMA)


def test_errors_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="1 are not finite"):
        honest_noise.describe(np.array([0.0, np.nan]))


def test_shuffled_nonces_are_put_back() -> None:
    way = Variant(nonces=40, shuffled=True)
    order = order_of(way)
    assert sorted(order) == list(range(40)) != order
    assert in_order([0.5 * nonce for nonce in order], order) == [0.5 * nonce for nonce in range(40)]


def test_ways_share_a_process_where_they_can() -> None:
    ways = [
        Variant(),
        Variant(threads=1),
        Variant(baseline=True),
        Variant(engine="vllm"),
        Variant(engine="vllm", compiled=True),
    ]
    groups = honest_noise.in_processes(ways)
    assert groups == [ways[:2], *([way] for way in ways[2:])]
