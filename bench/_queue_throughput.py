"""How many jobs a second one worker and two do, and how much of its time a worker is not in its engine."""

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from _queue_kills import work_until_idle
from offline_proofs import Prover, part
from postgresql_server import PostgresServer

from hallmark.poc.offline.model import TransformersLoader
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.server.receiver.store import BatchStore
from hallmark.server.verification.order import Draw
from hallmark.server.verification.orders import OrderBook
from hallmark.server.verification.worker import OwnEngine, Worker

__all__ = ["BATCH_SIZE", "SEQ_LEN", "throughput"]

BATCH_SIZE: Final = 16
SEQ_LEN: Final = 64
_OF_PROVER: Final = 10
"""Batches."""

_WORKERS: Final = (1, 2)
_LEASE: Final = 60.0
_BLOCK: Final = "a block"


class _Timed(OwnEngine):
    """An engine that counts the seconds it is at work."""

    seconds = 0.0

    def numbers(self, round_: Round, claims: Sequence[ProofBatch]) -> Mapping[NonceKey, Sequence[float]]:
        begun = time.perf_counter()
        found = super().numbers(round_, claims)
        self.seconds += time.perf_counter() - begun
        return found


def throughput(
    server: PostgresServer, folder: Path, model: Path, prover: Prover, jobs: int, passes: int
) -> list[dict[str, Any]]:
    """Measure, one worker and two by turns.

    Args:
        server: The database's.
        folder: Where workers log.
        model: The model's directory.
        prover: That model, in this process.
        jobs: How many there are each time, all of them there when workers come.
        passes: How often each is measured.
    """
    bodies = _bodies(prover, jobs)
    rates: dict[int, list[float]] = {count: [] for count in _WORKERS}
    for _ in range(passes):
        for count in _WORKERS:
            database = _ordered(server, bodies)
            work_until_idle(database, model, folder, count, _LEASE)
            rates[count].append(_rate(database, jobs, count))
    outside = _outside(_ordered(server, bodies), model, prover)
    one = statistics.median(rates[1])
    return [
        {
            "what": "throughput",
            "workers": count,
            "jobs": jobs,
            "jobs/s": round(statistics.median(rates[count]), 2),
            "to one worker": round(statistics.median(rates[count]) / one, 3),
            "of passes": [round(extreme(rates[count]) / one, 3) for extreme in (min, max)],
            **({"outside of the engine": round(outside, 3)} if count == 1 else {}),
        }
        for count in _WORKERS
    ]


def _bodies(prover: Prover, jobs: int) -> list[dict[str, Any]]:
    """Full batches, one of a job each."""
    shape = {"batch_size": BATCH_SIZE, "seq_len": SEQ_LEN}
    bodies = []
    for number in range(-(-jobs // _OF_PROVER)):
        count = min(_OF_PROVER, jobs - number * _OF_PROVER)
        proof = prover.prove(
            range(count * BATCH_SIZE), public_key=f"prover {number}", block_hash=_BLOCK, **shape
        )
        bodies += [
            prover.generated(part(proof, slice(place * BATCH_SIZE, (place + 1) * BATCH_SIZE)), **shape)
            for place in range(count)
        ]
    return bodies


def _ordered(server: PostgresServer, bodies: Sequence[Mapping[str, Any]]) -> str:
    """Make a database in which all of them are ordered."""
    database = server.new_database()
    with closing(BatchStore(database)) as store:
        for body in bodies:
            store.add("generated", body, None)
        settings = {"batch_size": BATCH_SIZE, "seq_len": SEQ_LEN, "fraud_threshold": 1e-4}
        OrderBook(store.database).place(_BLOCK, settings, Draw(randomness="a later block"))
    return database


def _rate(database: str, jobs: int, workers: int) -> float:
    """Return the jobs of a second, from when each worker has done its first to when one has done its last."""
    with closing(BatchStore(database)) as store, store.database.reading() as connection:
        found = connection.execute("SELECT worker, ended_at FROM jobs WHERE numbers IS NOT NULL").fetchall()
    rows: list[tuple[str, float]] = [*found]
    assert len(rows) == jobs
    ends: dict[str, list[float]] = {}
    for worker, ended_at in rows:
        ends.setdefault(worker, []).append(ended_at)
    assert len(ends) == workers, f"{jobs} jobs are too few: only {len(ends)} workers had any"
    first, last = max(map(min, ends.values())), min(map(max, ends.values()))
    return sum(first < ended_at <= last for _, ended_at in rows) / (last - first)


def _outside(database: str, model: Path, prover: Prover) -> float:
    """Return the share of its time that a worker in this process is not in its engine, once it has a plan."""
    engine = _Timed(prover.model, TransformersLoader(model, None, None).fingerprint())
    with closing(BatchStore(database)) as store:
        worker = Worker(store, engine, "here", _LEASE)
        assert worker._plan()
        begun = time.perf_counter()
        while worker._work():
            pass
        return 1 - engine.seconds / (time.perf_counter() - begun)
