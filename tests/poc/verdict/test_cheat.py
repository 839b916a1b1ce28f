"""What is assumed of a cheat is what its formulas say."""

import math

import numpy as np
import pytest
from builders import make_config
from scipy import integrate, stats

from hallmark.poc.core.errors import FieldError
from hallmark.poc.verdict.cheat import Allowance, Cheat, draw_scales
from hallmark.poc.verdict.hypothesis_tests import selected_mean_square


class TestMeanSquare:
    @pytest.mark.parametrize("error", [0.05, 0.35, 1.4])
    @pytest.mark.parametrize("share", [1.0, 0.2])
    def test_of_gaussian_errors_by_quadrature(self, error: float, share: float) -> None:
        limit = 0.35
        law = stats.norm(scale=error)
        within = integrate.quad(lambda e: e * e * law.pdf(e), -limit, limit)[0]
        expected = share * (within + limit**2 * 2.0 * law.sf(limit))
        assert Cheat(error, share).mean_square(limit) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("kurtosis", [3.5, 5.0, 12.25])
    @pytest.mark.parametrize("error", [0.05, 0.35, 1.4])
    def test_of_errors_that_share_a_scale_as_they_are_drawn(self, error: float, kurtosis: float) -> None:
        rng = np.random.default_rng(0)
        scales = draw_scales(rng, 1_000_000, kurtosis)
        errors = error * np.sqrt(scales) * rng.standard_normal(len(scales))
        clipped = np.square(np.clip(errors, -0.35, 0.35))
        margin = 6.0 * float(np.std(clipped)) / math.sqrt(len(clipped))
        found = Cheat(error).mean_square(0.35, kurtosis)
        assert found == pytest.approx(float(np.mean(clipped)), abs=margin + 1e-3 * found)
        assert found < Cheat(error).mean_square(0.35)

    def test_far_below_the_limit_it_is_the_square_and_far_above_it_the_limit(self) -> None:
        assert Cheat(0.001).mean_square(0.35) == pytest.approx(1e-6)
        assert Cheat(1_000.0).mean_square(0.35) == pytest.approx(0.35**2, rel=1e-3)
        assert Cheat(1_000.0).mean_square(0.35) < 0.35**2

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            ((0.0,), "cheat: 0.0 is not allowed; allowed: an RMS error from 1e-9"),
            ((math.nan,), "cheat: nan"),
            ((1e9,), "from 1e-9 to 1,000"),
            ((0.1, 0.0), "cheat_share: 0.0 is not allowed; allowed: a share of the nonces"),
            ((0.1, 1.1), "cheat_share: 1.1"),
        ],
    )
    def test_what_is_no_cheat_is_refused(self, arguments: tuple[float, ...], problem: str) -> None:
        with pytest.raises(FieldError, match=problem):
            Cheat(*arguments)


class TestAllowance:
    def test_it_is_what_the_round_states(self) -> None:
        stated = make_config(
            honest_sigma=0.05, honest_kurtosis=99.0, honest_beyond=0.01, fraud_threshold=1e-7
        )
        found = Allowance.of_config(stated, 16, 1.0)
        assert (found.sigma, found.threshold, found.beyond, found.numbers) == (0.05, 1e-7, 0.01, 16)
        assert found.kurtosis == 12.25, "as the tests count it"
        assert found.limit == pytest.approx(0.175)
        assert found.mean_square == pytest.approx(0.0025)
        assert Allowance.of_config(make_config(distance_tolerance=0.7), 16, 1.0).sigma == pytest.approx(0.2)
        assert Allowance.of_config(stated, 2, 0.1).mean_square == selected_mean_square(0.1, 0.05)

    def test_what_nothing_is_known_of_is_refused(self) -> None:
        with pytest.raises(FieldError, match="by the older rule, none, errors are not looked at"):
            Allowance.of_config(make_config(distance_tolerance=None), 16, 1.0)
        with pytest.raises(FieldError, match="numbers: 1 is not allowed; allowed: 2 or more of each nonce"):
            Allowance.of_config(make_config(), 1, 0.5)
