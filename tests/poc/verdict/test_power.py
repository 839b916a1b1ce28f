"""Nonces that convict a stated cheat: by the judge's own tests, and as published."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import verdict_power

from hallmark.poc.core.errors import FieldError
from hallmark.poc.verdict.cheat import Allowance, Cheat, draw_scales
from hallmark.poc.verdict.hypothesis_tests import (
    beyond_test,
    binomial_test,
    nonce_bound,
    probability_at_least,
    rms_test,
    signed_mean_test,
)
from hallmark.poc.verdict.power import critical_values, nonces_needed, stops_of_cheats, stops_of_honest
from hallmark.poc.verdict.sequential_test import log_wealths

RESULTS = Path(__file__).parents[3] / "bench" / "results"
SIZES = (1, 2, 3, 7, 32, 500)


def allowance(**changes: float) -> Allowance:
    given = {"sigma": 0.05, "kurtosis": 4.0, "beyond": 0.02, "design_effect": 4.0, "threshold": 1e-7}
    return Allowance(**{**given, "numbers": 16, **changes})  # type: ignore[arg-type]


class TestCriticalValues:
    """Beyond them the product's own function rejects, and short of them it does not."""

    @pytest.mark.parametrize("threshold", [0.01, 1e-7])
    @pytest.mark.parametrize("kurtosis", [3.0, 5.0, 12.25])
    @pytest.mark.parametrize(("numbers", "rate", "tests"), [(1, 1.0, 3), (16, 1.0, 4), (2, 0.3, 5)])
    def test_each_is_where_its_test_begins_to_reject(
        self, numbers: int, rate: float, tests: int, kurtosis: float, threshold: float
    ) -> None:
        allowed = allowance(numbers=numbers, rate=rate, kurtosis=kurtosis, threshold=threshold)
        found = critical_values(np.array(SIZES), allowed)
        bound = nonce_bound(numbers, kurtosis, allowed.beyond)
        given: dict[str, Any] = {"rate": rate, "limit": allowed.limit}
        for place, n in enumerate(SIZES):
            level = threshold / tests
            invalid = int(found.invalid[place])
            assert binomial_test(invalid, n, bound.probability) < level
            assert binomial_test(invalid - 1, n, bound.probability) >= level
            for factor, rejects in ((1.0 + 1e-6, True), (1.0 - 1e-6, False)):
                size = math.sqrt(found.mean_square[place] * factor)
                errors = np.full((n, numbers), size)
                if size < allowed.limit:
                    assert (rms_test(errors, allowed.sigma, kurtosis, **given) < level) == rejects
                mean = found.mean[place] * factor
                if -mean < allowed.limit:
                    p = signed_mean_test(np.full(n, mean), allowed.sigma, kurtosis, **given)
                    assert (p < level) == rejects
            if found.beyond is None:
                assert numbers == 1
                continue
            asked = n * (numbers if rate == 1.0 else numbers - 1)
            least = math.ceil(float(found.beyond[place]) * allowed.design_effect)
            for count, rejects in ((least, True), (least - 1, False)):
                if 0 <= count <= asked:
                    errors = np.where(np.arange(asked) < count, 1.0, 0.0)
                    p = beyond_test(errors, allowed.limit, allowed.beyond, allowed.design_effect)
                    assert (p < level) == rejects

    def test_a_share_beyond_that_is_tiny_needs_few(self) -> None:
        found = critical_values(np.array(SIZES), allowance(numbers=1, beyond=1e-12))
        assert found.invalid.tolist() == [1] * len(SIZES)
        assert probability_at_least(1, SIZES[-1], 1e-12) < 1e-7 / 3


def _published() -> list[dict[str, Any]]:
    path = max(RESULTS.glob("verdict_power-cpu-*.json"))
    rows = json.loads(path.read_text())["rows"]
    found = [row for row in rows if row["what"] == "nonces to convict"]
    assert len(found) == len(verdict_power.NUMBERS) * 3 * len(verdict_power.SIGMAS)
    return found


