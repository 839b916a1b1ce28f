"""The tests of a batch: p-values against scipy and simulation, and each threshold from both sides."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hallmark.poc.core.errors import FieldError
from hallmark.poc.verdict.hypothesis_tests import (
    LAW_MARGIN,
    PROBABILITY_MISMATCH,
    NonceBound,
    beyond_test,
    binomial_test,
    bonferroni,
    cosine_errors,
    counted_kurtosis,
    degrees_of_freedom,
    density_bounds,
    density_test,
    mean_squares,
    nonce_bound,
    probability_at_least,
    probability_at_most,
    rms_test,
    selected_mean,
    selected_mean_square,
    signed_mean_test,
)

Floats = npt.NDArray[np.float64]
SIGMA = 0.1
LIMIT = 0.35


class TestBinomial:
    @pytest.mark.parametrize(
        ("k", "n"),
        [(k, n) for k in (0, 1, 2, 5, 12) for n in (1, 5, 100, 200, 1000, 9031) if k <= n],
    )
    def test_p_value_is_scipy_s(self, k: int, n: int) -> None:
        expected = stats.binomtest(k, n, PROBABILITY_MISMATCH, alternative="greater").pvalue
        assert probability_at_least(k, n, PROBABILITY_MISMATCH) == pytest.approx(expected, rel=1e-9)
        assert binomial_test(k, n) == probability_at_least(k, n, 5e-4)

    @pytest.mark.parametrize("p", [1e-9, 0.01, 0.5, 0.93, 1.0])
    @pytest.mark.parametrize(
        ("k", "n"), [(0, 1), (1, 1), (0, 500), (3, 500), (250, 500), (499, 500), (500, 500)]
    )
    def test_both_tails_are_scipy_s(self, k: int, n: int, p: float) -> None:
        assert probability_at_most(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), rel=1e-8, abs=1e-300)
        assert probability_at_least(k, n, p) == pytest.approx(
            stats.binom.sf(k - 1, n, p), rel=1e-8, abs=1e-300
        )

    def test_nothing_invalid_is_certain_and_more_than_all_is_impossible(self) -> None:
        assert (binomial_test(0, 0), binomial_test(0, 100), probability_at_most(5, 5, 0.3)) == (1.0, 1.0, 1.0)
        assert probability_at_least(6, 5, 0.3) == 0.0

    @pytest.mark.parametrize(("n", "smallest"), [(6, 1), (7, 2), (100, 2), (200, 3), (1000, 4), (1700, 5)])
    def test_the_threshold_from_both_sides(self, n: int, smallest: int) -> None:
        """At 0.01 / 3, one of three tests."""
        assert binomial_test(smallest, n) < 0.01 / 3 <= binomial_test(smallest - 1, n)


class TestRms:
    @pytest.mark.parametrize("n", [1, 2, 9, 400])
    @pytest.mark.parametrize("kurtosis", [1.5, 3.0, 7.0])
    def test_p_value_is_chi_square_s(self, n: int, kurtosis: float) -> None:
        errors = np.random.default_rng(n).normal(0, 0.12, n)
        degrees = 2 * n / (kurtosis - 1)
        expected = stats.chi2.sf(degrees * np.mean(errors**2) / SIGMA**2, degrees)
        assert rms_test(errors, SIGMA, kurtosis) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("threshold", [0.01, 0.01 / 3, 1e-7])
    @pytest.mark.parametrize("n", [5, 50, 3000])
    def test_the_threshold_from_both_sides(self, n: int, threshold: float) -> None:
        """All errors as large as chi-square allows, and a thousandth more."""
        at = SIGMA * math.sqrt(stats.chi2.isf(threshold, n) / n)
        signs = np.resize([1.0, -1.0], n)
        assert rms_test(0.999 * at * signs, SIGMA) > threshold > rms_test(1.001 * at * signs, SIGMA)

    def test_beyond_the_limit_an_error_counts_as_the_limit(self) -> None:
        errors = np.zeros(10_000)
        errors[0] = 100.0
        assert rms_test(errors, 0.9) == pytest.approx(stats.chi2.sf(1e4 / 0.81, 10_000))
        assert rms_test(errors, 0.9, limit=3.5) == rms_test(errors.clip(max=3.5), 0.9) == 1.0
        assert rms_test([-0.5] * 4, SIGMA, limit=LIMIT) == rms_test([LIMIT] * 4, SIGMA)

    def test_one_gross_error_among_many_honest_ones_is_left_to_the_binomial_test(self) -> None:
        errors = np.random.default_rng(3).normal(0, SIGMA, 10_000)
        errors[17] = 40.0
        assert rms_test(errors, SIGMA) < 1e-9
        assert rms_test(errors, SIGMA, limit=LIMIT) > 0.05
        assert binomial_test(int(np.sum(np.abs(errors) > LIMIT)), errors.size) > 0.05

    def test_kurtosis_counts_up_to_what_the_limit_lets_there_be(self) -> None:
        errors = [0.3, -0.2, 0.1]
        assert rms_test(errors, SIGMA, 1e6, limit=LIMIT) == pytest.approx(rms_test(errors, SIGMA, 12.25))
        assert rms_test(errors, SIGMA, 6.0, limit=LIMIT) == rms_test(errors, SIGMA, 6.0)

    def test_selection_raises_what_is_allowed(self) -> None:
        at_rate = rms_test([0.15] * 20, SIGMA, rate=0.01)
        most = selected_mean_square(0.01, SIGMA)
        assert at_rate == pytest.approx(stats.chi2.sf(20 * 0.15**2 / most, 20))
        assert at_rate > rms_test([0.15] * 20, SIGMA)

    def test_where_honest_errors_may_exceed_the_limit_nothing_is_too_large(self) -> None:
        assert rms_test([9.0] * 50, 0.5, limit=0.4) == 1.0
        assert rms_test([9.0] * 50, 0.1, rate=1e-300, limit=0.35) == 1.0


class TestNumbers:
    """Several numbers a nonce."""

    @pytest.mark.parametrize(
        ("numbers", "kurtosis", "size"),
        [(16, 3.0, 1.73), (16, 3.9, 2.44), (16, 4.8, 2.91), (2, 3.0, 3.15), (16, 1.0, 1.73)],
    )
    def test_the_bound_of_a_nonce_is_the_published_one(
        self, numbers: int, kurtosis: float, size: float
    ) -> None:
        bound = nonce_bound(numbers, kurtosis, 0.02)
        assert bound.size == pytest.approx(size, abs=0.005)
        assert bound.probability == 5e-4

    def test_where_clipping_would_hide_everything_the_share_beyond_decides(self) -> None:
        assert nonce_bound(2, 5.0, 0.03) == NonceBound(3.4, 0.03)
        assert nonce_bound(1, 3.0, 0.03) == NonceBound(3.5, 0.03)

    def test_degrees_of_freedom(self) -> None:
        assert degrees_of_freedom(3.0, 16) == pytest.approx(16)
        assert degrees_of_freedom(5.0, 1) == pytest.approx(2 / 4)
        assert (counted_kurtosis(1.0), counted_kurtosis(4.0), counted_kurtosis(99.0)) == (3.0, 4.0, 12.25)

    @pytest.mark.parametrize("kurtosis", [3.0, 5.0])
    def test_the_rms_is_chi_squared_with_the_degrees_of_all_nonces(self, kurtosis: float) -> None:
        errors = np.random.default_rng(0).normal(0, 0.11, (50, 16))
        degrees = 50 * degrees_of_freedom(kurtosis, 16)
        expected = stats.chi2.sf(degrees * np.mean(errors**2) / SIGMA**2, degrees)
        assert rms_test(errors, SIGMA, kurtosis) == pytest.approx(expected, rel=1e-9)

    def test_below_rate_1_the_first_is_left_out(self) -> None:
        errors = np.random.default_rng(0).normal(0, 0.11, (50, 3))
        assert rms_test(errors, SIGMA, rate=0.1) == rms_test(errors[:, 1:], SIGMA)
        assert rms_test(errors[:, :2], SIGMA, 4.0, rate=0.1) == rms_test(errors[:, 1], SIGMA, 4.0)

    def test_mean_squares_are_of_clipped_errors(self) -> None:
        found = mean_squares(np.array([[0.1, -9.0], [0.2, 0.0]]), 0.3)
        assert found == pytest.approx([(0.01 + 0.09) / 2, 0.02])


class TestBeyond:
    def test_p_value_is_the_binomial_s_of_what_errors_are_worth(self) -> None:
        errors = np.zeros((100, 16))
        errors[:10, :9] = 1.0
        for effect, worth, count in ((1.0, 1600, 90), (4.0, 400, 22), (7.0, 229, 12)):
            expected = stats.binom.sf(count - 1, worth, 0.02)
            assert beyond_test(errors, LIMIT, 0.02, effect) == pytest.approx(expected, rel=1e-9)

    def test_the_limit_itself_is_within(self) -> None:
        assert beyond_test([LIMIT, -LIMIT], LIMIT, 0.02) == 1.0
        assert beyond_test([math.nextafter(LIMIT, 1)] * 4, LIMIT, 0.02) == pytest.approx(0.02**4)

    @pytest.mark.parametrize(
        ("field", "arguments"),
        [
            ("errors", ([], LIMIT, 0.02)),
            ("errors", ([math.nan], LIMIT, 0.02)),
            ("probability", ([0.1], LIMIT, 1.5)),
            ("design_effect", ([0.1], LIMIT, 0.02, 0.5)),
        ],
    )
    def test_what_it_refuses(self, field: str, arguments: tuple[list[float], float, float]) -> None:
        with pytest.raises(FieldError) as caught:
            beyond_test(*arguments)
        assert caught.value.field == field


class TestSignedMean:
    @pytest.mark.parametrize("n", [1, 7, 500])
    def test_p_value_is_the_normal_distribution_s(self, n: int) -> None:
        errors = np.random.default_rng(n).normal(-0.02, 0.1, n)
        expected = stats.norm.cdf(np.mean(errors) * math.sqrt(n) / SIGMA)
        for kurtosis in (1.5, 3.0):
            assert signed_mean_test(errors, SIGMA, kurtosis) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("n", [1, 4, 100])
    def test_heavy_tails_are_a_student_s_t_of_the_same_four_moments(self, n: int) -> None:
        degrees = 4 + 6 * n / (6 - 3)
        of_the_mean = stats.t(degrees, scale=SIGMA / math.sqrt(n) * math.sqrt((degrees - 2) / degrees))
        assert of_the_mean.std() == pytest.approx(SIGMA / math.sqrt(n))
        assert of_the_mean.stats(moments="k") == pytest.approx(3 / n)
        assert signed_mean_test([-0.2] * n, SIGMA, 6.0) == pytest.approx(of_the_mean.cdf(-0.2), rel=1e-9)

    @pytest.mark.parametrize("rate", [1.0, 0.5, 0.01])
    @pytest.mark.parametrize("threshold", [0.01, 0.01 / 3, 1e-7])
    @pytest.mark.parametrize("n", [5, 50, 3000])
    def test_the_threshold_from_both_sides(self, n: int, threshold: float, rate: float) -> None:
        allowed = selected_mean(rate, SIGMA)
        at = stats.norm.ppf(threshold) * SIGMA / math.sqrt(n)
        inside, outside = ([allowed + factor * at] * n for factor in (0.999, 1.001))
        assert signed_mean_test(inside, SIGMA, rate=rate) > threshold
        assert signed_mean_test(outside, SIGMA, rate=rate) < threshold

    def test_raised_distances_are_never_suspicious(self) -> None:
        assert signed_mean_test([0.3] * 100, SIGMA) == 1.0

    def test_beyond_the_limit_an_error_counts_as_the_limit(self) -> None:
        errors = [-9.0, *[0.0] * 20]
        assert signed_mean_test(errors, SIGMA) < 1e-9
        assert (
            signed_mean_test(errors, SIGMA, limit=LIMIT)
            == signed_mean_test([-LIMIT, *errors[1:]], SIGMA)
            > 0.1
        )
        assert signed_mean_test(errors, SIGMA, 1e6, limit=LIMIT) == signed_mean_test(
            errors, SIGMA, 12.25, limit=LIMIT
        )


class TestDensity:
    def test_p_value_is_scipy_s(self) -> None:
        for k, n, rate in (
            (50, 1000, 0.1),
            (130, 1000, 0.1),
            (700, 1000, 0.75),
            (800, 1000, 0.75),
            (0, 40, 0.1),
        ):
            low, high = density_bounds(rate, 0.05)
            less = stats.binomtest(k, n, low, alternative="less").pvalue
            greater = stats.binomtest(k, n, high, alternative="greater").pvalue
            assert density_test(k, n, rate, 0.05) == pytest.approx(min(1.0, 2 * min(less, greater)), rel=1e-9)

    def test_bounds_are_the_rate_widened_by_noise_and_by_the_table(self) -> None:
        assert density_bounds(0.1, 0.0) == pytest.approx((0.1 * 0.989, 0.1 * 1.011))
        widened = stats.norm.cdf(stats.norm.ppf(0.1) / math.sqrt(1.01))
        assert density_bounds(0.1, 0.1) == pytest.approx((0.1 * 0.989, widened * 1.011))
        widened = stats.norm.cdf(stats.norm.ppf(0.9) / math.sqrt(1.01))
        assert density_bounds(0.9, 0.1) == pytest.approx((widened * 0.989, 0.9 * 1.011))
        assert density_bounds(0.5, 0.1) == pytest.approx((0.5 * 0.989, 0.5 * 1.011))
        assert density_bounds(0.999, 0.1)[1] == 1.0
        assert LAW_MARGIN == 0.011

    @pytest.mark.parametrize("threshold", [0.01, 0.0025, 1e-7])
    @pytest.mark.parametrize(("n", "rate"), [(1000, 0.1), (200_000, 0.01), (300, 0.5), (500, 0.9)])
    def test_the_threshold_from_both_sides(self, n: int, rate: float, threshold: float) -> None:
        low, high = density_bounds(rate, SIGMA)
        fewest = int(stats.binom.ppf(threshold / 2, n, low))
        assert density_test(fewest, n, rate, SIGMA) >= threshold > density_test(fewest - 1, n, rate, SIGMA)
        most = int(stats.binom.isf(threshold / 2, n, high))
        assert density_test(most, n, rate, SIGMA) >= threshold > density_test(most + 1, n, rate, SIGMA)

    @pytest.mark.parametrize("n", [10**3, 10**6])
    def test_every_rate_within_the_bounds_passes(self, n: int) -> None:
        for rate in (0.01, 0.1, 0.5, 0.9):
            for share in density_bounds(rate, SIGMA):
                assert density_test(round(share * n), n, rate, SIGMA) > 0.5

    def test_more_valid_nonces_than_covered_ones_are_impossible(self) -> None:
        assert density_test(11, 10, 0.5, SIGMA) == 0.0


class TestErrors:
    def test_are_those_of_the_cosine_in_its_standard_deviation(self) -> None:
        width = 512
        cosines = np.array([0.0, 0.05, -0.3]), np.array([0.01, 0.0, -0.31])
        received, computed = (np.sqrt(2 - 2 * cosine) for cosine in cosines)
        errors = cosine_errors(received, computed, 1 / math.sqrt(2 * width))
        assert errors == pytest.approx((cosines[1] - cosines[0]) * math.sqrt(width))

    def test_around_the_median_are_differences_in_units_of_s(self) -> None:
        s = 1 / math.sqrt(2 * 4096)
        half = math.sqrt(2)
        assert cosine_errors([half + 0.05 * s], [half - 0.05 * s], s) == pytest.approx([0.1])
        assert cosine_errors([], [], s).size == 0


class TestSelection:
    def test_at_rate_one_there_is_none(self) -> None:
        assert (selected_mean(1.0, SIGMA), selected_mean_square(1.0, SIGMA)) == (0.0, SIGMA**2)

    @pytest.mark.parametrize("sigma", [0.05, 0.1, 0.7])
    @pytest.mark.parametrize("rate", [0.9, 0.5, 0.1, 0.01])
    def test_moments_are_those_of_the_integral(self, rate: float, sigma: float) -> None:
        """Of received R = C + e the part below the threshold Φ⁻¹(rate), C and e independent and normal."""
        e = np.linspace(-9 * sigma, 9 * sigma, 20_001)
        weight = stats.norm.pdf(e / sigma) * stats.norm.cdf(stats.norm.ppf(rate) - e)
        mean, square = (float(np.sum(weight * e**k) / np.sum(weight)) for k in (1, 2))
        assert selected_mean(rate, sigma) == pytest.approx(mean, rel=1e-6)
        assert selected_mean_square(rate, sigma) == pytest.approx(max(square, sigma**2), rel=1e-6)

    def test_rates_too_small_for_a_density_are_finite(self) -> None:
        assert -1 < selected_mean(1e-300, SIGMA) < selected_mean(0.01, SIGMA) < 0
        assert 0 < selected_mean_square(1e-300, SIGMA) < 1

    @pytest.mark.parametrize("rate", [0.5, 0.1, 0.01])
    def test_unit_vectors_keep_the_law_and_half_of_the_allowance(self, rate: float) -> None:
        """Two unit vectors at an angle against a uniform target, exactly: only three coordinates matter."""
        width, sigma, draws = 1024, 0.1, 2_000_000
        rng = np.random.default_rng(11)
        first, second = rng.standard_normal((2, draws))
        norm = np.sqrt(first**2 + second**2 + rng.chisquare(width - 2, draws))
        cosine = 1 - sigma**2 / 2
        s = 1 / math.sqrt(2 * width)
        computed = np.sqrt(2 - 2 * first / norm)
        received = np.sqrt(2 - 2 * (cosine * first + math.sqrt(1 - cosine**2) * second) / norm)
        errors = cosine_errors(received, computed, s)
        assert np.sqrt(np.mean(errors**2)) == pytest.approx(sigma, rel=0.01)
        selected = received < np.quantile(computed, rate)
        chosen = errors[selected]
        assert chosen.size == pytest.approx(rate * draws, abs=6 * math.sqrt(2 * rate * draws))
        mills = stats.norm.pdf(stats.norm.ppf(rate)) / rate
        error_of_mean = sigma / math.sqrt(chosen.size)
        assert np.mean(chosen) == pytest.approx(-(sigma**2) / 2 * mills, abs=5 * error_of_mean)
        assert np.mean(chosen) > selected_mean(rate, sigma)
        assert np.mean(chosen**2) < selected_mean_square(rate, sigma) * (1 + 5 * math.sqrt(2 / chosen.size))
        assert np.mean(chosen**2) == pytest.approx(sigma**2, rel=0.02 + 5 * math.sqrt(2 / chosen.size))
        # The plain difference of distances grows as they get smaller.
        plain = ((received - computed) / s)[selected]
        magnified = np.mean(2 / computed[selected] ** 2)
        assert np.mean(plain**2) == pytest.approx(magnified * np.mean(chosen**2), rel=0.01)


def gaussian(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    return rng.standard_normal(size)


def laplace(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    return rng.laplace(0, math.sqrt(0.5), size)


def student(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    return np.asarray(rng.standard_t(6, size) / math.sqrt(1.5))


def share_below(p_values: list[float], threshold: float) -> float:
    return float(np.mean(np.array(p_values) < threshold))


def nominal(threshold: float, trials: int) -> float:
    """What a test of that level does not exceed, with room for chance of one in 30,000."""
    return threshold + 4 * math.sqrt(threshold / trials)


class TestFalseAlarms:
    """Honest provers, all noise their own, whose σ is stated exactly: the worst that H0 allows."""

    TRIALS = 4000
    THRESHOLDS = (0.01, 0.0033)

    @pytest.mark.parametrize("sigma", [0.05, 0.1])
    @pytest.mark.parametrize("rate", [1.0, 0.5, 0.1, 0.01])
    @pytest.mark.parametrize("n", [3, 40, 400])
    def test_of_gaussian_noise_after_the_selection(self, n: int, rate: float, sigma: float) -> None:
        rng = np.random.default_rng([n, round(1 / rate), round(1000 * sigma)])
        threshold = stats.norm.ppf(rate)
        # R below the threshold by inversion, then e given R.
        received = math.hypot(1, sigma) * stats.norm.ppf(
            rng.random((self.TRIALS, n)) * stats.norm.cdf(threshold / math.hypot(1, sigma))
        )
        share = sigma**2 / (1 + sigma**2)
        errors = share * received + math.sqrt(share) * rng.standard_normal(received.shape)
        rms, mean = [], []
        for one in errors:
            rms.append(rms_test(one, sigma, rate=rate, limit=3.5 * sigma))
            mean.append(signed_mean_test(one, sigma, rate=rate, limit=3.5 * sigma))
        combined = [bonferroni(pair) for pair in zip(rms, mean, strict=True)]
        for level in self.THRESHOLDS:
            for p_values in (rms, mean, combined):
                assert share_below(p_values, level) <= nominal(level, self.TRIALS)

    @pytest.mark.parametrize("noise", [laplace, student])
    @pytest.mark.parametrize("n", [2, 10, 100])
    def test_of_heavy_tails_whose_kurtosis_is_stated(
        self, n: int, noise: Callable[[np.random.Generator, tuple[int, int]], Floats]
    ) -> None:
        errors = SIGMA * noise(np.random.default_rng(n), (self.TRIALS, n))
        rms = [rms_test(one, SIGMA, 6.0, limit=LIMIT) for one in errors]
        mean = [signed_mean_test(one, SIGMA, 6.0, limit=LIMIT) for one in errors]
        for level in self.THRESHOLDS:
            assert share_below(rms, level) <= nominal(level, self.TRIALS)
            assert share_below(mean, level) <= nominal(level, self.TRIALS)

    def test_heavy_tails_taken_for_gaussian_are_why_kurtosis_is_a_setting(self) -> None:
        errors = SIGMA * laplace(np.random.default_rng(1), (self.TRIALS, 10))
        assert share_below([rms_test(one, SIGMA) for one in errors], 0.01) > 3 * 0.01

    def test_at_the_null_the_p_values_are_uniform(self) -> None:
        """Without a limit, at rate 1, Gaussian: exact, not only bounded."""
        errors = SIGMA * gaussian(np.random.default_rng(5), (self.TRIALS, 8))
        for test in (rms_test, signed_mean_test):
            p_values = [test(one, SIGMA) for one in errors]
            assert stats.kstest(p_values, "uniform").pvalue > 1e-4

    @pytest.mark.parametrize("rate", [0.5, 0.1, 0.01])
    @pytest.mark.parametrize("n", [100, 3000])
    def test_of_the_density(self, n: int, rate: float) -> None:
        """Wherever the prover's rate lies in the bounds."""
        rng = np.random.default_rng(n)
        for share in (*density_bounds(rate, SIGMA), rate):
            counts = rng.binomial(n, share, self.TRIALS)
            p_values = [density_test(int(k), n, rate, SIGMA) for k in counts]
            for level in self.THRESHOLDS:
                assert share_below(p_values, level) <= nominal(level, self.TRIALS)


