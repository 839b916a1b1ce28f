"""The queue of batches to judge. Distances are given by hand: no engine, no waiting."""

import gc
import math
import weakref
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest
from builders import last_row_round, make_batch
from clock import Clock
from hypothesis import given, settings
from hypothesis import strategies as st

from hallmark.poc.core.errors import (
    FieldError,
    QueueFullError,
    RoundCancelledError,
    StateError,
    UnknownRequestError,
)
from hallmark.poc.protocol.law import number_of
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.rounds import validation
from hallmark.poc.rounds.validation import ValidationQueue
from hallmark.poc.rounds.validation_job import ValidationJob
from hallmark.poc.verdict.judge import Verdict

ROUND = last_row_round()


def submit(queue: ValidationQueue, batch: ProofBatch) -> ValidationJob:
    job = ValidationJob(batch, ROUND, None)
    queue.submit(job)
    return job


def record(
    queue: ValidationQueue,
    taken: Sequence[tuple[ValidationJob, int]],
    distances: Sequence[float],
    seconds: float,
) -> list[ValidationJob]:
    """Record distances and settle what has a verdict by them."""
    numbers = [(number_of(distance, ROUND.hidden_size),) for distance in distances]
    judged = queue.record(taken, numbers, seconds)
    for job in judged:
        job.judge()
        assert not job.settled.is_set()
        assert job.status == "running"
        queue.settle(job, StateError("it has no verdict"))
    return judged


def judge_all(queue: ValidationQueue, distance: float = 1.4, count: int = 8) -> list[ValidationJob]:
    settled = []
    while queue.has_waiting:
        taken = queue.take(count)
        settled += record(queue, taken, [distance] * len(taken), 0.1)
    return settled


def test_batches_are_served_in_order_and_share_a_forward() -> None:
    queue = ValidationQueue(100)
    first, second, third = (submit(queue, make_batch(range(n, n + 3))) for n in (0, 10, 20))
    assert queue.take(4) == [(first, 0), (first, 1), (first, 2), (second, 10)]
    assert (first.status, second.status, third.status) == ("running", "running", "queued")
    assert queue.take(100) == [(second, 11), (second, 12), (third, 20), (third, 21), (third, 22)]
    assert not queue.has_waiting
    assert queue.take(1) == []


def test_a_job_is_settled_by_its_last_distance() -> None:
    queue = ValidationQueue(100)
    job = submit(queue, make_batch([1, 2, 3]))
    assert record(queue, queue.take(2), [1.4, 1.4], 0.1) == []
    assert not job.settled.is_set()
    assert queue.stats["queued_nonces"] == 1
    assert record(queue, queue.take(2), [1.4], 0.1) == [job]
    assert job.settled.is_set()
    assert job.released.is_set()
    assert job.status == "completed"
    assert job.outcome().verdict is Verdict.HONEST
    assert queue.find(job.request_id) == job.to_keep()


def test_duplicates_are_computed_once_and_counted() -> None:
    queue = ValidationQueue(100)
    job = submit(queue, make_batch([5, 5, 6, 5]))
    assert queue.stats["queued_nonces"] == 2
    assert [nonce for _, nonce in queue.take(8)] == [5, 6]
    record(queue, [(job, 5), (job, 6)], [1.4, 1.4], 0.1)
    assert job.outcome().n_duplicates == 2


def test_failed_nonces_are_reported_and_counted() -> None:
    queue = ValidationQueue(100)
    job = submit(queue, make_batch([1, 2]))
    record(queue, queue.take(2), [math.nan, 1.4], 0.1)
    assert job.outcome().failed_nonces == (1,)
    assert queue.stats["failed_nonces"] == 1
    assert queue.stats["checked_nonces"] == 2


def test_the_cap_is_in_nonces_and_says_when_to_come_back() -> None:
    queue = ValidationQueue(10)
    submit(queue, make_batch(range(8)))
    with pytest.raises(
        QueueFullError, match=r"8 nonces wait for validation; 4 more would exceed .* 10"
    ) as full:
        submit(queue, make_batch(range(4)))
    assert full.value.retry_after >= 1
    assert queue.stats["queued_jobs"] == 1, "a refused batch leaves no trace"
    submit(queue, make_batch(range(2)))
    judge_all(queue)
    assert queue.stats["queued_nonces"] == 0
    submit(queue, make_batch(range(10)))


