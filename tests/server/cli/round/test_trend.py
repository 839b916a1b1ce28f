"""The rate from look to look, and its curve."""

from collections.abc import Iterable
from typing import Any

import pytest

from hallmark.server.cli.round.trend import Trend


def status(count: int, state: str = "GENERATING") -> dict[str, Any]:
    """A look at a round; of what the other phase counts there is always more."""
    judged, found = (count, 10**6 + count) if state == "VALIDATING" else (10**6 + count, count)
    return {"state": state, "total_checked": found, "validation": {"checked_nonces": judged}}


def looked(counts: Iterable[int], *, state: str = "GENERATING", seconds: float = 1.0) -> Trend:
    trend = Trend()
    for number, count in enumerate(counts):
        trend.add(status(count, state), 100.0 + number * seconds)
    return trend


def curve(trend: Trend) -> str:
    return trend.curve(is_ascii=False)


def test_nothing_is_known_before_the_second_look() -> None:
    for trend in (Trend(), looked([40])):
        assert trend.rate is None
        assert curve(trend) == trend.curve(is_ascii=True) == ""


@pytest.mark.parametrize("state", ["GENERATING", "VALIDATING"])
def test_the_rate_is_of_what_the_phase_counts_over_the_time_that_passed(state: str) -> None:
    assert looked([10, 30], state=state, seconds=2.0).rate == 10.0
    assert looked([10, 30, 30], state=state, seconds=2.0).rate == 5.0


def test_batches_that_take_longer_than_a_look_do_not_make_the_rate_jump() -> None:
    counts = [32 * (look // 4) for look in range(40)]
    rates = set()
    for number in range(13, 40):
        rates.add(looked(counts[:number]).rate)
    assert rates == {8.0}


def test_the_rate_is_that_of_the_latest_looks() -> None:
    assert looked([0, 1000, *range(1008, 1080, 8)]).rate == 8.0
    assert looked([0, 1000, *range(1008, 1064, 8)]).rate == pytest.approx((1000 + 7 * 8) / 8)


def test_the_curve_has_a_bar_a_look_and_the_highest_for_the_most() -> None:
    # Rates of 0 to 7 in a second.
    counts = [sum(range(n + 1)) for n in range(8)]
    trend = looked([0, *counts])
    assert curve(trend) == "▁▂▃▄▅▆▇█"
    assert trend.curve(is_ascii=True) == "_.-=+*#@"
    assert curve(looked([0, 5, 10, 15])) == "███"


def test_a_round_that_stands_still_has_the_lowest_bars() -> None:
    trend = looked([40, 40, 40])
    assert (trend.rate, curve(trend), trend.curve(is_ascii=True)) == (0.0, "▁▁", "__")


def test_the_curve_is_of_the_latest_looks() -> None:
    assert curve(looked(range(26))) == "█" * 24
    trend = looked([0, 900, *range(901, 932)])
    assert curve(trend) == "█" * 24, "what was much faster once is forgotten"


@pytest.mark.parametrize(
    ("state", "count"), [("GENERATING", 3), ("VALIDATING", 500)], ids=["a lower count", "another phase"]
)
def test_another_phase_or_a_count_that_goes_back_begins_anew(state: str, count: int) -> None:
    trend = looked([0, 10, 400])
    trend.add(status(count, state), 103.0)
    assert (trend.rate, curve(trend)) == (None, "")
    trend.add(status(count + 6, state), 105.0)
    assert (trend.rate, curve(trend)) == (3.0, "█")


def test_two_looks_at_one_time_say_nothing() -> None:
    trend = looked([0])
    trend.add(status(20), 100.0)
    assert (trend.rate, curve(trend)) == (None, "")
    trend.add(status(30), 102.0)
    assert (trend.rate, curve(trend)) == (15.0, "█")
