"""The experiment on detection, shortened, and what it rests on: ways to tamper, and nonces for a power."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from _power import Sample, area_under_roc, critical_count, critical_mean_square
from _tampering import prune_magnitude, quantise_asymmetric, quantise_fp8, quantise_symmetric
from experiments import shortened

from hallmark.poc.verdict.hypothesis_tests import binomial_test, rms_test


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("detection")
    return shortened("detection", directory)


def test_gross_cheating_is_convicted_and_an_honest_batch_is_not(results: dict[str, Any]) -> None:
    verdicts = {row["attack"]: row["verdict"] for row in results["judged"]}
    assert verdicts["none"] == "honest"
    for row in results["rows"]:
        if row["rms"] > 0.3:
            assert verdicts[row["attack"]] == "fraud"
            assert row["nonces_1e-07"] <= 16
        if row["rms"] < 0.001:
            assert verdicts[row["attack"]] == "honest"
            assert row["nonces_1e-07"] is None


def test_fewer_bits_give_a_larger_error(results: dict[str, Any]) -> None:
    by_kind = {row["kind"]: row["rms"] for row in results["rows"]}
    assert by_kind["rounding"] < by_kind["INT8"] < by_kind["FP8"] < by_kind["INT4"]


def test_findings_are_sentences(results: dict[str, Any]) -> None:
    assert 3 <= len(results["findings"]) <= 8
    assert all(sentence.endswith(".") for sentence in results["findings"])
    assert all(row["below_1e-07"] == 0 for row in results["false_alarms"])


def test_a_quantised_weight_is_within_half_a_step() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    step = weight.unflatten(-1, (2, 32)).abs().amax(-1) / 7
    error = (quantise_symmetric(weight, 4, 32) - weight).unflatten(-1, (2, 32)).abs().amax(-1)
    assert (error <= step * 0.5001).all()
    grouped = quantise_asymmetric(weight, 4, 32).unflatten(-1, (2, 32))
    assert all(len(group.unique()) <= 16 for row in grouped for group in row)
    relative = (quantise_fp8(weight, per_channel=True) - weight).abs() / weight.abs()
    assert relative[weight.abs() > 0.05].max() <= 2**-4 * 1.001


def test_pruning_takes_the_smallest_weights() -> None:
    weight = torch.arange(1.0, 11.0).reshape(2, 5)
    assert prune_magnitude(weight, 0.3).flatten().tolist() == [0, 0, 0, 4, 5, 6, 7, 8, 9, 10]


def test_the_protocols_table_of_nonces_comes_out() -> None:
    draw = np.random.default_rng(1)
    known = {1.0: (4, 8), 0.24: (43, 66), 0.15: (426, 818)}
    for error, expected in known.items():
        sample = Sample(error * draw.standard_normal(400_000))
        for threshold, nonces in zip((0.01, 1e-7), expected, strict=True):
            assert sample.binomial_nonces(threshold) == pytest.approx(nonces, rel=0.03)


def test_critical_values_invert_the_products_tests() -> None:
    count = critical_count(100, 1e-7)
    assert binomial_test(count, 100) < 1e-7 <= binomial_test(count - 1, 100)
    root = math.sqrt(critical_mean_square(100, 1e-7, 0.05, 3.0, 0.35))
    assert rms_test(np.full(100, root * 1.001), 0.05, limit=0.35) < 1e-7
    assert rms_test(np.full(100, root * 0.999), 0.05, limit=0.35) > 1e-7


def test_the_area_under_the_curve_counts_ties_half() -> None:
    assert area_under_roc(np.array([1.0, 1.0]), np.array([0.0, 1.0])) == 0.75
    assert area_under_roc(np.array([0.5, 0.9]), np.array([0.1, 0.2])) == 1.0
