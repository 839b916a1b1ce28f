"""The experiment on the law, shortened; it fails where a nonce's numbers do not follow the law."""

from pathlib import Path

import law
import numpy as np
from experiments import shortened


def test_numbers_follow_the_law_whatever_the_outputs(tmp_path: Path) -> None:
    results = shortened("law", tmp_path)
    assert {row["outputs"] for row in results["rows"]} == set(law.KINDS)
    assert {row["projection"] for row in results["rows"]} == {"on", "off"}
    assert {row["k"] for row in results["rows"]} == {1, 16}
    assert 3 <= len(results["findings"]) <= 8
    assert results["combined"]["least"] > law.MIN_P_VALUE


def numbers(width: int, count: int, k: int) -> law.Numbers:
    places = np.random.default_rng(0).standard_normal((count, k, width))
    found: law.Numbers = np.sqrt(width) * places[:, :, 0] / np.linalg.norm(places, axis=2)
    return found


def test_the_test_of_the_law_sees_another_law() -> None:
    """A few hundred numbers that are 0.3 too large refute it."""
    drawn = numbers(256, 400, 1)
    assert law.p_value_of_law(drawn, 256) > 1e-3
    assert law.p_value_of_law(drawn + 0.3, 256) < law.MIN_P_VALUE


def test_the_test_of_independence_sees_numbers_that_share_a_part() -> None:
    drawn = numbers(64, 2_000, 4)
    sizes = law.standard_sizes(drawn, 64)
    assert abs(sizes.mean()) < 0.1
    assert abs(sizes.var() - 1) < 0.1
    assert law.p_value_of_pairs(drawn) > 1e-3
    assert law.p_value_of_pairs(sizes) > 1e-3
    shared = (drawn + 0.5 * drawn[:, :1]) / np.sqrt(1.25)
    assert law.p_value_of_pairs(shared) < law.MIN_P_VALUE
    # With signs at random the numbers are uncorrelated, and their sizes are not.
    signs = np.random.default_rng(1).choice([-1.0, 1.0], drawn.shape)
    alike = signs * np.abs(drawn[:, :1])
    assert law.p_value_of_pairs(alike) > 1e-3
    assert law.p_value_of_pairs(law.standard_sizes(alike, 64)) < law.MIN_P_VALUE
