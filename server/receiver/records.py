"""The provers' records in a receiver's file: what the verdicts of each show together."""

import json
import sqlite3
from collections.abc import Collection

from hallmark.poc.verdict.prover_record import ProverRecord, Reason, ScoredBatch
from hallmark.poc.verdict.sequential_test import Evidence

__all__ = ["continue_record", "find_records", "records_of"]

_RECORD = ("rounds", "batches", "nonces", "log_stakes", "log_largest_wealth", "uncounted")


def continue_record(connection: sqlite3.Connection, identifier: int, batch: ScoredBatch) -> None:
    """Continue the record of a verdict's prover by it.

    Args:
        connection: In a transaction.
        identifier: The verdict's.
        batch: What it says.
    """
    opens_round, new = _count(connection, batch)
    row = connection.execute(
        f"SELECT {', '.join(_RECORD)} FROM provers WHERE public_key = ?",  # noqa: S608  # constants
        (batch.public_key,),
    ).fetchone()
    before = ProverRecord(public_key=batch.public_key) if row is None else _record(batch.public_key, *row)
    record = before.after(batch, new, opens_round=opens_round)
    connection.execute(
        f"INSERT OR REPLACE INTO provers (public_key, {', '.join(_RECORD)})"  # noqa: S608  # constants
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            record.public_key,
            record.rounds,
            record.batches,
            record.evidence.nonces,
            json.dumps(record.evidence.log_stakes),
            record.evidence.log_largest_wealth,
            json.dumps(record.uncounted),
        ),
    )
    connection.execute("UPDATE batches SET is_read = 1 WHERE id = ?", (identifier,))


def find_records(
    connection: sqlite3.Connection, *, public_key: str | None, after: str, limit: int
) -> list[ProverRecord]:
    """Return the records of provers in the order of their keys.

    Args:
        connection: To read with.
        public_key: Only of this key.
        after: Only keys behind this one.
        limit: The most to return.
    """
    rows = connection.execute(
        f"SELECT public_key, {', '.join(_RECORD)} FROM provers"  # noqa: S608  # constants
        " WHERE public_key > :after AND (:public_key IS NULL OR public_key = :public_key)"
        " ORDER BY public_key LIMIT :limit",
        {"after": after, "public_key": public_key, "limit": limit},
    ).fetchall()
    return [_record(*row) for row in rows]


def records_of(connection: sqlite3.Connection, public_keys: Collection[str]) -> list[ProverRecord]:
    """Return the records of provers, of those who have one.

    Args:
        connection: To read with.
        public_keys: Their keys.
    """
    rows = connection.execute(
        f"SELECT public_key, {', '.join(_RECORD)} FROM provers"  # noqa: S608  # constants
        " WHERE public_key IN (SELECT value FROM json_each(?))",
        (json.dumps([*public_keys]),),
    ).fetchall()
    return [_record(*row) for row in rows]


def _count(connection: sqlite3.Connection, batch: ScoredBatch) -> tuple[bool, Collection[int]]:
    """Enter the nonces that can count; return whether they open a round, and which of them are new in it."""
    if not batch.ratios:
        return False, ()
    key = (batch.public_key, batch.block_hash)
    entered = connection.execute(
        "INSERT OR IGNORE INTO counted_rounds (public_key, block_hash) VALUES (?, ?)", key
    ).rowcount
    new = connection.execute(
        "INSERT OR IGNORE INTO counted_nonces (round, nonce)"
        " SELECT counted_rounds.id, entry.value FROM counted_rounds, json_each(?) AS entry"
        " WHERE public_key = ? AND block_hash = ? RETURNING nonce",
        (json.dumps([*batch.ratios]), *key),
    ).fetchall()
    return entered == 1, {nonce for (nonce,) in new}


def _record(
    public_key: str,
    rounds: int,
    batches: int,
    nonces: int,
    log_stakes: str,
    log_largest_wealth: float,
    uncounted: str,
) -> ProverRecord:
    """A row of `provers`."""
    return ProverRecord(
        public_key=public_key,
        rounds=rounds,
        batches=batches,
        evidence=Evidence(nonces, tuple(json.loads(log_stakes)), log_largest_wealth),
        uncounted={Reason(reason): count for reason, count in json.loads(uncounted).items()},
    )
