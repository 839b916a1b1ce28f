"""The stated cheat is cleared as rarely as is stated, whatever its errors look like."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from hallmark.poc.core.errors import FieldError
from hallmark.poc.verdict.cheat import Allowance, Cheat, draw_scales
from hallmark.poc.verdict.clearing import Clearing, check_power, log_clearing_wealths
from hallmark.poc.verdict.sequential_test import mean_square_ratios

LARGEST = 12.25
REQUIRED = (1.05, 2.0, 8.0)


def allowance(**changes: float) -> Allowance:
    given_ = {"sigma": 0.1, "kurtosis": 5.0, "beyond": 0.02, "design_effect": 4.0, "threshold": 0.01}
    return Allowance(**{**given_, "numbers": 16, **changes})  # type: ignore[arg-type]


class TestSupermartingale:
    @given(
        st.lists(st.floats(0.0, LARGEST), max_size=30),
        st.sampled_from(REQUIRED),
        st.floats(0.0, 1.0),
        st.floats(0.0, 1.0),
    )
    def test_a_cheats_wealth_is_not_expected_to_grow(
        self, past: list[float], required: float, low_share: float, high_share: float
    ) -> None:
        """Of two ratios whose mean is the required one, the extreme distributions of all."""
        low, high = required * low_share, required + (LARGEST - required) * high_share
        probability = (required - low) / (high - low) if high > low else 1.0
        before = Clearing(required, LARGEST).after(past)
        after = [float(np.exp(_log_wealth(before.after([ratio])))) for ratio in (low, high)]
        expected = (1.0 - probability) * after[0] + probability * after[1]
        assert expected == pytest.approx(math.exp(_log_wealth(before)), rel=1e-9), "and nothing is given away"

    @pytest.mark.parametrize("required", REQUIRED)
    @pytest.mark.parametrize("power", [0.5, 0.9])
    def test_the_bound_holds_exactly_over_all_paths(self, required: float, power: float) -> None:
        probability = required / LARGEST
        paths = np.array([*itertools.product((0.0, LARGEST), repeat=12)])
        n_high = np.count_nonzero(paths, axis=1)
        weights = probability**n_high * (1.0 - probability) ** (12 - n_high)
        wealths = np.exp(log_clearing_wealths(paths, required, LARGEST))
        assert wealths[:, -1] @ weights == pytest.approx(1.0)
        assert weights[(wealths >= 1.0 / (1.0 - power)).any(axis=1)].sum() <= 1.0 - power

    @pytest.mark.parametrize("n_wrong", [1, 3, 6])
    def test_draws_without_replacement_favour_no_cheat(self, n_wrong: int) -> None:
        """Of ten nonces exactly so many are wrong, as wrong as can be: over all orders of six draws."""
        required = LARGEST * n_wrong / 10
        paths = [
            [LARGEST * (nonce < n_wrong) for nonce in order]
            for order in itertools.islice(itertools.permutations(range(10), 6), 0, None, 7)
        ]
        exact = [
            [LARGEST * (nonce < n_wrong) for nonce in order] for order in itertools.permutations(range(10), 4)
        ]
        assert np.exp(log_clearing_wealths(np.array(exact), required, LARGEST)[:, -1]).mean() <= 1.0
        reached = np.exp(log_clearing_wealths(np.array(paths), required, LARGEST)).max(axis=1) >= 2.0
        assert reached.mean() <= 0.5

    def test_a_cheat_that_is_smaller_than_stated_may_well_be_cleared(self) -> None:
        """The test is of the mean, sharply."""
        wealth = [math.exp(_log_wealth(Clearing(2.0, LARGEST).after([ratio]))) for ratio in (0.0, LARGEST)]
        assert np.dot(wealth, (1 - 1.8 / LARGEST, 1.8 / LARGEST)) > 1.0


def _log_wealth(clearing: Clearing) -> float:
    return float(np.logaddexp.reduce(clearing.log_wealths)) - math.log(len(clearing.log_wealths))


class TestState:
    @given(st.lists(st.floats(0.0, LARGEST), min_size=1, max_size=40), st.data())
    def test_in_parts_it_is_what_it_is_in_one_go(self, values: list[float], data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(values)))
        begin = Clearing(1.7, LARGEST)
        whole, parts = begin.after(values), begin.after(values[:at]).after(values[at:])
        assert parts.nonces == whole.nonces == len(values)
        assert parts.log_wealths == pytest.approx(whole.log_wealths, rel=1e-9, abs=1e-9)
        one_by_one = log_clearing_wealths(values, 1.7, LARGEST)
        assert whole.log_largest_wealth == pytest.approx(max(0.0, one_by_one.max()), abs=1e-9)
        assert whole.p_value == pytest.approx(math.exp(-whole.log_largest_wealth))

    def test_clearance_lasts(self) -> None:
        cleared = Clearing(2.0, LARGEST).after(np.zeros(60))
        assert cleared.is_cleared(0.99)
        assert cleared.after(np.full(50, LARGEST)).is_cleared(0.99)

    def test_nothing_shows_nothing(self) -> None:
        begin = Clearing(2.0, LARGEST)
        assert begin.after([]) == begin
        assert (begin.p_value, begin.is_cleared(0.5)) == (1.0, False)

    @pytest.mark.parametrize("ratio", [-0.1, math.nan, math.inf, 12.3])
    def test_what_is_no_ratio_is_refused(self, ratio: float) -> None:
        with pytest.raises(FieldError, match="ratios"):
            Clearing(2.0, LARGEST).after([1.0, ratio])


class TestProvers:
    @pytest.mark.parametrize("kurtosis", [3.0, 6.0])
    @pytest.mark.parametrize(
        ("cheat", "numbers"), [(Cheat(0.15), 1), (Cheat(0.15), 16), (Cheat(1.4, 0.3), 16)]
    )
    def test_the_stated_cheat_is_hardly_ever_cleared(
        self, cheat: Cheat, numbers: int, kurtosis: float
    ) -> None:
        """Of 200 cheats at a power of 0.95, to 400 nonces: more than 21 have a probability of 0.001."""
        rng = np.random.default_rng([numbers, int(kurtosis)])
        allowed = allowance(numbers=numbers, kurtosis=kurtosis)
        begin = Clearing.of(cheat, allowed)
        cleared = 0
        for _ in range(200):
            scales = cheat.error * np.sqrt(draw_scales(rng, 400, kurtosis)) * (rng.random(400) < cheat.share)
            errors = rng.standard_normal((400, numbers)) * scales[:, None]
            cleared += begin.after(mean_square_ratios(errors, 0.1)).is_cleared(0.95)
        assert cleared <= 21

    @pytest.mark.parametrize(("error", "rate"), [(0.6, 0.9), (0.8, 0.9), (0.8, 0.7)])
    def test_who_selects_its_quieter_nonces_is_not_cleared_oftener(self, error: float, rate: float) -> None:
        """Of 100 cheats at a power of 0.9, to 2,000 nonces: more than 20 have a probability of 0.001.

        Its own noise decides which nonces it sends. Were M₁ that of all, it would be cleared at last.
        """
        rng = np.random.default_rng(1)
        allowed = allowance(sigma=0.3, kurtosis=12.0, rate=rate)
        scales = draw_scales(rng, 400_000, allowed.kurtosis)
        sent = rng.standard_normal(len(scales)) + error * np.sqrt(scales) * rng.standard_normal(len(scales))
        scales = scales[sent < ndtri(rate)][:200_000]
        errors = rng.standard_normal((200_000, 16)) * (error * np.sqrt(scales))[:, None]
        ratios = mean_square_ratios(errors, allowed.sigma, rate)
        begin = Clearing.of(Cheat(error), allowed)
        assert begin.required == pytest.approx(np.mean(ratios), rel=0.02)
        wealths = log_clearing_wealths(ratios.reshape(100, 2_000), begin.required, begin.largest)
        assert np.count_nonzero(wealths.max(axis=1) >= math.log(10.0)) <= 20

    def test_selection_never_makes_more_of_a_cheat(self) -> None:
        """Below rate 1/2 it would; and to first order it is what the formula says."""
        cheat = Cheat(0.1)
        at_rate_1 = cheat.mean_square(10.0, 6.0)
        for rate in (0.01, 0.3, 0.5):
            assert cheat.mean_square(10.0, 6.0, rate) == at_rate_1
        for rate in (0.6, 0.9, 0.99):
            u = ndtri(rate) / math.hypot(1.0, 0.1)
            mills = math.exp(-u * u / 2.0) / math.sqrt(2.0 * math.pi) / ndtr(u)
            first_order = 1.0 - 0.01 * u * mills / 2.0 * (6.0 / 3.0 - 1.0)
            assert cheat.mean_square(10.0, 6.0, rate) / at_rate_1 == pytest.approx(first_order, abs=1e-4)
            assert cheat.mean_square(10.0, 6.0, rate) < at_rate_1
        assert Cheat(0.1).mean_square(0.35, 3.0, 0.9) == pytest.approx(cheat.mean_square(0.35, 3.0))

    @pytest.mark.parametrize("rate", [1.0, 0.2])
    def test_an_honest_prover_is_cleared_after_few_nonces(self, rate: float) -> None:
        rng = np.random.default_rng(1)
        begin = Clearing.of(Cheat(0.2), allowance(rate=rate))
        errors = 0.1 * rng.standard_normal((60, 16))
        assert begin.after(mean_square_ratios(errors, 0.1, rate)).is_cleared(0.99)
        assert begin.after(np.zeros(25)).is_cleared(0.99)

    @pytest.mark.parametrize("cheat", [Cheat(0.1), Cheat(0.05), Cheat(1.4, 0.05)])
    def test_who_is_no_larger_than_honest_noise_is_refused(self, cheat: Cheat) -> None:
        with pytest.raises(FieldError, match=r"told from honest noise.* calibrate a smaller sigma"):
            Clearing.of(cheat, allowance())


@pytest.mark.parametrize("power", [0.4, 1.0, math.nan])
def test_a_power_of_no_use_is_refused(power: float) -> None:
    with pytest.raises(FieldError, match=r"a probability from 0.5 to 0.999"):
        check_power(power)