def test_nonces_in_flight_count_against_the_cap() -> None:
    queue = ValidationQueue(10)
    submit(queue, make_batch(range(10)))
    queue.take(10)
    with pytest.raises(QueueFullError):
        submit(queue, make_batch([1]))


def test_repeated_and_failed_nonces_take_room() -> None:
    queue = ValidationQueue(10)
    job = submit(queue, make_batch([5, 5, 5, 5, 5], failed_nonces=(6, 7)))
    assert queue.stats["queued_nonces"] == 1, "there is one nonce to compute"
    with pytest.raises(QueueFullError, match="7 nonces wait for validation; 4 more would exceed"):
        submit(queue, make_batch([1, 1], failed_nonces=(2, 3)))
    for claims in (make_batch([1] * 11), make_batch([1], failed_nonces=tuple(range(2, 12)))):
        with pytest.raises(FieldError, match=r"nonces: .*1 to 10"):
            submit(queue, claims)
    assert judge_all(queue) == [job]
    submit(queue, make_batch([1] * 10))
    queue.cancel(RoundCancelledError("the round has ended: why"))
    submit(queue, make_batch([1] * 10))


def test_the_time_to_come_back_follows_the_measured_speed() -> None:
    queue = ValidationQueue(10)
    for _ in range(50):
        submit(queue, make_batch(range(10)))
        record(queue, queue.take(10), [1.4] * 10, 30.0)
    submit(queue, make_batch(range(10)))
    with pytest.raises(QueueFullError) as full:
        submit(queue, make_batch(range(10)))
    assert full.value.retry_after == pytest.approx(30.0, rel=0.01)


def test_more_than_ever_fits_and_nothing_at_all_are_wrong_fields() -> None:
    queue = ValidationQueue(10)
    with pytest.raises(FieldError, match=r"11 nonces.* allowed: 1 to 10"):
        submit(queue, make_batch(range(11)))
    with pytest.raises(FieldError, match="0 nonces"):
        submit(queue, make_batch([], failed_nonces=(1,)))


def test_cancelled_jobs_say_why_and_late_distances_change_nothing() -> None:
    queue = ValidationQueue(10)
    running, waiting = submit(queue, make_batch([1, 2])), submit(queue, make_batch([3]))
    taken = queue.take(2)
    queue.cancel(RoundCancelledError("the round has ended: why"))
    assert record(queue, taken, [1.4, 1.4], 0.1) == []
    for job in (running, waiting):
        assert job.status == "failed"
        assert queue.find(job.request_id) == job.to_keep()
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
        "fraud_verdicts": 0,
    }
    submit(queue, make_batch(range(10)))


def test_the_outcome_of_an_unsettled_job_is_an_error_not_a_pass() -> None:
    with pytest.raises(RuntimeError, match="not been judged"):
        submit(ValidationQueue(10), make_batch([1])).outcome()


def test_release_lets_waiting_connections_go_and_keeps_the_jobs() -> None:
    queue = ValidationQueue(10)
    job = submit(queue, make_batch([1]))
    queue.release()
    assert job.released.is_set()
    assert not job.settled.is_set()
    assert judge_all(queue) == [job]


def test_results_are_kept_an_hour() -> None:
    clock = Clock()
    queue = ValidationQueue(10, clock)
    job = submit(queue, make_batch([1]))
    clock.advance(10_000)
    assert queue.find(job.request_id) is job, "what has not been judged does not expire"
    judge_all(queue)
    clock.advance(3600)
    assert queue.find(job.request_id) == job.to_keep()
    clock.advance(1)
    with pytest.raises(UnknownRequestError, match="kept for 60 minutes, the latest 1000"):
        queue.find(job.request_id)


def test_a_result_says_when_it_was_settled() -> None:
    clock, queue = Clock(1.8e9), ValidationQueue(10)
    queue.submit(ValidationJob(make_batch([1]), ROUND, None, clock))
    clock.advance(30)
    judge_all(queue)
    clock.advance(30)
    [kept] = queue.recent(1)
    assert kept.settled_at == 1.8e9 + 30


def test_the_latest_thousand_results_are_kept() -> None:
    queue = ValidationQueue(2000)
    jobs = [submit(queue, make_batch([1])) for _ in range(1002)]
    judge_all(queue, count=500)
    for job in jobs[:2]:
        with pytest.raises(UnknownRequestError):
            queue.find(job.request_id)
    assert all(queue.find(job.request_id) == job.to_keep() for job in jobs[2:])


