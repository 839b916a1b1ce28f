"""The experiment on the law, shortened; it fails where models' distances do not follow the law."""

from pathlib import Path

import law
import numpy as np
import pytest
from experiments import shortened

from hallmark.poc.protocol.law import r_target_for


@pytest.mark.slow
def test_distances_of_models_follow_the_law(tmp_path: Path) -> None:
    results = shortened("law", tmp_path)
    assert {row["projection"] for row in results["rows"]} == {"on", "off"}
    assert 3 <= len(results["findings"]) <= 8
    assert min(results["combined"][name] for name in ("p_own", "p_more")) > law.MIN_P_VALUE
    for row in results["rates"]:
        assert row["low"] < 1 < row["high"]


def test_the_test_of_the_law_sees_another_law() -> None:
    """A few hundred distances that are 0.3 s too small refute it."""
    width, draw = 256, np.random.default_rng(0)
    places = draw.standard_normal((400, width))
    distances = np.sqrt(2 - 2 * places[:, 0] / np.linalg.norm(places, axis=1))
    assert law.p_value_of_law(distances, width) > 1e-3
    assert law.p_value_of_law(distances - 0.3 / np.sqrt(2 * width), width) < law.MIN_P_VALUE


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_spread_between_blocks_is_found_beneath_their_sampling(spread: float) -> None:
    draw = np.random.default_rng(1)
    rates = 0.1 * (1 + spread * draw.uniform(-1, 1, 4000) * np.sqrt(3))
    shares = draw.binomial(128, rates) / 128
    assert law.spread_between(shares, 128) == pytest.approx(spread, abs=0.05)


def test_valid_shares_are_those_of_blocks() -> None:
    r_target = r_target_for(0.1, 256)
    distances = np.array([[r_target - 0.01, 2.0], [2.0, 2.0]])
    assert law.valid_shares([distances, distances[:1]], 256, 0.1).tolist() == [0.5, 0.0, 0.5]
