"""An error that comes again and again costs a line now and then."""

import itertools
import logging

import pytest
from clock import Clock

from hallmark.poc.core.repeated_errors import RepeatedErrors

WHAT = "Callbacks to http://a stand still"


class Log:
    """Repeated errors on a clock that is set by hand, and what they log."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self.clock = Clock()
        self.errors = RepeatedErrors(logging.getLogger("test"), self.clock)
        self._caplog = caplog

    @property
    def lines(self) -> list[tuple[str, str]]:
        return [(record.levelname, record.getMessage()) for record in self._caplog.records]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


def test_a_disk_that_is_full_for_a_day_is_logged_at_growing_intervals_and_once_when_it_is_over(
    log: Log,
) -> None:
    times = []
    for _ in range(86_400 // 5):
        before = len(log.lines)
        log.errors.note(WHAT, "disk full")
        times += [log.clock() - 1000] * (len(log.lines) - before)
        log.clock.advance(5)
    minutes = [round(at / 60) for at in times]
    assert minutes[:8] == [0, 1, 3, 7, 15, 31, 63, 123]
    assert all(later - sooner == 60 for sooner, later in itertools.pairwise(minutes[7:]))
    assert log.lines[0] == ("ERROR", f"{WHAT}: disk full")
    assert log.lines[2] == ("ERROR", f"{WHAT}, for 3 min now, 24 times since the last line: disk full")
    log.errors.is_over(WHAT)
    log.errors.is_over(WHAT)
    assert log.lines[-1] == ("INFO", f"No longer, after 86400 s: {WHAT}")
    assert len(log.lines) == len(times) + 1


def test_what_works_says_nothing(log: Log) -> None:
    log.errors.is_over(WHAT)
    assert log.lines == []


def test_the_next_time_it_is_said_at_once(log: Log) -> None:
    for _ in range(2):
        log.errors.note(WHAT, "disk full")
        log.errors.note(WHAT, "disk full")
        log.errors.is_over(WHAT)
    assert [level for level, _ in log.lines] == ["ERROR", "INFO"] * 2


def test_each_thing_is_counted_for_itself(log: Log) -> None:
    log.errors.note("a", 1)
    log.errors.note("b", 2)
    log.clock.advance(60)
    log.errors.note("a", 3)
    assert [text for _, text in log.lines] == [
        "a: 1",
        "b: 2",
        "a, for 1 min now, 1 times since the last line: 3",
    ]
