"""The queue of batches to judge. Distances are given by hand: no engine, no waiting."""

import math
from typing import Any

import pytest
from rounds import make_round

from hallmark.poc import validation
from hallmark.poc.errors import FieldError, QueueFullError, RoundCancelledError, UnknownRequestError
from hallmark.poc.fraud import Verdict
from hallmark.poc.proof import ProofBatch
from hallmark.poc.validation import ValidationJob, ValidationQueue

ROUND = make_round()


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def proof(*nonces: int, **changes: Any) -> ProofBatch:
    config = ROUND.config
    return ProofBatch(
        **{
            "public_key": config.public_key,
            "block_hash": config.block_hash,
            "block_height": config.block_height,
            "node_id": 0,
            "nonces": nonces,
            "dist": (1.4,) * len(nonces),
            **changes,
        }
    )


def judge_all(queue: ValidationQueue, distance: float = 1.4, count: int = 8) -> list[ValidationJob]:
    settled = []
    while queue.has_waiting:
        taken = queue.take(count)
        settled += queue.record(taken, [distance] * len(taken), 0.1)
    return settled


def test_batches_are_served_in_order_and_share_a_forward() -> None:
    queue = ValidationQueue(100)
    first, second, third = (queue.submit(proof(*range(n, n + 3)), ROUND) for n in (0, 10, 20))
    assert queue.take(4) == [(first, 0), (first, 1), (first, 2), (second, 10)]
    assert (first.status, second.status, third.status) == ("running", "running", "queued")
    assert queue.take(100) == [(second, 11), (second, 12), (third, 20), (third, 21), (third, 22)]
    assert not queue.has_waiting
    assert queue.take(1) == []


def test_a_job_is_settled_by_its_last_distance() -> None:
    queue = ValidationQueue(100)
    job = queue.submit(proof(1, 2, 3), ROUND)
    assert queue.record(queue.take(2), [1.4, 1.4], 0.1) == []
    assert not job.settled.is_set()
    assert queue.stats["queued_nonces"] == 1
    assert queue.record(queue.take(2), [1.4], 0.1) == [job]
    assert job.settled.is_set()
    assert job.released.is_set()
    assert job.status == "completed"
    assert job.outcome().verdict is Verdict.HONEST
    assert queue.find(job.request_id) is job


def test_duplicates_are_computed_once_and_counted() -> None:
    queue = ValidationQueue(100)
    job = queue.submit(proof(5, 5, 6, 5), ROUND)
    assert queue.stats["queued_nonces"] == 2
    assert [nonce for _, nonce in queue.take(8)] == [5, 6]
    queue.record([(job, 5), (job, 6)], [1.4, 1.4], 0.1)
    assert job.outcome().n_duplicates == 2


def test_failed_nonces_are_reported_and_counted() -> None:
    queue = ValidationQueue(100)
    job = queue.submit(proof(1, 2), ROUND)
    queue.record(queue.take(2), [math.nan, 1.4], 0.1)
    assert job.outcome().failed_nonces == (1,)
    assert queue.stats["failed_nonces"] == 1
    assert queue.stats["checked_nonces"] == 2


def test_the_cap_is_in_nonces_and_says_when_to_come_back() -> None:
    queue = ValidationQueue(10)
    queue.submit(proof(*range(8)), ROUND)
    with pytest.raises(
        QueueFullError, match=r"8 nonces wait for validation; 4 more would exceed .* 10"
    ) as full:
        queue.submit(proof(*range(4)), ROUND)
    assert full.value.retry_after >= 1
    assert queue.stats["queued_jobs"] == 1, "a refused batch leaves no trace"
    queue.submit(proof(*range(2)), ROUND)
    judge_all(queue)
    assert queue.stats["queued_nonces"] == 0
    queue.submit(proof(*range(10)), ROUND)


def test_nonces_in_flight_count_against_the_cap() -> None:
    queue = ValidationQueue(10)
    queue.submit(proof(*range(10)), ROUND)
    queue.take(10)
    with pytest.raises(QueueFullError):
        queue.submit(proof(1), ROUND)


