"""The bound on ever convicting an honest prover holds for every distribution that is allowed."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from hallmark.poc.core.errors import FieldError
from hallmark.poc.verdict.hypothesis_tests import (
    LIMIT_IN_SIGMAS,
    rms_test,
    selected_mean_square,
)
from hallmark.poc.verdict.sequential_test import BETS, Evidence, log_wealths, mean_square_ratios

LARGEST = LIMIT_IN_SIGMAS**2

ratios = st.floats(0.0, LARGEST)


@st.composite
def allowed_distributions(draw: st.DrawFn) -> tuple[tuple[float, float], float]:
    """Two ratios with a mean of 1 at most, and the probability of the second: the extreme ones of all."""
    low, high = draw(st.floats(0.0, 1.0)), draw(st.floats(1.0, LARGEST))
    most = (1.0 - low) / (high - low) if high > low else 1.0
    return (low, high), draw(st.sampled_from((1.0, 0.9, 0.3))) * most


class TestSupermartingale:
    @given(st.lists(ratios, max_size=40), allowed_distributions())
    def test_whatever_came_before_wealth_is_not_expected_to_grow(
        self, past: list[float], allowed: tuple[tuple[float, float], float]
    ) -> None:
        before = Evidence().after(past)
        (low, high), probability = allowed
        after = [math.exp(before.after([ratio]).log_wealth) for ratio in (low, high)]
        expected = (1.0 - probability) * after[0] + probability * after[1]
        assert expected <= math.exp(before.log_wealth) * (1.0 + 1e-9)
        if probability * (high - low) + low > 1.0 - 1e-12:
            assert expected == pytest.approx(math.exp(before.log_wealth)), "nothing is given away"

    @pytest.mark.parametrize("threshold", [0.5, 0.2, 0.05])
    @pytest.mark.parametrize("high", [1.5, 4.0, LARGEST])
    def test_the_bound_holds_exactly_over_all_paths(self, high: float, threshold: float) -> None:
        """Of twelve nonces with the worst of two ratios; a later one may depend on the earlier."""
        n, probability = 12, 1.0 / high
        paths = np.array([*itertools.product((0.0, high), repeat=n)])
        n_high = np.count_nonzero(paths, axis=1)
        weights = probability**n_high * (1.0 - probability) ** (n - n_high)
        reaches = np.exp(log_wealths(paths)).max(axis=1) > 1.0 / threshold
        assert weights.sum() == pytest.approx(1.0)
        assert weights[reaches].sum() <= threshold
        assert np.exp(log_wealths(paths)[:, -1]) @ weights == pytest.approx(1.0)

    def test_errors_that_are_too_large_on_the_whole_are_not_forgiven(self) -> None:
        """Were a ratio's mean above 1 allowed, the wealth would grow: the test is of the mean, sharply."""
        wealth = [math.exp(Evidence().after([ratio]).log_wealth) for ratio in (0.0, LARGEST)]
        assert np.dot(wealth, (1 - 1.2 / LARGEST, 1.2 / LARGEST)) > 1.02


class TestState:
    @given(st.lists(ratios, min_size=1, max_size=60), st.data())
    def test_in_parts_it_is_what_it_is_in_one_go(self, values: list[float], data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(values)))
        whole, parts = Evidence().after(values), Evidence().after(values[:at]).after(values[at:])
        assert parts.nonces == whole.nonces == len(values)
        assert parts.log_stakes == pytest.approx(whole.log_stakes, rel=1e-9, abs=1e-9)
        assert parts.log_largest_wealth == pytest.approx(whole.log_largest_wealth, abs=1e-9)
        one_by_one = log_wealths(values)
        assert whole.log_wealth == pytest.approx(one_by_one[-1], abs=1e-9)
        assert whole.log_largest_wealth == pytest.approx(max(0.0, one_by_one.max()), abs=1e-9)

    def test_it_is_what_its_definition_says(self) -> None:
        values = np.random.default_rng(0).exponential(1.4, 200)
        stakes, bets = np.full(len(BETS), 0.5), np.array(BETS)
        wealths = []
        for step, ratio in enumerate(values, start=1):
            stakes = (1.0 + bets * (ratio - 1.0)) * stakes + 1.0 / ((step + 1) * (step + 2))
            wealths.append(stakes.mean() + 1.0 / (step + 2))
        assert np.exp(log_wealths(values)) == pytest.approx(wealths)
        assert np.exp(log_wealths(np.array([values, values]))) == pytest.approx(np.array([wealths] * 2))

    def test_nothing_shows_nothing(self) -> None:
        nothing = Evidence()
        assert nothing.after([]) == nothing
        assert nothing.log_wealth == pytest.approx(0.0)
        assert nothing.p_value == 1.0

    @pytest.mark.parametrize("ratio", [-0.1, math.nan, math.inf])
    def test_what_is_no_ratio_is_refused(self, ratio: float) -> None:
        with pytest.raises(FieldError, match="ratios"):
            Evidence().after([1.0, ratio])

    def test_a_million_honest_nonces_are_numbers_still(self) -> None:
        evidence = Evidence().after(np.full(1_000_000, 0.3))
        assert math.isfinite(evidence.log_wealth)
        assert evidence.p_value == pytest.approx(1.0)


