"""How many batches fill one call of an idle engine."""

import pytest

from hallmark.poc.rounds.batch_times import MAX_BATCHES, BatchTimes
from hallmark.poc.rounds.engine_protocol import ComputedBatch


def computed(*host_seconds: float) -> list[ComputedBatch]:
    return [ComputedBatch([[1.4]], seconds) for seconds in host_seconds]


def test_begins_with_one_batch_and_no_times() -> None:
    times = BatchTimes()
    assert times.batches_per_call() == 1
    assert times.stats == {
        "computed": 0,
        "in_last_call": 0,
        "seconds_each": None,
        "host_seconds_each": None,
    }


@pytest.mark.parametrize(
    ("seconds_each", "expected"),
    [(2.0, 1), (0.5, 1), (0.26, 1), (0.25, 2), (0.1, 5), (0.001, MAX_BATCHES), (0.0, MAX_BATCHES)],
)
def test_a_call_takes_about_half_a_second(seconds_each: float, expected: int) -> None:
    times = BatchTimes()
    times.record(computed(0.0, 0.0), 2 * seconds_each)
    assert times.batches_per_call() == expected


@pytest.mark.parametrize(
    ("seconds_each", "expected"), [(40.0, 1), (20.0, 1), (8.0, 3), (2.0, 8), (0.1, 8), (0.02, 25)]
)
def test_a_pipeline_is_given_enough_to_be_full(seconds_each: float, expected: int) -> None:
    """As far as a call is not taken for stuck."""
    times = BatchTimes()
    assert times.batches_per_call(4, 30.0) == 1, "nothing is known"
    times.record(computed(0.0), seconds_each)
    assert times.batches_per_call(4, 30.0) == expected


def test_times_are_the_last_call_s_and_batches_are_all() -> None:
    times = BatchTimes()
    times.record(computed(0.3), 1.0)
    times.record(computed(0.1, 0.3), 0.8)
    assert times.stats == {
        "computed": 3,
        "in_last_call": 2,
        "seconds_each": pytest.approx(0.4),
        "host_seconds_each": pytest.approx(0.2),
    }