class TestPower:
    """The protocol's numbers of nonces for a power of 99 %, at threshold 0.01 for one test, σ 0.07."""

    @pytest.mark.parametrize(("error", "n"), [(0.24, 9), (0.15, 20), (0.12, 39)])
    def test_the_rms_test_finds_other_arithmetic_with_as_few_nonces(self, error: float, n: int) -> None:
        rng = np.random.default_rng(n)
        draws = rng.normal(0, error, (2000, n))
        power = share_below([rms_test(one, 0.07) for one in draws], 0.01)
        assert power == pytest.approx(0.99, abs=0.01)

    @pytest.mark.parametrize("n", [9, 20, 39])
    def test_the_limit_costs_little(self, n: int) -> None:
        """Errors beyond the tolerance count as the tolerance: half as many nonces again are ample."""
        error = {9: 0.24, 20: 0.15, 39: 0.12}[n]
        draws = np.random.default_rng(n).normal(0, error, (2000, math.ceil(1.5 * n)))
        assert share_below([rms_test(one, 0.07, limit=LIMIT) for one in draws], 0.01) >= 0.98

    def test_shaving_just_below_the_tolerance_is_found_with_a_handful(self) -> None:
        draws = np.random.default_rng(0).normal(-0.3, 0.02, (2000, 4))
        assert share_below([signed_mean_test(one, 0.1, rate=0.1) for one in draws], 0.01 / 4) > 0.99

    def test_an_honest_prover_with_less_noise_than_stated_is_safe(self) -> None:
        draws = np.random.default_rng(0).normal(0, 0.05, (2000, 30))
        assert min(rms_test(one, SIGMA) for one in draws) > 0.9