class TestNoncesNeeded:
    @pytest.mark.parametrize(
        "row", _published(), ids=lambda row: f"{row['numbers']}-{row['kurtosis']:g}-{row['sigma']:g}"
    )
    def test_as_published(self, row: dict[str, Any]) -> None:
        """That table has the first of some sizes at which two of 200 batches at most are acquitted.

        Where 5.5 % are acquitted, that happens with a probability of 0.001; and that more are at the size
        before it, where 0.1 % are.
        """
        sizes = (0, *verdict_power._SIZES)
        errors = {"forger": math.sqrt(2.0), "1.5 sigma": 1.5 * row["sigma"], "2 sigma": 2 * row["sigma"]}
        for name, error in errors.items():
            for threshold in verdict_power.THRESHOLDS:
                stated = {each: row[each] for each in ("sigma", "kurtosis", "numbers")}
                low, high = (
                    nonces_needed(
                        Cheat(error), allowance(**stated, threshold=threshold), power=power, kurtosis=3.0
                    )
                    for power in (0.945, 0.999)
                )
                published = row[f"{name} at {threshold:g}"]
                assert low is not None
                assert high is not None
                assert low <= published
                assert high > sizes[sizes.index(published) - 1]

    @pytest.mark.parametrize(
        ("cheat", "changes"),
        [
            (Cheat(0.075), {}),
            (Cheat(0.1, 0.5), {"numbers": 2}),
            (Cheat(1.4, 0.1), {}),
            (Cheat(1.4), {"numbers": 1, "kurtosis": 5.0}),
        ],
    )
    def test_batches_of_that_size_are_fraud_by_the_tests_themselves(
        self, cheat: Cheat, changes: dict[str, float]
    ) -> None:
        """Of 300 batches at a power of 0.9: fewer than 252 have a probability of 0.001."""
        allowed = allowance(**changes, threshold=0.01)
        needed = nonces_needed(cheat, allowed, power=0.9)
        assert needed is not None
        settings = verdict_power.Settings(
            allowed.sigma, allowed.kurtosis, allowed.beyond, allowed.design_effect
        )
        rng = np.random.default_rng(5)

        def share(n: int) -> float:
            convicted = 0
            for _ in range(300):
                scales = cheat.error * np.sqrt(draw_scales(rng, n, allowed.kurtosis))
                scales *= rng.random(n) < cheat.share
                errors = rng.standard_normal((n, allowed.numbers)) * scales[:, None]
                found = verdict_power.p_values(errors, settings)
                convicted += len(found) * min(found.values()) < allowed.threshold
            return convicted / 300

        assert share(needed) >= 252 / 300
        if needed > 4:
            assert share(needed // 2) < 0.9

    def test_what_makes_it_harder_takes_more_nonces(self) -> None:
        plain = nonces_needed(Cheat(0.1), allowance())
        assert plain is not None
        for harder in (
            nonces_needed(Cheat(0.08), allowance()),
            nonces_needed(Cheat(0.1, 0.5), allowance()),
            nonces_needed(Cheat(0.1), allowance(kurtosis=6.0)),
            nonces_needed(Cheat(0.1), allowance(threshold=1e-12)),
            nonces_needed(Cheat(0.1), allowance(numbers=4)),
            nonces_needed(Cheat(0.1), allowance(), power=0.999),
        ):
            assert harder is not None
            assert harder > plain

    def test_the_same_question_has_the_same_answer(self) -> None:
        assert nonces_needed(Cheat(0.08), allowance()) == nonces_needed(Cheat(0.08), allowance())

    def test_what_no_number_finds_is_none(self) -> None:
        assert nonces_needed(Cheat(0.04), allowance()) is None
        assert nonces_needed(Cheat(0.1), allowance(), most=2) is None
        needed = nonces_needed(Cheat(0.1), allowance())
        assert needed is not None
        assert nonces_needed(Cheat(0.1), allowance(), most=needed) == needed
        assert nonces_needed(Cheat(0.1), allowance(), most=needed - 1) is None

    def test_a_share_that_single_nonces_convict_by(self) -> None:
        """The mean square of 1 % wrong nonces is far below that of honest noise."""
        assert (nonces_needed(Cheat(1.4, 0.01), allowance()) or 0) > 1_000
        assert (nonces_needed(Cheat(1.4, 0.02), allowance()) or 0) > 100

    def test_a_power_of_no_use_is_refused(self) -> None:
        with pytest.raises(FieldError, match="power"):
            nonces_needed(Cheat(0.1), allowance(), power=0.0)


class TestStops:
    def test_cheats_are_convicted_and_the_honest_cleared(self) -> None:
        cheats = stops_of_cheats(Cheat(0.1), allowance())
        assert cheats.convicted == 1.0
        honest = stops_of_honest(Cheat(0.1), allowance(), 0.05)
        same = stops_of_honest(Cheat(0.1), allowance(), 0.0)
        assert honest.cleared == same.cleared == 1.0
        for found in (cheats, honest, same):
            assert found.median is not None
            assert found.nearly_all is not None
            assert 0 < found.median <= found.nearly_all
        assert same.median == same.nearly_all, "exact numbers leave nothing to chance"
        assert same.median is not None
        assert honest.median is not None
        assert same.median <= honest.median

    def test_a_cheat_is_cleared_no_oftener_than_stated(self) -> None:
        """Of 300 at a power of 0.5: more than 180 have a probability of 0.001."""
        found = stops_of_cheats(Cheat(0.06), allowance(numbers=2), power=0.5)
        assert found.cleared <= 180 / 300

    def test_what_takes_too_many_nonces_is_none(self) -> None:
        found = stops_of_cheats(Cheat(0.052), allowance(), most=200)
        assert (found.median, found.nearly_all) == (None, None)
        assert found.convicted + found.cleared < 0.5

    @pytest.mark.parametrize(("rate", "tests"), [(1.0, 1), (0.3, 2)])
    def test_below_rate_1_the_density_test_takes_its_part_of_the_threshold(
        self, rate: float, tests: int
    ) -> None:
        """All errors of this cheat lie beyond the limit: nothing is left to chance.

        At these thresholds the nonce that convicts by all of one does not by half of it.
        """
        allowed = allowance(sigma=0.01, kurtosis=3.0, numbers=2, rate=rate)
        wealths = np.exp(log_wealths(np.full(100, allowed.limit**2 / allowed.mean_square)))
        for place in (2, 4, 6):
            stricter = replace(allowed, threshold=1.5 / wealths[place])
            assert stops_of_cheats(Cheat(1_000.0), stricter).median == place + tests

    @pytest.mark.parametrize("error", [0.12, 0.2])
    def test_many_numbers_of_a_nonce_leave_as_many_nonces_to_draw_from(self, error: float) -> None:
        """Of a hundred, one mean square would be that of all trials, and above what is allowed or not."""
        many = allowance(sigma=0.1, kurtosis=5.0, threshold=0.01, numbers=4096)
        honest = stops_of_honest(Cheat(error), many, 0.1)
        assert honest.convicted <= 0.03, "of 300 more than 9 have a probability of 0.001"
        assert honest.cleared >= 0.97

    def test_a_cheat_as_small_as_honest_noise_is_refused(self) -> None:
        with pytest.raises(FieldError, match="calibrate a smaller sigma"):
            stops_of_cheats(Cheat(0.05), allowance())
