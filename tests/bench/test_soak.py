"""How the soak reads growth, on levels that are given by hand, and what a real process holds."""

import math
import os
from dataclasses import replace

import pytest
from _growth import Rate, has_grown, rate, shares
from _resources import Resources
from soak import Level, growth_rows, share_rows, what_grew

HOUR = 3600.0
MEGABYTE = 10**6


def level(phase: str, hours: float, megabytes: float, *, descriptors: int = 30, threads: int = 9) -> Level:
    size = round(megabytes * MEGABYTE)
    held = Resources(hours * HOUR, size, size, size, descriptors, threads)
    return Level(phase, hours * HOUR, {"API server": held}, {}, (0, 0, 0))


def levels(*grown: tuple[str, float]) -> list[Level]:
    """Levels of windows of half an hour, each grown by so many megabytes over the one before."""
    found = [level("chat+rounds", 0.0, 700.0)]
    for phase, megabytes in grown:
        before = found[-1]
        size = before.held["API server"].rss / MEGABYTE + megabytes
        found.append(level(phase, before.seconds / HOUR + 0.5, size))
    return found


def test_growth_is_told_apart_by_phase() -> None:
    rows = growth_rows(
        levels(
            ("chat", 1), ("chat+rounds", 4), ("chat", 2), ("chat+rounds", 5), ("chat", 3), ("chat+rounds", 6)
        )
    )
    found = {row["phase"]: row for row in rows}
    assert found["chat"]["rss_mb_h"][0] == 4.0
    assert found["chat+rounds"]["rss_mb_h"][0] == 10.0
    assert found["chat"]["windows"] == 3
    assert found["chat"]["rss_mb"] == [700.0, 721.0]
    for row in rows:
        mean, low, high = row["anonymous_mb_h"]
        assert low < mean < high


def test_growth_is_shared_out_among_completions_and_rounds() -> None:
    found = levels(("chat", 1.01), ("chat+rounds", 4), ("chat", 1.99), ("chat+rounds", 5))
    counts = ((0, 0), (1000, 0), (1500, 7), (3500, 7), (4000, 16))
    done = [{"completions": completions, "rounds": rounds} for completions, rounds in counts]
    [row] = share_rows([replace(each, done=counts) for each, counts in zip(found, done, strict=True)])
    # 1 kB a completion and 0.5 MB a round, all but exactly.
    for name in ("rss", "anonymous"):
        mean, low, high = row[f"{name}_kb_per_completion"]
        assert low < 1.0 < high
        assert mean == pytest.approx(1.0, abs=0.1)
        assert row[f"{name}_kb_per_round"][0] == pytest.approx(500, rel=0.05)
    [row] = share_rows([replace(each, done={"completions": n}) for n, each in enumerate(found)])
    assert "rss_kb_per_round" not in row, "there were no rounds"


def test_shares_that_cannot_be_told_apart_have_no_interval() -> None:
    found = shares([1, 2, 3, 4], {"completions": [1, 2, 3, 4], "rounds": [2, 4, 6, 8]})
    assert [each.high for each in found.values()] == [math.inf] * 2


def test_a_single_window_has_no_interval() -> None:
    [row] = growth_rows(levels(("chat", 1)))
    assert row["rss_mb_h"] == [2.0]


def test_rates_have_students_interval() -> None:
    # t of three degrees of freedom is 3.182.
    assert rate([1, 2, 3, 4], [1, 1, 1, 1]) == pytest.approx(
        Rate(2.5, 2.5 - 3.182 * 0.6455, 2.5 + 3.182 * 0.6455), rel=1e-3
    )
    assert rate([1, 1], [0.5, 0.5]) == Rate(2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("counts", "grown"),
    [
        ([30] * 9, False),
        ([30, 34, 31, 33, 30, 35, 31, 32, 34], False),
        ([30, 30, 30, 33, 33, 33, 33, 33, 33], False),
        ([30, 31, 32, 33, 34, 35, 36, 37, 38], True),
        ([30, 30, 30, 30, 30, 40, 40, 40, 40], True),
        ([30], False),
    ],
)
def test_counts_have_grown_where_all_late_ones_are_above_all_early_ones(
    counts: list[int], grown: bool
) -> None:
    assert has_grown(counts) is grown
    of_descriptors = [level("chat", n, 700, descriptors=count) for n, count in enumerate(counts)]
    of_threads = [level("chat", n, 700, threads=count) for n, count in enumerate(counts)]
    assert bool(what_grew(of_descriptors)) is bool(what_grew(of_threads)) is grown


def test_what_a_process_holds_is_read() -> None:
    before = Resources.of(os.getpid())
    block = bytearray(os.urandom(1)) * (64 * MEGABYTE)
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    try:
        held = Resources.of(os.getpid())
    finally:
        for descriptor in opened:
            os.close(descriptor)
    assert len(block) == 64 * MEGABYTE
    for name in ("rss", "pss", "anonymous"):
        assert getattr(held, name) - getattr(before, name) == pytest.approx(64 * MEGABYTE, rel=0.2), name
    assert held.descriptors - before.descriptors == 5
    assert held.threads >= 1
