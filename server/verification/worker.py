"""A worker: plans orders, leases jobs, has an engine recompute them, and hands in what it found."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final, Protocol

from hallmark.poc.core.errors import DatabaseError, FieldError, HallmarkError, UnsupportedError
from hallmark.poc.offline.engine import Batch, OfflineEngine
from hallmark.poc.protocol.config import DeployedModel
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import Numerics, ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.server.receiver.store import BatchStore
from hallmark.server.verification.jobs import Fitness, Job, JobQueue
from hallmark.server.verification.judging import Judge
from hallmark.server.verification.order import Order
from hallmark.server.verification.orders import OrderBook
from hallmark.server.verification.planning import make_plan

__all__ = ["OwnEngine", "Worker", "WorkerEngine"]

logger = logging.getLogger(__name__)

_POLL_SECONDS: Final = 1.0
_WAIT_SECONDS: Final = 5.0
"""How long it waits where database or engine do not answer."""

_HAND_IN_ATTEMPTS: Final = 12
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 60.0
"""How long it waits after failures in a row, each time twice as long as before; in seconds."""

_ARITHMETIC: Final = ("dtype", "quantization", "kv_cache_dtype")
"""What differs between two numerics that no batch is judged by both."""


class WorkerEngine(Protocol):
    """What recomputes for a worker."""

    @property
    def fingerprint(self) -> str | None:
        """Of its model's files; None where they are not known."""
        ...

    @property
    def numerics(self) -> Numerics:
        """The fingerprint of its arithmetic."""
        ...

    def facts_of(self, body: Mapping[str, Any]) -> DeployedModel:
        """Get ready for a round, and tell what it has to know of the model.

        Args:
            body: The round as a body of `/init`.

        Raises:
            HallmarkError: It cannot be had now.
        """
        ...

    def numbers(self, round_: Round, claims: Sequence[ProofBatch]) -> Mapping[NonceKey, Sequence[float]]:
        """Recompute nonces of the round that it is ready for.

        Args:
            round_: The round.
            claims: The nonces with what each prover claims of them; together one batch at most.

        Returns:
            The k numbers of each nonce; NaN in all of them where it failed.

        Raises:
            HallmarkError: The batch failed as a whole.
        """
        ...


class OwnEngine:
    """A model in this process.

    Attributes:
        fingerprint: Of its model's files.
    """

    def __init__(self, engine: OfflineEngine, fingerprint: str) -> None:
        self._engine = engine
        self.fingerprint = fingerprint

    @property
    def numerics(self) -> Numerics:
        """The fingerprint of its arithmetic."""
        return self._engine.numerics

    def facts_of(self, _: Mapping[str, Any]) -> DeployedModel:
        """Return what rounds have to know of the model."""
        return self._engine.facts

    def numbers(self, round_: Round, claims: Sequence[ProofBatch]) -> Mapping[NonceKey, Sequence[float]]:
        """Recompute nonces; as `WorkerEngine` has it."""
        keys = tuple((claim.public_key, nonce) for claim in claims for nonce in claim.nonces)
        [(batch, numbers)] = self._engine.compute([Batch(round_.spec(), keys)])
        return dict(zip(batch.keys, numbers, strict=True))