def honest_errors(
    rng: np.random.Generator, shape: tuple[int, ...], numbers: int, kurtosis: float
) -> npt.NDArray[np.float64]:
    """Errors of honest nonces in sigmas, [*shape, numbers], with a scale of each nonce."""
    errors = rng.normal(0.0, 1.0, (*shape, numbers))
    if kurtosis > 3.0:
        gamma = 3.0 / (kurtosis - 3.0)
        errors *= np.sqrt(rng.gamma(gamma, 1.0 / gamma, (*shape, 1)))
    return errors


class TestProvers:
    @pytest.mark.parametrize(("numbers", "kurtosis"), [(1, 3.0), (1, 6.0), (16, 3.0), (16, 6.0)])
    def test_noise_of_exactly_sigma_is_not_convicted_in_the_long_run(
        self, numbers: int, kurtosis: float
    ) -> None:
        """Eighty provers of 6,000 nonces each at 0.05: more than nine have a probability of 0.01."""
        rng = np.random.default_rng([numbers, int(kurtosis)])
        for_each = [
            log_wealths(mean_square_ratios(honest_errors(rng, (6_000,), numbers, kurtosis), 1.0)).max()
            for _ in range(80)
        ]
        assert sum(each > math.log(1 / 0.05) for each in for_each) <= 9

    def test_who_hides_in_every_batch_is_convicted_over_time(self) -> None:
        """Noise of 1.5 sigma: no batch of eight nonces is too noisy at 1e-7, forty are together."""
        rng = np.random.default_rng(1)
        evidence = Evidence()
        for errors in 1.5 * honest_errors(rng, (40, 8), 1, 3.0):
            assert rms_test(errors, 1.0, 3.0, limit=LIMIT_IN_SIGMAS) >= 1e-7
            evidence = evidence.after(mean_square_ratios(errors, 1.0))
        assert evidence.p_value < 1e-7

    def test_a_good_record_is_no_shield(self) -> None:
        """Ten thousand nonces of half the noise, which alone would cost thousands of digits of wealth."""
        rng = np.random.default_rng(2)
        record = Evidence().after(mean_square_ratios(0.5 * honest_errors(rng, (10_000,), 16, 3.0), 1.0))
        assert record.p_value == 1.0
        cheating = mean_square_ratios(1.5 * honest_errors(rng, (120,), 16, 3.0), 1.0)
        assert record.after(cheating).p_value < 1e-7

    def test_conviction_lasts(self) -> None:
        rng = np.random.default_rng(3)
        convicted = Evidence().after(np.full(20, LARGEST))
        after = convicted.after(mean_square_ratios(0.5 * honest_errors(rng, (5_000,), 1, 3.0), 1.0))
        assert after.p_value <= convicted.p_value < 1e-7
        assert after.log_wealth < 0.0


class TestRatios:
    def test_errors_count_up_to_the_limit(self) -> None:
        errors = np.array([[0.1, -0.1], [5.0, 0.0]])
        assert mean_square_ratios(errors, 0.1) == pytest.approx([1.0, LARGEST / 2])

    def test_below_rate_1_the_number_that_selects_is_left_out(self) -> None:
        errors = np.array([[9.0, 0.1, -0.1], [0.0, 0.2, 0.0]])
        allowed = selected_mean_square(0.1, 0.1)
        assert mean_square_ratios(errors, 0.1, 0.1) == pytest.approx([0.01 / allowed, 0.02 / allowed])
        with pytest.raises(FieldError, match="at least 2 of each nonce below rate 1"):
            mean_square_ratios(errors[:, :1], 0.1, 0.1)

    @pytest.mark.parametrize("kurtosis", [3.5, 5.0, 6.0])
    @pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
    @pytest.mark.parametrize("rate", [0.5, 0.1, 0.01, 1e-4])
    def test_noisy_nonces_that_are_selected_are_allowed_for(
        self, rate: float, sigma: float, kurtosis: float
    ) -> None:
        """E[w | selected] by quadrature, w of a gamma distribution: the noise all the prover's."""
        scale = (kurtosis - 3.0) / 3.0
        law = stats.gamma(1.0 / scale, scale=scale)
        target = stats.norm.ppf(rate)

        def moment(power: int) -> float:
            # By quantiles, as the density may have no bound at 0.
            def at(quantile: float) -> float:
                w = law.ppf(quantile)
                return float(w**power * stats.norm.cdf(target / math.sqrt(1.0 + sigma**2 * w)))

            return float(integrate.quad(at, 0.0, 1.0, limit=200)[0])

        expected = moment(1) / moment(0)
        assert expected * sigma**2 <= selected_mean_square(rate, sigma) * (1.0 + 1e-6)