def test_repeated_and_failed_nonces_take_room() -> None:
    queue = ValidationQueue(10)
    job = queue.submit(proof(5, 5, 5, 5, 5, failed_nonces=(6, 7)), ROUND)
    assert queue.stats["queued_nonces"] == 1, "there is one nonce to compute"
    with pytest.raises(QueueFullError, match="7 nonces wait for validation; 4 more would exceed"):
        queue.submit(proof(1, 1, failed_nonces=(2, 3)), ROUND)
    for claims in (proof(*(1,) * 11), proof(1, failed_nonces=tuple(range(2, 12)))):
        with pytest.raises(FieldError, match=r"nonces: .*1 to 10"):
            queue.submit(claims, ROUND)
    assert judge_all(queue) == [job]
    queue.submit(proof(*(1,) * 10), ROUND)
    queue.cancel(RoundCancelledError("the round has ended: why"))
    queue.submit(proof(*(1,) * 10), ROUND)


def test_the_time_to_come_back_follows_the_measured_speed() -> None:
    queue = ValidationQueue(10)
    for _ in range(50):
        queue.submit(proof(*range(10)), ROUND)
        queue.record(queue.take(10), [1.4] * 10, 30.0)
    queue.submit(proof(*range(10)), ROUND)
    with pytest.raises(QueueFullError) as full:
        queue.submit(proof(*range(10)), ROUND)
    assert full.value.retry_after == pytest.approx(30.0, rel=0.01)


def test_more_than_ever_fits_and_nothing_at_all_are_wrong_fields() -> None:
    queue = ValidationQueue(10)
    with pytest.raises(FieldError, match=r"11 nonces.* allowed: 1 to 10"):
        queue.submit(proof(*range(11)), ROUND)
    with pytest.raises(FieldError, match="0 nonces"):
        queue.submit(proof(failed_nonces=(1,)), ROUND)


def test_cancelled_jobs_say_why_and_late_distances_change_nothing() -> None:
    queue = ValidationQueue(10)
    running, waiting = queue.submit(proof(1, 2), ROUND), queue.submit(proof(3), ROUND)
    taken = queue.take(2)
    queue.cancel(RoundCancelledError("the round has ended: why"))
    assert queue.record(taken, [1.4, 1.4], 0.1) == []
    for job in (running, waiting):
        assert job.status == "failed"
        assert queue.find(job.request_id) is job
        with pytest.raises(RoundCancelledError, match="why"):
            job.outcome()
    assert queue.stats == {
        "queued_jobs": 0,
        "queued_nonces": 0,
        "nonces_per_second": None,
        "completed_jobs": 0,
        "cancelled_jobs": 2,
        "checked_nonces": 0,
        "failed_nonces": 0,
    }
    queue.submit(proof(*range(10)), ROUND)


def test_the_outcome_of_an_unsettled_job_is_an_error_not_a_pass() -> None:
    with pytest.raises(RuntimeError, match="not settled"):
        ValidationQueue(10).submit(proof(1), ROUND).outcome()


def test_release_lets_waiting_connections_go_and_keeps_the_jobs() -> None:
    queue = ValidationQueue(10)
    job = queue.submit(proof(1), ROUND)
    queue.release()
    assert job.released.is_set()
    assert not job.settled.is_set()
    assert judge_all(queue) == [job]


def test_results_are_kept_an_hour() -> None:
    clock = Clock()
    queue = ValidationQueue(10, clock)
    job = queue.submit(proof(1), ROUND)
    clock.now = 10_000
    assert queue.find(job.request_id) is job, "what has not been judged does not expire"
    judge_all(queue)
    clock.now += 3600
    assert queue.find(job.request_id) is job
    clock.now += 1
    with pytest.raises(UnknownRequestError, match="kept for 60 minutes, the latest 1000"):
        queue.find(job.request_id)


def test_the_latest_thousand_results_are_kept() -> None:
    queue = ValidationQueue(2000)
    jobs = [queue.submit(proof(1), ROUND) for _ in range(1002)]
    judge_all(queue, count=500)
    for job in jobs[:2]:
        with pytest.raises(UnknownRequestError):
            queue.find(job.request_id)
    assert all(queue.find(job.request_id) is job for job in jobs[2:])


def test_results_are_bounded_in_nonces_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "MOST_RESULT_NONCES", 100)
    queue = ValidationQueue(2000)
    jobs = [queue.submit(proof(*range(40)), ROUND) for _ in range(4)]
    large = queue.submit(proof(*(1,) * 300, failed_nonces=tuple(range(10, 210))), ROUND)
    judge_all(queue)
    assert queue.find(large.request_id) is large, "the latest is kept whatever its size"
    with pytest.raises(UnknownRequestError):
        queue.find(jobs[-1].request_id)


def test_an_id_that_was_never_given_is_unknown() -> None:
    with pytest.raises(UnknownRequestError, match="'nothing'"):
        ValidationQueue(10).find("nothing")