class Worker:
    """One worker of a queue.

    Args:
        store: The receivers' store, in PostgreSQL.
        engine: What recomputes.
        name: What it is called in the database, different from every other worker's.
        lease_seconds: How long after its last sign of life others take over its job.
        clock: Seconds on a clock that never goes back.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        store: BatchStore,
        engine: WorkerEngine,
        name: str,
        lease_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._orders = OrderBook(store.database, clock=clock, now=now)
        self._jobs = JobQueue(store, now)
        self._engine = engine
        self._name = name
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._stopping = threading.Event()
        self._left: set[int] = set()
        self._waiting: dict[int, float] = {}
        self._failures = 0
        self._said: set[tuple[int, str]] = set()
        self.ended_jobs = 0

    def stop(self) -> None:
        """Let it end after the job that it has; from a signal handler too."""
        self._stopping.set()

    def run(self, *, until_idle: bool = False) -> None:
        """Work until it is stopped.

        Args:
            until_idle: Whether it ends as soon as there is nothing left that it may do, for others neither.

        Raises:
            KeyboardInterrupt: It was interrupted; its job is given back.
        """
        while not self._stopping.is_set():
            try:
                if self._plan() or self._work() or self._conclude():
                    continue
                if until_idle and self._is_idle():
                    return
            except HallmarkError as exc:
                who = "database" if isinstance(exc, DatabaseError) else "engine"
                logger.warning("The %s does not answer, and is asked again: %s", who, exc)
                self._stopping.wait(_WAIT_SECONDS)
            self._stopping.wait(_POLL_SECONDS)

    @property
    def _fitness(self) -> Fitness:
        numerics, now = self._engine.numerics, self._clock()
        arithmetic = json.dumps({name: numerics.get(name) for name in _ARITHMETIC})
        waiting = [order for order, until in self._waiting.items() if now < until]
        return Fitness(model=self._engine.fingerprint, arithmetic=arithmetic, without=(*self._left, *waiting))

    def _is_idle(self) -> bool:
        """Return whether nothing is left.

        An order that only waits is not done, one that is left to others is.
        """
        unplanned = {order.id for order in self._orders.unplanned()} - self._left
        fitness = replace(self._fitness, without=(*self._left,))
        return not unplanned and self._jobs.is_idle(fitness)

    def _plan(self) -> bool:
        """Plan the orders that are not planned; return whether there was one."""
        has_planned = False
        for order in self._orders.unplanned():
            if order.id in self._fitness.without:
                continue
            facts = self._facts(order)
            if facts is None:
                continue
            batches = self._orders.waiting(order)
            try:
                plan = make_plan(order, batches, facts, self._engine.numerics)
            except HallmarkError as exc:
                self._leave(order, exc)
                continue
            except Exception as exc:
                logger.exception("Order %d cannot be planned", order.id)
                self._leave(order, exc)
                continue
            if self._orders.enter(order, plan, self._engine.fingerprint, self._fitness.arithmetic):
                logger.info("Order %d: %d batches in %d jobs", order.id, len(plan.batches), len(plan.jobs))
                has_planned = True
        return has_planned

    def _facts(self, order: Order) -> DeployedModel | None:
        """Get ready for an order's round; None where it cannot be had, now or ever."""
        try:
            facts = self._engine.facts_of(order.round_body())
            order.round(facts)
        except (FieldError, UnsupportedError) as exc:
            self._leave(order, exc)
        except HallmarkError as exc:
            self._waiting[order.id] = self._clock() + _WAIT_SECONDS
            self._say(order, f"Order {order.id} waits: {exc}")
        else:
            return facts
        return None

    def _leave(self, order: Order, reason: Exception) -> None:
        self._left.add(order.id)
        self._say(order, f"Order {order.id} is left to others: {reason}")

    def _judge_of(self, order: Order) -> Judge:
        facts = self._engine.facts_of(order.round_body())
        return Judge(order=order, facts=facts, numerics=self._engine.numerics)

    def _work(self) -> bool:
        """Recompute a job, or give one up; return whether there was one."""
        job = self._jobs.lease(self._name, self._fitness, self._lease_seconds)
        if job is None:
            return self._give_up()
        try:
            with self._kept(job):
                self._recompute(job)
        except (KeyboardInterrupt, SystemExit):
            # Where the database is away, its lease ends by itself.
            with suppress(DatabaseError):
                self._jobs.release(job, self._name)
            raise
        return True

    def _give_up(self) -> bool:
        """End the jobs that were tried as often as they may be."""
        has_ended = False
        for identifier, order in self._jobs.exhausted(self._fitness):
            if self._facts(order) is not None and self._jobs.give_up(identifier, self._judge_of(order)):
                logger.error("Job %d of order %d is given up", identifier, order.id)
                has_ended = True
        return has_ended

    def _conclude(self) -> bool:
        """Judge all batches of a prover together; return whether there was one."""
        try:
            return self._jobs.conclude(self._fitness, self._judge_of)
        except HallmarkError:
            raise
        except Exception:
            logger.exception("A prover's batches cannot be judged together")
            self._stopping.wait(_LONGEST_PAUSE)
            return False

    def _recompute(self, job: Job) -> None:
        order = job.order
        facts = self._facts(order)
        if facts is None:
            # It is not the job's fault.
            self._jobs.release(job, self._name)
            return
        judge = Judge(order=order, facts=facts, numerics=self._engine.numerics)
        try:
            found = self._engine.numbers(order.round(facts), self._jobs.claims(job))
            is_first = self._hand_in(job, [found[key] for key in job.keys], judge)
        except DatabaseError:
            self._jobs.release(job, self._name)
            raise
        except Exception as exc:  # whatever it is, it must not end one worker after the other
            self._failures += 1
            logger.warning("Job %d failed, attempt %d", job.id, job.attempts, exc_info=exc)
            self._jobs.release(job, self._name, str(exc) or repr(exc))
            # Where every job fails here, others are to have them.
            self._stopping.wait(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**self._failures))
            return
        self._failures = 0
        if is_first:
            self.ended_jobs += 1
        else:
            logger.info("Job %d had been handed in by another worker", job.id)

    def _hand_in(self, job: Job, numbers: Sequence[Sequence[float]], judge: Judge) -> bool:
        """Hand numbers in, again where the database does not answer; then others have the job."""
        for attempt in range(1, _HAND_IN_ATTEMPTS):
            try:
                return self._jobs.complete(job, numbers, judge)
            except DatabaseError as exc:
                logger.warning("Job %d is handed in again, attempt %d: %s", job.id, attempt, exc)
                self._stopping.wait(_WAIT_SECONDS)
        return self._jobs.complete(job, numbers, judge)

    @contextmanager
    def _kept(self, job: Job) -> Iterator[None]:
        """Extend a job's lease from time to time."""
        is_done = threading.Event()

        def extend() -> None:
            while not is_done.wait(self._lease_seconds / 3):
                try:
                    if not self._jobs.extend(job, self._name, self._lease_seconds):
                        logger.info("Job %d has been taken over by another worker", job.id)
                        return
                except DatabaseError as exc:
                    logger.warning("The lease of job %d could not be extended: %s", job.id, exc)

        thread = threading.Thread(target=extend, name="hallmark lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_done.set()
            thread.join()

    def _say(self, order: Order, sentence: str) -> None:
        """Log what keeps an order, once."""
        if (order.id, sentence) not in self._said:
            self._said.add((order.id, sentence))
            logger.warning("%s", sentence)