def test_results_are_bounded_in_nonces_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "MAX_RESULT_NONCES", 100)
    queue = ValidationQueue(2000)
    jobs = [submit(queue, make_batch(range(40))) for _ in range(4)]
    large = submit(queue, make_batch([1] * 300, failed_nonces=tuple(range(10, 210))))
    judge_all(queue)
    assert queue.find(large.request_id) == large.to_keep(), "the latest is kept whatever its size"
    with pytest.raises(UnknownRequestError):
        queue.find(jobs[-1].request_id)


def test_of_a_settled_job_only_the_answer_is_kept() -> None:
    queue = ValidationQueue(1000)
    judged = submit(queue, make_batch(range(500)))
    judge_all(queue)
    failed = submit(queue, make_batch(range(500)))
    queue.withdraw(failed, StateError("the client has gone"))
    answers = [queue.find(job.request_id) for job in (judged, failed)]
    assert [kept.status for kept in answers] == ["completed", "failed"]
    jobs = [weakref.ref(job) for job in (judged, failed)]
    del judged, failed
    gc.collect()
    assert [job() for job in jobs] == [None, None], "batches and numbers are over 1,000 bytes a nonce"
    assert all(queue.find(kept.request_id) is kept for kept in answers)


def test_an_id_that_was_never_given_is_unknown() -> None:
    with pytest.raises(UnknownRequestError, match="'nothing'"):
        ValidationQueue(10).find("nothing")


def of(prover: str, *nonces: int) -> ProofBatch:
    return make_batch(nonces, public_key=prover)


def provers_of(taken: Sequence[tuple[ValidationJob, int]]) -> Counter[str]:
    return Counter(job.proof.public_key for job, _ in taken)


class TestProversTakeTurns:
    """A large job holds up its own prover's only."""

    def test_ten_thousand_nonces_of_one_do_not_hold_up_ten_of_another(self) -> None:
        queue = ValidationQueue(100_000)
        large = submit(queue, of("large", *range(10_000)))
        record(queue, queue.take(32), [1.4] * 32, 0.1)
        small = submit(queue, of("small", *range(10)))
        taken = queue.take(32)
        assert provers_of(taken) == {"small": 10, "large": 22}
        assert record(queue, taken, [1.4] * 32, 0.1) == [small]
        assert (large.status, large.n_open) == ("running", 10_000 - 32 - 22)

    def test_a_take_is_shared_out_evenly(self) -> None:
        queue = ValidationQueue(10_000)
        for prover in "abcd":
            submit(queue, of(prover, *range(1000)))
        for _ in range(3):
            assert provers_of(queue.take(32)) == dict.fromkeys("abcd", 8)

    def test_what_does_not_divide_goes_round(self) -> None:
        queue = ValidationQueue(10_000)
        for prover in "abc":
            submit(queue, of(prover, *range(1000)))
        assert [provers_of(queue.take(8)) for _ in range(3)] == [
            {"a": 3, "b": 3, "c": 2},
            {"c": 3, "a": 3, "b": 2},
            {"b": 3, "c": 3, "a": 2},
        ]

    def test_what_one_has_no_use_for_goes_to_the_others(self) -> None:
        queue = ValidationQueue(10_000)
        submit(queue, of("a", *range(1000)))
        submit(queue, of("b", 1))
        submit(queue, of("c", 1, 2))
        assert provers_of(queue.take(30)) == {"a": 27, "b": 1, "c": 2}
        assert provers_of(queue.take(30)) == {"a": 30}, "alone it has the whole take"

    def test_with_more_provers_than_room_everybody_gets_on_within_so_many_takes(self) -> None:
        queue = ValidationQueue(10_000)
        provers = [f"prover {n}" for n in range(20)]
        for prover in provers:
            submit(queue, of(prover, *range(100)))
        first = [provers_of(queue.take(8)) for _ in range(5)]
        assert all(set(taken.values()) == {1} for taken in first)
        assert sum(first, Counter[str]()) == dict.fromkeys(provers, 2), "two turns each in five takes"

    def test_who_comes_late_waits_for_one_turn_of_the_others_at_most(self) -> None:
        queue = ValidationQueue(10_000)
        for n in range(8):
            submit(queue, of(f"early {n}", *range(100)))
        queue.take(4)
        submit(queue, of("late", 1))
        assert provers_of(queue.take(4))["late"] == 0
        assert provers_of(queue.take(4))["late"] == 0
        assert provers_of(queue.take(4))["late"] == 1

    def test_the_jobs_of_one_prover_are_served_one_after_the_other(self) -> None:
        queue = ValidationQueue(10_000)
        first, other, second = (
            submit(queue, of(prover, *nonces))
            for prover, nonces in (("a", range(6)), ("b", range(50, 70)), ("a", range(10, 14)))
        )
        taken = [pair for _ in range(4) for pair in queue.take(4)]
        own = [nonce for job, nonce in taken if job in (first, second)]
        assert own == [*range(6), 10, 11]
        assert [nonce for job, nonce in taken if job is other] == list(range(50, 58))

    def test_a_prover_with_many_small_jobs_gets_its_turn_too(self) -> None:
        queue = ValidationQueue(10_000)
        small = [submit(queue, of("small", n)) for n in range(10)]
        submit(queue, of("large", *range(1000)))
        taken = queue.take(4)
        assert provers_of(taken)["small"] >= 1
        assert provers_of(taken)["large"] >= 1
        while not small[-1].settled.is_set():
            record(queue, taken, [1.4] * len(taken), 0.1)
            taken = queue.take(4)
        assert [job.status for job in small] == ["completed"] * 10


