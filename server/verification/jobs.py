"""The jobs of planned orders: leased by workers, and ended once.

A worker leases a job, recomputes it and hands it in: what is handed in first counts. A job whose lease is
over goes to the next worker.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from hallmark.poc.offline.proof_files import delivered
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.server.receiver.store import BatchStore
from hallmark.server.verification.judging import Judge
from hallmark.server.verification.order import Order
from hallmark.server.verification.orders import read_orders
from hallmark.server.verification.settlement import job_keys, settle

__all__ = ["MAX_ATTEMPTS", "Job", "JobQueue"]

MAX_ATTEMPTS: Final = 5
"""How often a job is leased before it is given up: what kills its workers is not tried for ever."""

_RETRY_SECONDS: Final = 10
"""How long a job waits that failed."""

_FITTING: Final = (
    "arithmetic = :arithmetic"
    " AND (CAST(:model AS TEXT) IS NULL OR orders.model IS NULL OR orders.model = :model)"
)
"""The orders that a worker may compute for."""


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
    """

    def __init__(self, store: BatchStore) -> None:
        self._store = store
        self._database = store.database

    def lease(self, worker: str, model: str | None, arithmetic: str, seconds: float) -> Job | None:
        """Lease the first job that nobody computes, or whose lease is over.

        Args:
            worker: Who computes it.
            model: Of its model's files; None: it is not known, and any order will do.
            arithmetic: As of `Order`: the worker computes for orders with the same.
            seconds: How long nobody else does.
        """
        wanted = {
            "worker": worker,
            "model": model,
            "arithmetic": arithmetic,
            "seconds": seconds,
            "most": MAX_ATTEMPTS,
        }
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
            proof = delivered(json.loads(body), "").proof
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

    def exhausted(self, model: str | None, arithmetic: str) -> list[tuple[int, Order]]:
        """Return the jobs that were leased as often as they may be, and their orders."""
        wanted = {"most": MAX_ATTEMPTS, "model": model, "arithmetic": arithmetic}
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

    def retry(self, order: int) -> int:
        """Open the jobs of an order again that were given up, and with them the verdicts that lack them.

        Returns:
            How many jobs there were.
        """
        given_up = "SELECT id FROM jobs WHERE order_id = :order AND ended_at IS NOT NULL AND numbers IS NULL"
        with self._database.transaction() as connection:
            rows = connection.execute(f"{given_up} ORDER BY id FOR UPDATE", {"order": order}).fetchall()
            chosen = {"jobs": [job for (job,) in rows]}
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

    def is_idle(self, model: str | None, arithmetic: str) -> bool:
        """Whether no job is open that a worker may compute, be it leased or not."""
        query = (
            "SELECT EXISTS (SELECT FROM jobs JOIN orders ON orders.id = order_id"  # noqa: S608  # constants
            f" WHERE ended_at IS NULL AND {_FITTING})"
        )
        with self._database.reading() as connection:
            [is_open] = connection.execute(query, {"model": model, "arithmetic": arithmetic}).fetchone()
        return not is_open

    def give_up(self, job: int, judge: Judge) -> bool:
        """End a job without numbers: its batches have no verdict; return whether it was open."""
        return self._end(job, None, judge)

    def _end(self, job: int, numbers: Sequence[float] | None, judge: Judge) -> bool:
        with self._database.transaction() as connection:
            ended = connection.execute(
                "UPDATE jobs SET numbers = :numbers, ended_at = :now WHERE id = :id AND ended_at IS NULL",
                {"numbers": numbers, "id": job, "now": time.time()},
            ).rowcount
            if ended:
                settle(self._store, connection, job, judge)
            return bool(ended)


def _part(proof: ProofBatch, places: Sequence[int]) -> ProofBatch:
    """A batch of some of the claims of another one."""
    return replace(
        proof,
        nonces=tuple(proof.nonces[place] for place in places),
        dist=tuple(proof.dist[place] for place in places),
        vectors=None if proof.vectors is None else tuple(proof.vectors[place] for place in places),
        covered=None,
        failed_nonces=(),
    )
