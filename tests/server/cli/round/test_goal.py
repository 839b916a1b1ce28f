"""How far a round is to go, and how it is said."""

from typing import Any

import pytest

from hallmark.poc.core.errors import FieldError
from hallmark.server.cli.round.goal import Goal


def status(checked: int = 0, elapsed: float = 0.0) -> dict[str, Any]:
    return {"total_checked": checked, "elapsed_seconds": elapsed}


@pytest.mark.parametrize(
    ("text", "amount", "is_time", "words"),
    [
        ("1", 1, False, "1 nonce"),
        ("40", 40, False, "40 nonces"),
        ("10000", 10_000, False, "10,000 nonces"),
        ("9" * 15, 999_999_999_999_999, False, "999,999,999,999,999 nonces"),
        ("1s", 1, True, "1 s"),
        ("90s", 90, True, "1 min 30 s"),
        ("90 s", 90, True, "1 min 30 s"),
        ("5min", 300, True, "5 min"),
        ("5 min", 300, True, "5 min"),
        ("2h", 7_200, True, "2 h"),
        ("2 h", 7_200, True, "2 h"),
        ("48h", 172_800, True, "2 d"),
    ],
)
def test_nonces_and_times(text: str, amount: int, is_time: bool, words: str) -> None:
    goal = Goal.parse(text)
    assert goal == Goal(amount, is_time)
    assert str(goal) == words


REFUSED = [
    *("", " ", "0", "0s", "00", "007", "-1", "+1", "1.5", "1.5h", "1e3", "10,000", "10_000", "1" * 16),
    *("s", "min", "5m", "5 minutes", "5mins", "2hours", "1d", "1h30min", "5  min", "5MIN", "5S", " 5", "5s "),
    *("5\n", "0x10", "nan", "inf", "1 nonce"),
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(FieldError) as refused:
        Goal.parse(text)
    assert str(refused.value) == (
        f"--until: {text!r} is not allowed; allowed: a number of nonces such as 10000, or a time such as "
        "90s, 5min or 2h"
    )


@pytest.mark.parametrize(
    ("goal", "short", "there", "beyond"),
    [
        (Goal(40, is_time=False), status(39, 1e9), status(40), status(41)),
        (Goal(300, is_time=True), status(10**9, 299.99), status(0, 300.0), status(0, 300.5)),
    ],
    ids=["nonces", "time"],
)
def test_it_is_reached_by_its_own_count(
    goal: Goal, short: dict[str, Any], there: dict[str, Any], beyond: dict[str, Any]
) -> None:
    assert not goal.is_reached(short)
    assert goal.is_reached(there)
    assert goal.is_reached(beyond)


def test_how_far_it_is() -> None:
    assert Goal(40, is_time=False).reached(status(10, 3.0)) == 10.0
    assert Goal(40, is_time=True).reached(status(10, 3.0)) == 3.0


@pytest.mark.parametrize("rate", [0.0, 2.0])
def test_a_time_needs_no_rate_to_say_what_is_left(rate: float) -> None:
    goal = Goal(300, is_time=True)
    assert goal.seconds_left(status(7, 60.5), rate) == 239.5
    assert goal.seconds_left(status(7, 301.0), rate) == 0.0


def test_nonces_take_as_long_as_the_rate_says() -> None:
    goal = Goal(40, is_time=False)
    assert goal.seconds_left(status(10), 2.0) == 15.0
    assert goal.seconds_left(status(41), 2.0) == 0.0
    assert goal.seconds_left(status(10), 0.0) is None