class TestWithdrawing:
    """One job is given up, the others do not notice."""

    GONE = StateError("the client has gone")

    def test_one_that_waits_is_never_computed_and_its_room_is_free(self) -> None:
        queue = ValidationQueue(10)
        first, gone = submit(queue, make_batch(range(5))), submit(queue, make_batch(range(5, 10)))
        queue.withdraw(gone, self.GONE)
        assert gone.status == "failed"
        assert gone.released.is_set()
        with pytest.raises(StateError, match="has gone"):
            gone.outcome()
        assert (queue.stats["queued_jobs"], queue.stats["queued_nonces"]) == (1, 5)
        assert queue.find(gone.request_id) == gone.to_keep()
        late = submit(queue, make_batch(range(20, 25)))
        assert judge_all(queue) == [first, late]

    def test_of_one_that_is_being_computed_the_rest_is_never_taken(self) -> None:
        queue = ValidationQueue(20)
        gone, other = submit(queue, of("a", *range(10))), submit(queue, of("b", *range(10)))
        taken = queue.take(4)
        record(queue, queue.take(2), [1.4, 1.4], 0.1)
        queue.withdraw(gone, self.GONE)
        assert (queue.stats["queued_jobs"], queue.stats["queued_nonces"]) == (1, 9)
        assert record(queue, taken, [1.4] * 4, 0.1) == []
        assert (gone.status, queue.stats["checked_nonces"]) == ("failed", 4), "what comes late is not counted"
        assert queue.stats["queued_nonces"] == 7
        late = submit(queue, of("a", *range(10)))
        assert {job for job, _ in queue.take(100)} == {other, late}

    def test_one_whose_nonces_are_all_taken(self) -> None:
        queue = ValidationQueue(10)
        gone = submit(queue, make_batch(range(10)))
        taken = queue.take(10)
        assert not queue.has_waiting
        queue.withdraw(gone, self.GONE)
        assert record(queue, taken, [1.4] * 10, 0.1) == []
        assert queue.stats["cancelled_jobs"] == 1
        assert queue.stats["queued_nonces"] == 0
        submit(queue, make_batch(range(10)))

    def test_one_that_is_settled_stays_what_it_is(self) -> None:
        queue = ValidationQueue(10)
        job = submit(queue, make_batch([1]))
        judge_all(queue)
        queue.withdraw(job, self.GONE)
        assert job.outcome().verdict is Verdict.HONEST
        assert (queue.stats["completed_jobs"], queue.stats["cancelled_jobs"]) == (1, 0)

    def test_one_that_has_been_withdrawn_already_stays_so(self) -> None:
        queue = ValidationQueue(10)
        job = submit(queue, make_batch([1]))
        queue.withdraw(job, self.GONE)
        queue.withdraw(job, StateError("another reason"))
        assert job.error is self.GONE
        assert queue.stats["cancelled_jobs"] == 1

    def test_the_provers_next_job_takes_its_place(self) -> None:
        queue = ValidationQueue(20)
        gone, second = submit(queue, of("a", *range(8))), submit(queue, of("a", *range(8)))
        submit(queue, of("b", *range(4)))
        queue.take(4)
        queue.withdraw(gone, self.GONE)
        taken = queue.take(4)
        assert provers_of(taken) == {"a": 2, "b": 2}
        assert [nonce for job, nonce in taken if job is second] == [0, 1]


