"""Verdicts in the transaction that ends a job: of the batches that wait for no other."""

import json
from collections.abc import Mapping, Sequence

from hallmark.poc.protocol.nonces import NonceKey
from hallmark.server.receiver.database import Connection
from hallmark.server.receiver.store import BatchStore
from hallmark.server.verification.judging import Judge, RecomputedBatch

__all__ = ["job_keys", "recomputed_of", "settle"]


def settle(store: BatchStore, connection: Connection, job: int, judge: Judge) -> None:
    """Store the verdicts of the batches whose last job this was.

    Args:
        store: The receivers'.
        connection: In the transaction that ends the job.
        job: The job.
        judge: Of its order.
    """
    # In one order, whoever ends what: no two transactions wait for each other.
    connection.execute(
        "SELECT FROM verifications JOIN job_batches USING (batch) WHERE job = :job"
        " ORDER BY prover, batch FOR UPDATE OF verifications",
        {"job": job},
    )
    finished = connection.execute(
        "UPDATE verifications SET n_open = n_open - 1"
        " WHERE batch IN (SELECT batch FROM job_batches WHERE job = :job)"
        " RETURNING prover, batch, n_open",
        {"job": job},
    ).fetchall()
    by_prover: dict[int, list[int]] = {}
    for prover, batch, n_open in sorted(finished):
        if not n_open:
            by_prover.setdefault(prover, []).append(batch)
    for prover, batches in by_prover.items():
        numbers = _numbers(connection, batches)
        for batch in _recomputed(connection, batches):
            _store(store, connection, batch, numbers, judge)
        connection.execute(
            "UPDATE ordered_provers SET n_open = n_open - :ended WHERE id = :id",
            {"ended": len(batches), "id": prover},
        )


def job_keys(connection: Connection, job: int) -> tuple[NonceKey, ...]:
    """Return the nonces of a job, each with its prover's key."""
    rows = connection.execute(
        "SELECT public_key, nonce FROM jobs,"
        " unnest(provers, nonces) WITH ORDINALITY AS of_job (prover, nonce, place)"
        " JOIN ordered_provers ON ordered_provers.id = prover WHERE jobs.id = :job ORDER BY place",
        {"job": job},
    ).fetchall()
    return tuple((key, nonce) for key, nonce in rows)


def _store(
    store: BatchStore,
    connection: Connection,
    batch: RecomputedBatch,
    numbers: Mapping[NonceKey, Sequence[float]],
    judge: Judge,
) -> None:
    """Store a batch's verdict, or why it has none."""
    found = judge.verdict(batch, numbers) if batch.error is None else batch.error
    verdict, error = None, None
    if isinstance(found, str):
        error = found
    else:
        verdict, _ = store.add_within(connection, "validated", found, None)
    connection.execute(
        "UPDATE verifications SET verdict = :verdict, error = :error WHERE batch = :batch",
        {"verdict": verdict, "error": error, "batch": batch.id},
    )


def _numbers(connection: Connection, batches: Sequence[int]) -> dict[NonceKey, Sequence[float]]:
    """Return what has been recomputed in the jobs of some batches, of other batches too."""
    rows = connection.execute(
        "SELECT id, numbers FROM jobs WHERE numbers IS NOT NULL"
        " AND id IN (SELECT job FROM job_batches WHERE batch = ANY(:batches))",
        {"batches": batches},
    ).fetchall()
    found: dict[NonceKey, Sequence[float]] = {}
    for job, numbers in rows:
        keys = job_keys(connection, job)
        k = len(numbers) // len(keys)
        found.update({key: numbers[place * k : (place + 1) * k] for place, key in enumerate(keys)})
    return found


def _recomputed(connection: Connection, batches: Sequence[int]) -> list[RecomputedBatch]:
    """Return batches all jobs of which have ended; one of which a job was given up has that for an error."""
    rows = connection.execute(
        "SELECT verifications.batch, body, verifications.nonces, not_together,"
        " coalesce(verifications.error,"
        " (SELECT 'job ' || jobs.id || ' was given up after ' || attempts || ' attempts: ' ||"
        " coalesce(jobs.error, 'its workers ended') FROM jobs JOIN job_batches ON job = jobs.id"
        " WHERE job_batches.batch = verifications.batch AND ended_at IS NOT NULL AND numbers IS NULL"
        " ORDER BY jobs.id LIMIT 1))"
        " FROM verifications JOIN batches ON batches.id = verifications.batch"
        " WHERE verifications.batch = ANY(:batches) ORDER BY verifications.batch",
        {"batches": batches},
    ).fetchall()
    return [
        RecomputedBatch(
            id=id_,
            body=json.loads(body),
            nonces=tuple(nonces),
            not_together=frozenset(apart),
            error=error,
        )
        for id_, body, nonces, apart, error in rows
    ]


def recomputed_of(
    connection: Connection, prover: int
) -> tuple[list[RecomputedBatch], dict[NonceKey, Sequence[float]]]:
    """Return the batches of a prover of an order, none of which is open, and the numbers of their jobs."""
    rows = connection.execute("SELECT batch FROM verifications WHERE prover = :id", {"id": prover}).fetchall()
    batches = [batch for (batch,) in rows]
    return _recomputed(connection, batches), _numbers(connection, batches)
