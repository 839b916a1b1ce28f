"""Calibration: what is measured of errors that are known, and what is refused."""

import math

import numpy as np
import pytest
from scipy import stats

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.law import distance_std, r_target_for
from hallmark.poc.verdict.calibration import MIN_SIGMA, Calibration, check_law, sigma_bound

WIDTH = 1024
S = distance_std(WIDTH)


def distances(count: int, *, rate: float = 1.0, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """By the law, of a round with a valid rate."""
    shape = (width - 1) / 2
    u = np.random.default_rng(seed).uniform(0, rate, count)
    found: np.ndarray = 2 * np.sqrt(stats.beta.ppf(u, shape, shape))
    return found


def measured(errors: np.ndarray) -> Calibration:
    """With errors in units of s."""
    base = distances(len(errors))
    return Calibration.measure((base + S * errors).tolist(), base.tolist(), WIDTH)


def gaussian(count: int, sigma: float, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sigma, count)


def test_gaussian_errors() -> None:
    errors = gaussian(10_000, 0.05)
    found = measured(errors)
    assert found.n == 10_000
    assert found.sigma == pytest.approx(0.05, rel=0.03)
    assert found.sigma == pytest.approx(float(np.sqrt(np.mean(errors**2))), rel=1e-6)
    assert found.kurtosis == pytest.approx(3, abs=0.2)
    assert found.mean == pytest.approx(float(errors.mean()), abs=1e-9)
    assert found.largest == pytest.approx(float(np.abs(errors).max()), rel=1e-6)
    assert found.n_beyond == 0
    assert found.sigma < found.sigma_bound < 1.03 * found.sigma
    assert found.honest_sigma == math.ceil(found.sigma_bound * 1e4) / 1e4
    assert found.distance_tolerance == 0.35
    assert found.holds


def test_the_bound_is_the_chi_squared_one_and_covers_as_often_as_it_says() -> None:
    expected = 0.05 * math.sqrt(200 / stats.chi2.ppf(0.01, 200))
    assert sigma_bound(0.05, 200, 3.0) == pytest.approx(expected, rel=1e-12)
    draws = np.random.default_rng(2).normal(0, 0.05, (4_000, 200))
    bounds = [sigma_bound(float(s), 200, 3.0) for s in np.sqrt(np.mean(draws**2, axis=1))]
    covered = sum(bound >= 0.05 for bound in bounds)
    low, high = stats.binom.interval(0.999, 4_000, 0.99)
    assert low <= covered <= high


def test_heavier_tails_widen_the_bound() -> None:
    assert sigma_bound(0.05, 1_000, 6.0) == pytest.approx(
        0.05 * math.sqrt(400 / stats.chi2.ppf(0.01, 400)), rel=1e-12
    )
    found = measured(0.03 * np.random.default_rng(3).standard_t(5, 6_000))
    assert found.kurtosis > 4
    assert found.honest_kurtosis >= found.kurtosis
    assert found.sigma_bound > sigma_bound(found.sigma, 6_000, 3.0)


def test_lighter_tails_count_as_gaussian() -> None:
    found = measured(np.tile([0.05, -0.05], 500))
    assert found.kurtosis == pytest.approx(1)
    assert found.honest_kurtosis == 3.0


def test_identical_platforms_are_given_the_floor() -> None:
    found = measured(np.zeros(100))
    assert (found.sigma, found.sigma_bound, found.largest) == (0, 0, 0)
    assert (found.honest_sigma, found.honest_kurtosis, found.distance_tolerance) == (MIN_SIGMA, 3.0, 0.35)


@pytest.mark.parametrize(("count", "beyond"), [(5_990, 0), (5_989, 0), (6_000, 1), (20_000, 3)])
def test_the_share_beyond_the_tolerance_is_clopper_pearsons(count: int, beyond: int) -> None:
    """5,990 is the least number that shows 5e-4 with 95 % confidence; one exceedance undoes 6,000."""
    errors = np.zeros(count)
    errors[:beyond] = 0.36
    found = measured(errors)
    assert found.n_beyond == beyond
    interval = stats.binomtest(beyond, count, alternative="less").proportion_ci(0.95, "exact")
    assert found.beyond_bound == pytest.approx(interval.high, rel=1e-9)
    assert found.holds == (interval.high <= 5e-4)
    assert found.holds == ((count, beyond) in [(5_990, 0), (20_000, 3)])


def test_errors_just_inside_and_just_outside_of_the_tolerance() -> None:
    inside, outside = (measured(np.array([size, *gaussian(1_899, 0.03)])) for size in (0.3499, 0.3501))
    assert (inside.n_beyond, outside.n_beyond) == (0, 1)
    assert (inside.distance_tolerance, outside.distance_tolerance) == (0.35, 0.36)


def test_a_noisy_pair_needs_more_tolerance_and_a_round_takes_the_settings() -> None:
    found = measured(gaussian(6_000, 0.2))
    assert found.distance_tolerance >= 3.48 * found.honest_sigma
    PoCConfig(
        block_hash="b",
        block_height=0,
        public_key="k",
        honest_sigma=found.honest_sigma,
        honest_kurtosis=found.honest_kurtosis,
        distance_tolerance=found.distance_tolerance,
    )


def test_unrelated_distances_are_no_calibration() -> None:
    with pytest.raises(StateError, match=r"1\.[34]\d s apart, and unrelated ones 1\.41 s"):
        Calibration.measure(distances(500).tolist(), distances(500, seed=9).tolist(), WIDTH)


def test_too_few_nonces() -> None:
    with pytest.raises(FieldError, match="at least 100"):
        measured(np.zeros(99))


@pytest.mark.parametrize("second", [[0.0] * 101, [math.nan] * 100])
def test_what_cannot_be_compared(second: list[float]) -> None:
    with pytest.raises(ValueError, match="as many finite distances"):
        Calibration.measure([0.0] * 100, second, WIDTH)


class TestLaw:
    @pytest.mark.parametrize("width", [64, 256, 1024, 16_384])
    @pytest.mark.parametrize("count", [100, 6_000, 200_000])
    def test_every_nonce_passes(self, width: int, count: int) -> None:
        check_law(distances(count, width=width).tolist(), width)

    @pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
    def test_a_round_below_rate_1_is_told(self, rate: float) -> None:
        values = distances(100, rate=rate)
        assert values.max() <= r_target_for(rate, WIDTH)
        with pytest.raises(StateError, match="below rate 1"):
            check_law(values.tolist(), WIDTH)

    @pytest.mark.parametrize("factor", [1 / 4, 4])
    def test_another_width_is_told(self, factor: float) -> None:
        with pytest.raises(FieldError, match="hidden_size"):
            check_law(distances(100).tolist(), int(WIDTH * factor))
