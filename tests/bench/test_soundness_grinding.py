"""Grinding below rate 1: the formulas of its experiment, and the experiment itself, shortened."""

from pathlib import Path

import numpy as np
import pytest
from _grinding import (
    SIGMA,
    covered_to_convict,
    density_power,
    found_share,
    least_density,
    reported_density,
    smallest_share,
    unconvicted_counts,
)
from _judging import computed_numbers, round_for
from experiments import shortened

from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.verdict.judge import judge


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9, 1.0])
def test_of_valid_nonces_a_grinder_finds_its_share_if_it_knows_nothing_and_all_if_it_knows_all(
    share: float,
) -> None:
    assert found_share(0.1, share, [0.0]) == pytest.approx(share, rel=1e-6)
    assert found_share(0.1, share, [1.0]) == pytest.approx(1.0, rel=1e-3)
    assert found_share(0.4, share, [1.0]) == pytest.approx(min(1.0, share / 0.4), rel=1e-3)
    assert found_share(1.0, share, [0.7]) == share


@pytest.mark.parametrize("cosines", [[0.3], [0.8], [-0.2], [0.1, 0.9]])
@pytest.mark.parametrize(("rate", "share"), [(0.1, 0.1), (0.1, 0.5), (0.5, 0.25)])
def test_the_formula_agrees_with_pairs_of_normal_numbers(
    cosines: list[float], rate: float, share: float
) -> None:
    draw = np.random.default_rng(1)
    c = draw.choice(cosines, 1_000_000)
    predicted, noise = draw.standard_normal((2, c.size))
    true = c * predicted + np.sqrt(1 - c * c) * noise
    valid = true > np.quantile(true, 1 - rate)
    run = predicted > np.quantile(predicted, 1 - share)
    counted = (valid & run).sum() / valid.sum()
    assert found_share(rate, share, np.repeat(cosines, 500)) == pytest.approx(counted, rel=0.02)


def test_the_smallest_share_that_finds_enough() -> None:
    share = smallest_share(0.1, [0.6], 0.9)
    assert found_share(0.1, share, [0.6]) == pytest.approx(0.9, abs=1e-4)


@pytest.mark.parametrize("threshold", [0.01, 1e-7])
def test_the_counts_that_pass_are_those_that_the_judge_lets_pass(threshold: float) -> None:
    """The number of tests and the σ of the experiment are the product's."""
    round_ = round_for(256, valid_rate=0.1, fraud_threshold=threshold)
    assert round_.honest_sigma == pytest.approx(SIGMA)
    covered = 3000
    smallest, largest = unconvicted_counts(covered, 0.1, threshold)
    for count, convicted in ((smallest - 1, True), (smallest, False), (largest, False), (largest + 1, True)):
        honest = dict.fromkeys(range(count), 1.2)
        proof = ProofBatch(
            public_key="prover",
            block_hash="soundness",
            block_height=1,
            node_id=0,
            nonces=tuple(honest),
            dist=tuple(honest.values()),
            covered=(0, covered - 1),
        )
        assert judge(proof, computed_numbers(round_, honest), round_).fraud_detected is convicted, count


def test_the_power_of_the_density_test() -> None:
    assert density_power(5000, 0.1, 0.1, 0.01) < 0.01
    covered = covered_to_convict(0.1, 0.08, 0.01)
    assert covered is not None
    assert density_power(covered, 0.1, 0.08, 0.01) >= 0.99 > density_power(covered * 9 // 10, 0.1, 0.08, 0.01)
    # Within the margin of the law nothing convicts.
    assert covered_to_convict(0.1, 0.0995, 0.01, most=10**6) is None
    density = least_density(5000, 0.1, 0.01, 0.5)
    assert density_power(5000, 0.1, density, 0.01) == pytest.approx(0.5, abs=0.001)
    assert reported_density(0.1, 0.99) == pytest.approx(0.1)


def test_the_experiment_shortened(tmp_path: Path) -> None:
    results = shortened("grinding", tmp_path)
    assert 3 <= len(results["findings"]) <= 8
    for row in results["rows"]:
        gains = [row[f"gain_{share}"] for share in (10, 25, 50, 90)]
        assert gains == ([1.0] * 4 if row["rate"] == 1.0 else sorted(gains, reverse=True))
        assert all(gain <= 1 / row["rate"] + 1e-3 for gain in gains)
    for row in results["density"]:
        assert (row["covered_0.01"] or 10**10) <= (row["covered_1e-07"] or 10**10)
    for row in results["hidden"]:
        # To be convicted less often, a grinder has to run more.
        assert row["share_half"] <= row["share_tenth"]
