"""Calibration: what is measured of errors that are known, and what is refused."""

import math

import numpy as np
import pytest
from builders import make_round
from scipy import stats

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.protocol.law import r_target_for
from hallmark.poc.verdict.calibration import MIN_SIGMA, Calibration, check_law, clipped_sigma, sigma_bound

WIDTH = 1024


def distances(count: int, *, rate: float = 1.0, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """By the law, of a round with a valid rate."""
    shape = (width - 1) / 2
    u = np.random.default_rng(seed).uniform(0, rate, count)
    found: np.ndarray = 2 * np.sqrt(stats.beta.ppf(u, shape, shape))
    return found


def gaussian(n: int, sigma: float, numbers: int = 1, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sigma, (n, numbers))


@pytest.mark.parametrize("numbers", [1, 16])
def test_gaussian_errors(numbers: int) -> None:
    errors = gaussian(10_000, 0.05, numbers)
    found = Calibration.measure(errors)
    assert (found.n, found.numbers) == (10_000, numbers)
    assert found.sigma == pytest.approx(0.05, rel=0.03)
    assert found.kurtosis == pytest.approx(3, abs=0.2)
    assert found.mean == pytest.approx(float(errors[:, 0].mean()), abs=1e-9)
    assert found.largest == float(np.abs(errors).max())
    assert found.sigma < found.sigma_bound < 1.04 * found.sigma
    assert found.honest_sigma == math.ceil(found.sigma_bound * 1e4) / 1e4
    assert found.honest_beyond < 0.003
    assert found.design_effect == pytest.approx(1, abs=0.3) or found.n_beyond < 30


def test_sigma_is_the_fixed_point_of_the_clipped_rms() -> None:
    errors = np.random.default_rng(3).standard_t(2.5, (4_000, 4))
    sigma = clipped_sigma(errors)
    assert np.sqrt(np.mean(np.clip(errors, -3.5 * sigma, 3.5 * sigma) ** 2)) == pytest.approx(sigma)
    assert sigma < np.sqrt(np.mean(errors**2))
    assert clipped_sigma(np.zeros((10, 2))) == 0.0
    assert clipped_sigma(np.eye(13)) == 0.0
    assert clipped_sigma(np.eye(12)) > 0.0


def test_numbers_that_flip_do_not_raise_it() -> None:
    errors = gaussian(1_000, 0.05, 16)
    errors[::20, 3] = 1.4
    assert clipped_sigma(errors) == pytest.approx(0.05, rel=0.03)


@pytest.mark.parametrize("numbers", [1, 4])
def test_the_bound_is_the_chi_squared_one_and_covers_as_often_as_it_says(numbers: int) -> None:
    degrees = 200 * numbers
    expected = 0.05 * math.sqrt(degrees / stats.chi2.ppf(0.001, degrees))
    assert sigma_bound(0.05, 200, 3.0, numbers) == pytest.approx(expected, rel=1e-12)
    draws = np.random.default_rng(2).normal(0, 0.05, (20_000, degrees))
    sigmas = np.sqrt(np.mean(draws**2, axis=1))
    missed = int(np.sum(sigmas * (expected / 0.05) < 0.05))
    low, high = stats.binom.interval(0.9999, 20_000, 0.001)
    assert low <= missed <= high


def test_heavier_tails_widen_the_bound() -> None:
    assert sigma_bound(0.05, 1_000, 6.0) == pytest.approx(
        0.05 * math.sqrt(400 / stats.chi2.ppf(0.001, 400)), rel=1e-12
    )
    found = Calibration.measure(0.03 * np.random.default_rng(3).standard_t(5, (6_000, 1)))
    assert found.kurtosis > 3.5
    assert found.honest_kurtosis >= found.kurtosis
    assert found.sigma_bound > sigma_bound(found.sigma, 6_000, 3.0)


def test_lighter_tails_count_as_gaussian() -> None:
    found = Calibration.measure(np.tile([0.05, -0.05], (6_000, 1)))
    assert found.kurtosis == pytest.approx(1)
    assert found.honest_kurtosis == 3.0


def test_identical_platforms_are_given_the_floor() -> None:
    found = Calibration.measure(np.zeros((6_000, 16)))
    assert (found.sigma, found.sigma_bound, found.largest) == (0, 0, 0)
    assert (found.honest_sigma, found.honest_kurtosis) == (MIN_SIGMA, 3.0)


@pytest.mark.parametrize(("n", "numbers"), [(64, 1), (64, 16), (5_999, 16), (6_000, 16)])
def test_on_few_nonces_only_sigma_is_lowered(n: int, numbers: int) -> None:
    found = Calibration.measure(gaussian(n, 0.03, numbers))
    is_enough = n >= 6_000
    assert (found.honest_kurtosis < 5.0) is is_enough
    assert (found.honest_beyond < 0.02) is is_enough
    assert (found.honest_design_effect < 4.0) is (is_enough and found.n_beyond >= 30)
    assert found.honest_sigma < 0.1


def test_the_share_beyond_is_clopper_pearsons() -> None:
    errors = gaussian(8_000, 0.03)
    errors[:40] = 1.0
    found = Calibration.measure(errors)
    interval = stats.binomtest(found.n_beyond, 8_000).proportion_ci(0.998, "exact")
    assert found.n_beyond >= 40
    assert found.beyond_bound == pytest.approx(interval.high, rel=1e-9)
    assert found.honest_beyond == math.ceil(found.beyond_bound * 1e4) / 1e4


def test_errors_that_come_together_count_as_fewer() -> None:
    errors = gaussian(6_000, 0.03, 16)
    errors[:60, :8] = 1.0
    found = Calibration.measure(errors)
    assert found.design_effect == pytest.approx(8, rel=0.1)
    assert found.honest_design_effect == pytest.approx(found.design_effect, abs=0.01)


def test_a_round_takes_the_settings() -> None:
    found = Calibration.measure(gaussian(200, 0.2, 4))
    round_ = make_round(
        honest_sigma=found.honest_sigma,
        honest_kurtosis=found.honest_kurtosis,
        honest_beyond=found.honest_beyond,
        honest_design_effect=found.honest_design_effect,
    )
    assert round_.honest_sigma == found.honest_sigma


def test_unrelated_numbers_are_no_calibration() -> None:
    with pytest.raises(StateError, match=r"1\.[34]\d s apart, and unrelated ones 1\.41 s"):
        Calibration.measure(gaussian(500, math.sqrt(2), 4))


def test_too_few_nonces() -> None:
    with pytest.raises(FieldError, match="at least 64"):
        Calibration.measure(np.zeros((63, 16)))


@pytest.mark.parametrize("errors", [np.zeros(100), np.full((100, 2), math.nan), np.zeros((100, 0))])
def test_what_cannot_be_measured(errors: np.ndarray) -> None:
    with pytest.raises(ValueError, match="as many of each nonce"):
        Calibration.measure(errors)


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
