"""The jobs of planned orders: leased by workers, and ended once.

A worker leases a job, recomputes it and hands it in: what is handed in first counts. A job whose lease is
over goes to the next worker.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hallmark.poc.core.errors import FieldError
from hallmark.poc.offline.proof_files import delivered
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.server.receiver.store import BatchStore
from hallmark.server.verification.judging import Judge
from hallmark.server.verification.order import Order
from hallmark.server.verification.orders import read_orders
from hallmark.server.verification.settlement import job_keys, recomputed_of, settle

__all__ = ["MAX_ATTEMPTS", "Fitness", "Job", "JobQueue"]

MAX_ATTEMPTS: Final = 5
"""How often a job is leased before it is given up: what fails, or ends its workers, is not tried for ever."""

_RETRY_SECONDS: Final = 10
"""How long a job waits that failed."""

_FITTING: Final = (
    "arithmetic = :arithmetic AND NOT orders.id = ANY(:without)"
    " AND (CAST(:model AS TEXT) IS NULL OR orders.model IS NULL OR orders.model = :model)"
)
"""The orders that a worker may compute for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitness:
    """The orders that a worker computes for.

    Attributes:
        model: Fingerprint of its model's files; None: it is not known, and any order will do.
        arithmetic: As of `Order`.
        without: Orders that it cannot have now.
    """

    model: str | None
    arithmetic: str
    without: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return the parameters of statements."""
        return {"model": self.model, "arithmetic": self.arithmetic, "without": [*self.without]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Nonces of one round that are recomputed as one batch.

    Attributes:
        id: Its number.
        order: What it is part of.
        keys: The nonces, each with its prover's key.
        attempts: How often it has been leased, this time included.
    """

    id: int
    order: Order
    keys: tuple[NonceKey, ...]
    attempts: int