def test_the_speed_is_not_told_before_the_first_nonce() -> None:
    queue = ValidationQueue(100)
    assert queue.stats["nonces_per_second"] is None
    submit(queue, make_batch(range(10)))
    assert queue.stats["nonces_per_second"] is None
    record(queue, queue.take(2), [1.4, 1.4], 0.1)
    assert queue.stats["nonces_per_second"] is not None


def test_the_speed_follows_what_is_measured_and_forgets_what_was() -> None:
    queue = ValidationQueue(1000)
    for seconds_per_nonce in (0.25, 0.001):
        for _ in range(60):
            submit(queue, make_batch(range(8)))
            record(queue, queue.take(8), [1.4] * 8, 8 * seconds_per_nonce)
        assert queue.stats["nonces_per_second"] == pytest.approx(1 / seconds_per_nonce, rel=0.01)


class Traffic:
    """Provers who come and go, with a list of what each job should have come to."""

    ROOM = 60

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.queue = ValidationQueue(self.ROOM)
        self.jobs: list[ValidationJob] = []
        self.taken: defaultdict[ValidationJob, list[int]] = defaultdict(list)
        self.taken_before_it_went: dict[ValidationJob, int] = {}
        self.in_flight: list[list[tuple[ValidationJob, int]]] = []

    def submit(self) -> None:
        claims = self.data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=12), "nonces")
        prover = self.data.draw(st.sampled_from("abcd"), "prover")
        room = self.ROOM - sum(job.size for job in self.jobs if not job.settled.is_set())
        if len(claims) <= room:
            self.jobs.append(submit(self.queue, of(prover, *claims)))
        else:
            with pytest.raises(QueueFullError):
                submit(self.queue, of(prover, *claims))

    def take(self) -> None:
        count = self.data.draw(st.integers(1, 10), "count")
        waiting = [job for job in self.jobs if not job.settled.is_set() and not job.all_taken]
        n_left = sum(len(job.nonces) - len(self.taken[job]) for job in waiting)
        provers = {job.proof.public_key for job in waiting}
        taken = self.queue.take(count)
        assert len(taken) == min(count, n_left), "fewer only where no more wait"
        assert len(provers_of(taken)) == min(count, len(provers)), (
            "everybody's turn, or as many as there is room"
        )
        for job, nonce in taken:
            assert job in waiting
            first = next(
                other
                for other in waiting
                if other.proof.public_key == job.proof.public_key
                and len(self.taken[other]) < len(other.nonces)
            )
            assert job is first, "the first of its prover's"
            self.taken[job].append(nonce)
        if taken:
            self.in_flight.append(taken)

    def record(self) -> None:
        if self.in_flight:
            taken = self.in_flight.pop(0)
            record(self.queue, taken, [1.4] * len(taken), 0.1)

    def withdraw(self) -> None:
        if self.jobs:
            job = self.data.draw(st.sampled_from(self.jobs), "job")
            if not job.settled.is_set():
                self.taken_before_it_went[job] = len(self.taken[job])
            self.queue.withdraw(job, TestWithdrawing.GONE)

    def finish(self) -> None:
        while self.queue.has_waiting:
            self.take()
        while self.in_flight:
            self.record()

    def check(self) -> None:
        for job in self.jobs:
            nonces = list(dict.fromkeys(job.proof.nonces))
            gone = self.taken_before_it_went.get(job)
            assert job.status == ("completed" if gone is None else "failed")
            assert self.taken[job] == nonces[:gone], "each once, in order, and nothing of it once it has gone"
        stats, n_gone = self.queue.stats, len(self.taken_before_it_went)
        assert (stats["queued_jobs"], stats["queued_nonces"]) == (0, 0)
        assert (stats["completed_jobs"], stats["cancelled_jobs"]) == (len(self.jobs) - n_gone, n_gone)
        submit(self.queue, make_batch(range(self.ROOM)))


@settings(deadline=None)
@given(
    steps=st.lists(st.sampled_from(["submit", "submit", "take", "record", "withdraw"]), max_size=30),
    data=st.data(),
)
def test_whatever_the_mix_every_nonce_is_taken_once_and_in_its_jobs_order(
    steps: list[str], data: st.DataObject
) -> None:
    traffic = Traffic(data)
    for step in steps:
        getattr(traffic, step)()
    traffic.finish()
    traffic.check()
