"""Batches waiting to be judged: every prover's in turn, bounded, with results kept for a while."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from hallmark.poc.core.errors import FieldError, HallmarkError, QueueFullError, UnknownRequestError
from hallmark.poc.protocol.status import QueueStats
from hallmark.poc.rounds.validation_job import SettledJob, ValidationJob

__all__ = ["ValidationQueue"]

RESULT_LIFETIME = 3600.0
MAX_RESULTS = 1_000
MAX_RESULT_NONCES = 1_000_000
_SECONDS_PER_NONCE = 0.05


class ValidationQueue:
    """Jobs in the order they came, with a cap in nonces; one forward may serve nonces of several.

    Provers take turns: what is taken at once is shared out between those who have a job waiting, so that a
    large one holds up the jobs of its own prover only.

    A batch is kept whole until it is settled, and counts as much until then; afterwards only what is answered
    about it.

    Args:
        max_queued_nonces: Nonces of the batches that are not settled, with repetitions and failed ones.
        clock: Seconds on a clock that never goes back.
    """

    def __init__(self, max_queued_nonces: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._cap = max_queued_nonces
        self._clock = clock
        # By prover, whose turn it is first.
        self._waiting: dict[str, deque[ValidationJob]] = {}
        self._unsettled: dict[str, ValidationJob] = {}
        self._settled: dict[str, tuple[float, SettledJob]] = {}
        self._unsettled_size = self._settled_size = 0
        self._seconds_per_nonce = _SECONDS_PER_NONCE
        self._completed_jobs = self._cancelled_jobs = self._checked_nonces = self._failed_nonces = 0
        self._fraud_verdicts = 0
        self._queued_nonces = 0

    @property
    def has_waiting(self) -> bool:
        """Whether there is a nonce to take."""
        return bool(self._waiting)

    @property
    def stats(self) -> QueueStats:
        """Depth and totals."""
        return QueueStats(
            queued_jobs=len(self._unsettled),
            queued_nonces=self._queued_nonces,
            nonces_per_second=1 / self._seconds_per_nonce if self._checked_nonces else None,
            completed_jobs=self._completed_jobs,
            cancelled_jobs=self._cancelled_jobs,
            checked_nonces=self._checked_nonces,
            failed_nonces=self._failed_nonces,
            fraud_verdicts=self._fraud_verdicts,
        )

    def submit(self, job: ValidationJob) -> None:
        """Queue a batch.

        Raises:
            FieldError: It claims no nonce, or more than the queue ever takes.
            QueueFullError: There is no room for it now.
        """
        proof = job.proof
        if not job.nonces or job.size > self._cap:
            raise FieldError(
                "nonces",
                f"{len(proof.nonces)} nonces and {len(proof.failed_nonces)} failed ones",
                f"1 to {self._cap} nonces to judge, repetitions and failed ones included",
            )
        excess = self._unsettled_size + job.size - self._cap
        if excess > 0:
            raise QueueFullError(
                f"batches of {self._unsettled_size} nonces wait for validation; "
                f"{job.size} more would exceed the limit of {self._cap}",
                # Repetitions take room and no time.
                retry_after=max(1.0, min(excess, self._queued_nonces) * self._seconds_per_nonce),
            )
        self._queued_nonces += len(job.nonces)
        self._unsettled_size += job.size
        self._waiting.setdefault(proof.public_key, deque()).append(job)
        self._unsettled[job.request_id] = job

    def find(self, request_id: str) -> ValidationJob | SettledJob:
        """Return a job that waits or runs, or what is kept of one that has been settled not too long ago.

        Raises:
            UnknownRequestError: There is none of that id.
        """
        self._expire()
        if request_id in self._unsettled:
            return self._unsettled[request_id]
        if request_id in self._settled:
            return self._settled[request_id][1]
        raise UnknownRequestError(
            f"request {request_id!r} is not known; results are kept for {RESULT_LIFETIME / 60:.0f} minutes, "
            f"the latest {MAX_RESULTS}"
        )

    def recent(self, count: int) -> list[SettledJob]:
        """Return what is kept of the jobs that were settled last, the latest first, at most `count`."""
        self._expire()
        return [job for _, job in islice(reversed(self._settled.values()), count)]

    def take(self, count: int) -> list[tuple[ValidationJob, int]]:
        """Return the next `count` nonces, each with its job; fewer only where no more wait."""
        taken: list[tuple[ValidationJob, int]] = []
        while self._waiting and len(taken) < count:
            share = max(1, (count - len(taken)) // len(self._waiting))
            for prover in list(self._waiting):
                taken += self._take_from(prover, min(share, count - len(taken)))
                if len(taken) == count:
                    break
        return taken

    def _take_from(self, prover: str, count: int) -> list[tuple[ValidationJob, int]]:
        """Return nonces of a prover's first jobs; the prover is then behind the others."""
        jobs = self._waiting.pop(prover)
        taken: list[tuple[ValidationJob, int]] = []
        while jobs and len(taken) < count:
            taken += [(jobs[0], nonce) for nonce in jobs[0].take(count - len(taken))]
            if jobs[0].all_taken:
                jobs.popleft()
        if jobs:
            self._waiting[prover] = jobs
        return taken

    def record(
        self, taken: Sequence[tuple[ValidationJob, int]], numbers: Sequence[Sequence[float]], seconds: float
    ) -> list[ValidationJob]:
        """Note the numbers of what was taken, which took `seconds` to compute.

        Returns:
            The jobs that are to be judged now, and settled by `settle` whatever comes of it: nothing else
            does it. Jobs that were cancelled in the meantime stay so.
        """
        seconds_each = seconds / len(taken)
        if self._checked_nonces:
            self._seconds_per_nonce += 0.2 * (seconds_each - self._seconds_per_nonce)
        else:
            self._seconds_per_nonce = seconds_each
        computed = []
        for (job, nonce), of_nonce in zip(taken, numbers, strict=True):
            if job.settled.is_set():
                continue
            self._queued_nonces -= 1
            self._checked_nonces += 1
            job.record(nonce, of_nonce)
            if job.is_computed:
                computed.append(job)
        return computed

    def settle(self, job: ValidationJob, error: HallmarkError) -> None:
        """Let the outcome of a job that `record` has returned be known.

        Args:
            job: The job.
            error: What takes the verdict's place where there is none.
        """
        if job.has_verdict:
            self._completed_jobs += 1
            verdict = job.outcome()
            self._failed_nonces += len(verdict.failed_nonces)
            self._fraud_verdicts += verdict.fraud_detected
            job.settle()
        else:
            self._cancelled_jobs += 1
            job.fail(error)
        self._keep(job)

    def release(self) -> None:
        """Let go of the connections that wait for a verdict; the jobs stay queued."""
        for job in self._unsettled.values():
            job.released.set()

    def cancel(self, error: HallmarkError) -> None:
        """Fail every job that is not settled, those being computed included."""
        for job in list(self._unsettled.values()):
            self.withdraw(job, error)

    def withdraw(self, job: ValidationJob, error: HallmarkError) -> None:
        """Fail one job, be it waiting or being computed; one that is being judged gets its verdict."""
        if job.settled.is_set() or job.is_computed:
            return
        self._queued_nonces -= job.n_open
        job.fail(error)
        self._cancelled_jobs += 1
        self._keep(job)
        prover = job.proof.public_key
        jobs = self._waiting.get(prover)
        if jobs is not None and job in jobs:
            jobs.remove(job)
            if not jobs:
                del self._waiting[prover]

    def _keep(self, job: ValidationJob) -> None:
        del self._unsettled[job.request_id]
        self._unsettled_size -= job.size
        self._settled[job.request_id] = (self._clock(), job.to_keep())
        self._settled_size += job.size
        self._expire()

    def _expire(self) -> None:
        """Forget results that are too old or too many; the latest is kept whatever its size."""
        while self._settled:
            request_id, (settled_at, job) = next(iter(self._settled.items()))
            too_many = len(self._settled) > MAX_RESULTS or (
                self._settled_size > MAX_RESULT_NONCES and len(self._settled) > 1
            )
            if not too_many and self._clock() - settled_at <= RESULT_LIFETIME:
                return
            del self._settled[request_id]
            self._settled_size -= job.size
