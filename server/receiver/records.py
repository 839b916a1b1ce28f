"""The provers' records in a receiver's database: what the verdicts of each show together."""

import json
from collections.abc import Collection
from typing import Any

from hallmark.poc.verdict.prover_record import ProverRecord, Reason, ScoredBatch
from hallmark.poc.verdict.sequential_test import Evidence
from hallmark.server.receiver.database import Connection, StoreDatabase

__all__ = ["continue_record", "find_records", "locked_record", "records_of"]

_RECORD = ("rounds", "batches", "nonces", "log_stakes", "log_largest_wealth", "uncounted")
_COLUMNS = ("public_key", *_RECORD)


def locked_record(database: StoreDatabase, connection: Connection, public_key: str) -> ProverRecord:
    """Return a prover's record; nobody else continues it before the transaction ends.

    Args:
        database: The store's.
        connection: In a transaction.
        public_key: The prover's.
    """
    # So that there is a row to lock: two verdicts on a prover that has none wait for each other too.
    connection.execute(
        f"INSERT INTO provers ({', '.join(_COLUMNS)})"  # noqa: S608  # constants
        f" VALUES ({', '.join(f':{name}' for name in _COLUMNS)}) ON CONFLICT DO NOTHING",
        _row(ProverRecord(public_key=public_key)),
    )
    row = connection.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM provers"  # noqa: S608  # constants
        f" WHERE public_key = :public_key{database.row_lock}",
        {"public_key": public_key},
    ).fetchone()
    return _record(*row)


def continue_record(
    database: StoreDatabase, connection: Connection, before: ProverRecord, batch: ScoredBatch
) -> None:
    """Continue a record by a verdict.

    Args:
        database: The store's.
        connection: In the transaction that has locked the record.
        before: The record.
        batch: What the verdict says.
    """
    opens_round, new = _count(database, connection, batch)
    record = before.after(batch, new, opens_round=opens_round)
    connection.execute(
        f"UPDATE provers SET {', '.join(f'{name} = :{name}' for name in _RECORD)}"  # noqa: S608  # constants
        " WHERE public_key = :public_key",
        _row(record),
    )


def find_records(
    connection: Connection, *, public_key: str | None, after: str, limit: int
) -> list[ProverRecord]:
    """Return the records of provers in the order of their keys.

    Args:
        connection: To read with.
        public_key: Only of this key.
        after: Only keys behind this one.
        limit: The most to return.
    """
    rows = connection.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM provers WHERE public_key > :after"  # noqa: S608  # constants
        f"{'' if public_key is None else ' AND public_key = :public_key'} ORDER BY public_key LIMIT :limit",
        {"after": after, "public_key": public_key, "limit": limit},
    ).fetchall()
    return [_record(*row) for row in rows]


def records_of(
    database: StoreDatabase, connection: Connection, public_keys: Collection[str]
) -> list[ProverRecord]:
    """Return the records of provers, of those who have one.

    Args:
        database: The store's.
        connection: To read with.
        public_keys: Their keys.
    """
    rows = connection.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM provers"  # noqa: S608  # constants
        f" WHERE public_key IN (SELECT value FROM {database.elements(':public_keys')})",
        {"public_keys": json.dumps([*public_keys])},
    ).fetchall()
    return [_record(*row) for row in rows]


def _count(
    database: StoreDatabase, connection: Connection, batch: ScoredBatch
) -> tuple[bool, Collection[int]]:
    """Enter the nonces that can count; return whether they open a round, and which of them are new in it."""
    if not batch.ratios:
        return False, ()
    key = {"public_key": batch.public_key, "block_hash": batch.block_hash}
    entered = connection.execute(
        "INSERT INTO counted_rounds (public_key, block_hash) VALUES (:public_key, :block_hash)"
        " ON CONFLICT DO NOTHING",
        key,
    ).rowcount
    entries = database.elements(":nonces")
    new = connection.execute(
        "INSERT INTO counted_nonces (round, nonce)"  # noqa: S608  # constants
        f" SELECT counted_rounds.id, CAST(value AS BIGINT) FROM counted_rounds, {entries}"
        " WHERE public_key = :public_key AND block_hash = :block_hash ON CONFLICT DO NOTHING RETURNING nonce",
        {**key, "nonces": json.dumps([*batch.ratios])},
    ).fetchall()
    return entered == 1, {nonce for (nonce,) in new}


def _row(record: ProverRecord) -> dict[str, Any]:
    """Return what a table has of a record."""
    return {
        "public_key": record.public_key,
        "rounds": record.rounds,
        "batches": record.batches,
        "nonces": record.evidence.nonces,
        "log_stakes": json.dumps(record.evidence.log_stakes),
        "log_largest_wealth": record.evidence.log_largest_wealth,
        "uncounted": json.dumps(record.uncounted),
    }


def _record(
    public_key: str,
    rounds: int,
    batches: int,
    nonces: int,
    log_stakes: str,
    log_largest_wealth: float,
    uncounted: str,
) -> ProverRecord:
    """Return the record that a row is of."""
    return ProverRecord(
        public_key=public_key,
        rounds=rounds,
        batches=batches,
        evidence=Evidence(nonces, tuple(json.loads(log_stakes)), log_largest_wealth),
        uncounted={Reason(reason): count for reason, count in json.loads(uncounted).items()},
    )
