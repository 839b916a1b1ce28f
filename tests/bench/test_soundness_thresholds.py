"""The experiment on thresholds, shortened; it fails where an honest prover is convicted too often."""

from typing import Any

import numpy as np
import pytest
from experiments import shortened


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("thresholds")
    return shortened("thresholds", directory)


def test_gaussian_noise_told_rightly_is_convicted_as_seldom_as_promised(results: dict[str, Any]) -> None:
    for row in results["rows"]:
        if row["noise"] == "Gaussian" and row["sigma"] == row["declared"]:
            for level in (0.05, 0.01):
                margin = 5 * np.sqrt(level / row["batches"])
                assert row[f"combined_{level:g}"] <= level + margin
    for row in results["exact"]:
        if row["sigma"] == row["declared"]:
            assert row["rms"] == pytest.approx(row["threshold"], rel=1e-3)


def test_noise_told_too_small_is_convicted_more_often_the_more_nonces(results: dict[str, Any]) -> None:
    shares = [row["rms"] for row in results["exact"] if row["sigma"] == 0.12 and row["threshold"] == 1e-7]
    assert shares == sorted(shares)
    assert shares[-1] > 1e-3


def test_larger_errors_are_missed_less(results: dict[str, Any]) -> None:
    missed = [row["missed_1e-07"] for row in results["missed"] if row["sigma"] == 0.1 and row["n"] == 256]
    assert missed == sorted(missed, reverse=True)
    assert missed[-1] < 1e-6
    assert [row["threshold"] for row in results["recommended"]] == [0.01, 1e-7]
    assert 3 <= len(results["findings"]) <= 8