class TestBonferroni:
    def test_of_nothing_is_one(self) -> None:
        assert bonferroni([]) == 1.0

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(1e-9, 0.999))
    def test_is_below_a_threshold_if_one_test_alone_would_be(
        self, p_values: list[float], level: float
    ) -> None:
        combined = bonferroni(p_values)
        assert combined == min(1.0, len(p_values) * min(p_values))
        assert (combined < level) == any(len(p_values) * p < level for p in p_values)


@pytest.mark.parametrize("test", [rms_test, signed_mean_test])
@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("errors", {"errors": []}),
        ("errors", {"errors": [0.1, math.nan]}),
        ("errors", {"errors": [math.inf]}),
        ("sigma", {"sigma": 0.0}),
        ("sigma", {"sigma": math.inf}),
        ("kurtosis", {"kurtosis": 1.0}),
        ("rate", {"rate": 0.0}),
        ("rate", {"rate": 1.1}),
        ("limit", {"limit": 0.0}),
        ("limit", {"limit": math.nan}),
    ],
)
def test_what_a_test_of_errors_refuses(
    test: Callable[..., float], field: str, arguments: dict[str, object]
) -> None:
    with pytest.raises(FieldError) as caught:
        test(**{"errors": [0.1], "sigma": SIGMA, **arguments})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("n_covered", (0, 0, 0.1, 0.1)),
        ("n_valid", (-1, 5, 0.1, 0.1)),
        ("rate", (1, 5, 1.0, 0.1)),
        ("rate", (1, 5, 0.0, 0.1)),
        ("sigma", (1, 5, 0.1, -0.1)),
    ],
)
def test_what_the_test_of_density_refuses(field: str, arguments: tuple[int, int, float, float]) -> None:
    with pytest.raises(FieldError) as caught:
        density_test(*arguments)
    assert caught.value.field == field