class JobQueue:
    """The jobs of one database; safe to use beside other processes.

    Args:
        store: The receivers', in PostgreSQL.
        now: Seconds since the epoch.
    """

    def __init__(self, store: BatchStore, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now
        self._database = store.database

    def lease(self, worker: str, fitness: Fitness, seconds: float) -> Job | None:
        """Lease the first job that nobody computes, or whose lease is over.

        Args:
            worker: Who computes it.
            fitness: For which orders.
            seconds: How long nobody else does.
        """
        wanted = {**fitness.as_dict(), "worker": worker, "seconds": seconds, "most": MAX_ATTEMPTS}
        with self._database.transaction() as connection:
            row = connection.execute(
                "UPDATE jobs SET worker = :worker, attempts = attempts + 1,"  # noqa: S608  # constants
                " leased_until = now() + make_interval(secs => :seconds) WHERE id = ("
                " SELECT jobs.id FROM jobs JOIN orders ON orders.id = order_id"
                " WHERE ended_at IS NULL AND attempts < :most"
                f" AND (leased_until IS NULL OR leased_until < now()) AND {_FITTING}"
                " ORDER BY jobs.id LIMIT 1 FOR UPDATE OF jobs SKIP LOCKED)"
                " RETURNING id, order_id, attempts",
                wanted,
            ).fetchone()
            if row is None:
                return None
            identifier, order_id, attempts = row
            [order] = read_orders(connection, "id = :id", {"id": order_id})
            return Job(id=identifier, order=order, keys=job_keys(connection, identifier), attempts=attempts)

    def extend(self, job: Job, worker: str, seconds: float) -> bool:
        """Extend a lease from now on; return whether the worker still has it."""
        with self._database.transaction() as connection:
            extended = connection.execute(
                "UPDATE jobs SET leased_until = now() + make_interval(secs => :seconds)"
                " WHERE id = :id AND worker = :worker AND ended_at IS NULL",
                {"id": job.id, "worker": worker, "seconds": seconds},
            ).rowcount
        return bool(extended)

    def release(self, job: Job, worker: str, error: str | None = None) -> None:
        """Give a job back; where it failed, it waits a while and is tried again.

        Args:
            job: The job.
            worker: Who has it; nothing happens where that is another one by now.
            error: Why it failed; None: the worker ends, and it was no attempt.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET worker = NULL, error = :error, attempts = attempts - :undone,"
                " leased_until = now() + make_interval(secs => :wait)"
                " WHERE id = :id AND worker = :worker AND ended_at IS NULL",
                {
                    "id": job.id,
                    "worker": worker,
                    "error": error,
                    "undone": int(error is None),
                    "wait": 0 if error is None else _RETRY_SECONDS,
                },
            )

    def claims(self, job: Job) -> list[ProofBatch]:
        """Return what each prover claims of a job's nonces, with its first claim of each."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT body FROM batches JOIN job_batches ON batch = batches.id"
                " WHERE job = :id ORDER BY batch",
                {"id": job.id},
            ).fetchall()
        left = set(job.keys)
        claims = []
        for (body,) in rows:
            proof = delivered(json.loads(body), "", is_claim=True).proof
            places: dict[int, int] = {}
            for place, nonce in enumerate(proof.nonces):
                if (proof.public_key, nonce) in left:
                    places.setdefault(nonce, place)
            if places:
                left -= {(proof.public_key, nonce) for nonce in places}
                claims.append(_part(proof, [*places.values()]))
        return claims

    def complete(self, job: Job, numbers: Sequence[Sequence[float]], judge: Judge) -> bool:
        """Hand in what was recomputed, and store the verdicts that need no more.

        Args:
            job: The job, by whomever it is leased meanwhile.
            numbers: Of each of its nonces, in their order; NaN in all of them where it failed.
            judge: Of its order.

        Returns:
            Whether it was the first; else nothing is changed.

        Raises:
            DatabaseError: The database cannot be written; hand it in again.
        """
        return self._end(job.id, [number for of_nonce in numbers for number in of_nonce], judge)

    def exhausted(self, fitness: Fitness) -> list[tuple[int, Order]]:
        """Return the jobs that were leased as often as they may be, and their orders."""
        wanted = {**fitness.as_dict(), "most": MAX_ATTEMPTS}
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT jobs.id, order_id FROM jobs JOIN orders ON orders.id = order_id"  # noqa: S608  # constants
                " WHERE ended_at IS NULL AND attempts >= :most AND leased_until < now()"
                f" AND {_FITTING} ORDER BY jobs.id",
                wanted,
            ).fetchall()
            return [
                (job, order)
                for job, order_id in rows
                for order in read_orders(connection, "id = :id", {"id": order_id})
            ]

    def conclude(self, fitness: Fitness, judge_of: Callable[[Order], Judge]) -> bool:
        """Judge all batches of a prover of an order together, where none is open any more.

        It may take long, so it is done between transactions: who is late changes nothing.

        Args:
            fitness: Of the worker.
            judge_of: Makes the judge of an order.

        Returns:
            Whether there was such a prover.

        Raises:
            HallmarkError: What `judge_of` raises.
        """
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT ordered_provers.id, order_id FROM ordered_provers"  # noqa: S608  # constants
                " JOIN orders ON orders.id = order_id"
                f" WHERE n_open = 0 AND conclusion IS NULL AND {_FITTING}"
                " ORDER BY ordered_provers.id LIMIT 1",
                fitness.as_dict(),
            ).fetchone()
            if row is None:
                return False
            prover, order_id = row
            [order] = read_orders(connection, "id = :id", {"id": order_id})
            batches, numbers = recomputed_of(connection, prover)
        conclusion = judge_of(order).conclusion(batches, numbers)
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE ordered_provers SET conclusion = :conclusion"
                " WHERE id = :id AND n_open = 0 AND conclusion IS NULL",
                {"conclusion": json.dumps(conclusion), "id": prover},
            )
        return True

    def retry(self, order: int) -> int:
        """Open the jobs of an order again that were given up, and with them the verdicts that lack them.

        Returns:
            How many jobs there were.

        Raises:
            FieldError: There is no such order.
        """
        given_up = "SELECT id FROM jobs WHERE order_id = :order AND ended_at IS NOT NULL AND numbers IS NULL"
        with self._database.transaction() as connection:
            if not [*read_orders(connection, "id = :order", {"order": order})]:
                raise FieldError("ORDER", order, "an order that hallmark queue status shows")
            rows = connection.execute(f"{given_up} ORDER BY id FOR UPDATE", {"order": order}).fetchall()
            chosen = {"jobs": [job for (job,) in rows]}
            connection.execute(
                "SELECT FROM verifications WHERE batch IN"
                " (SELECT batch FROM job_batches WHERE job = ANY(:jobs)) ORDER BY prover, batch FOR UPDATE",
                chosen,
            )
            # A batch is open by each of its jobs, a prover by each of its batches.
            connection.execute(
                "WITH opened AS (UPDATE verifications SET error = NULL, n_open = n_open + lacking FROM"
                " (SELECT batch AS lacks, count(*) AS lacking FROM job_batches WHERE job = ANY(:jobs)"
                " GROUP BY batch) AS of_batch WHERE batch = lacks"
                " RETURNING prover, CASE WHEN n_open = lacking THEN 1 ELSE 0 END AS is_new)"
                " UPDATE ordered_provers SET conclusion = NULL, n_open = n_open + more FROM"
                " (SELECT prover, sum(is_new) AS more FROM opened GROUP BY prover) AS of_prover"
                " WHERE ordered_provers.id = prover",
                chosen,
            )
            connection.execute(
                "UPDATE jobs SET ended_at = NULL, attempts = 0, worker = NULL, leased_until = NULL"
                " WHERE id = ANY(:jobs)",
                chosen,
            )
        return len(rows)

    def is_idle(self, fitness: Fitness) -> bool:
        """Return whether no job is open that a worker may compute, be it leased or not."""
        query = (
            "SELECT EXISTS (SELECT FROM jobs JOIN orders ON orders.id = order_id"  # noqa: S608  # constants
            f" WHERE ended_at IS NULL AND {_FITTING})"
        )
        with self._database.reading() as connection:
            [is_open] = connection.execute(query, fitness.as_dict()).fetchone()
        return not is_open

    def give_up(self, job: int, judge: Judge) -> bool:
        """End a job without numbers: its batches have no verdict; return whether it was open."""
        return self._end(job, None, judge)

    def _end(self, job: int, numbers: Sequence[float] | None, judge: Judge) -> bool:
        with self._database.transaction() as connection:
            ended = connection.execute(
                "UPDATE jobs SET numbers = :numbers, ended_at = :now WHERE id = :id AND ended_at IS NULL",
                {"numbers": numbers, "id": job, "now": self._now()},
            ).rowcount
            if ended:
                settle(self._store, connection, job, judge)
            return bool(ended)


def _part(proof: ProofBatch, places: Sequence[int]) -> ProofBatch:
    """Return a batch of some of the claims of another one."""
    return replace(
        proof,
        nonces=tuple(proof.nonces[place] for place in places),
        dist=tuple(proof.dist[place] for place in places),
        vectors=None if proof.vectors is None else tuple(proof.vectors[place] for place in places),
        covered=None,
        failed_nonces=(),
    )
