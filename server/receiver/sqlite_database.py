"""A store of batches in one SQLite file, for one receiver."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from hallmark.poc.core.errors import DatabaseError
from hallmark.poc.core.sqlite import Database, Schema
from hallmark.server.receiver.database import Connection, Kind

__all__ = ["SCHEMA", "SqliteStoreDatabase"]

# Files of before there were versions have all of it but a version.
_VERSION_1: Final = """
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    webhook_id TEXT UNIQUE,
    content TEXT NOT NULL UNIQUE,
    received_at REAL NOT NULL,
    deliveries INTEGER NOT NULL DEFAULT 1,
    public_key TEXT NOT NULL,
    block_hash TEXT NOT NULL,
    block_height INTEGER NOT NULL,
    node_id INTEGER NOT NULL,
    n_nonces INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS batches_by_key ON batches (public_key, block_hash, kind);
"""
# `is_read`: whether a verdict is in its prover's record.
_VERSION_2: Final = """
ALTER TABLE batches ADD COLUMN is_read INTEGER NOT NULL DEFAULT 0;
CREATE INDEX unread_verdicts ON batches (id) WHERE kind = 'validated' AND NOT is_read;
CREATE TABLE provers (
    public_key TEXT PRIMARY KEY,
    rounds INTEGER NOT NULL,
    batches INTEGER NOT NULL,
    nonces INTEGER NOT NULL,
    log_stakes TEXT NOT NULL,
    log_largest_wealth REAL NOT NULL,
    uncounted TEXT NOT NULL
) STRICT;
CREATE TABLE counted_rounds (
    id INTEGER PRIMARY KEY,
    public_key TEXT NOT NULL,
    block_hash TEXT NOT NULL,
    UNIQUE (public_key, block_hash)
) STRICT;
CREATE TABLE counted_nonces (
    round INTEGER NOT NULL REFERENCES counted_rounds (id),
    nonce INTEGER NOT NULL,
    PRIMARY KEY (round, nonce)
) STRICT, WITHOUT ROWID;
"""
# The request at the sending server that a batch comes of.
_VERSION_3: Final = "ALTER TABLE batches ADD COLUMN request_id TEXT"
# What another database has in columns.
_VERSION_4: Final = """
CREATE VIEW outlines AS SELECT id, kind, webhook_id, request_id, received_at, deliveries, public_key,
    block_hash, block_height, node_id, n_nonces,
    CASE WHEN kind = 'validated' THEN json_extract(body, '$.fraud_detected') END AS fraud_detected,
    CASE WHEN kind = 'validated' THEN json_extract(body, '$.probability_honest') END AS probability_honest,
    CASE WHEN kind = 'validated' THEN json_extract(body, '$.n_invalid') END AS n_invalid
    FROM batches;
CREATE VIEW claims AS SELECT kind, public_key, block_hash, nonce.value AS nonce
    FROM batches, json_each(batches.body, '$.nonces') AS nonce;
"""
SCHEMA: Final = Schema(
    "store of batches",
    DatabaseError,
    0x484C4D52,
    (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4),
    unmarked_table="batches",
)


class SqliteStoreDatabase:
    """The tables of a store in a SQLite file.

    Args:
        path: The file; its write-ahead log lies beside it.
        makes: As for `BatchStore`.

    Raises:
        DatabaseError: As of `BatchStore`.
    """

    row_lock = ""
    """The only writer changes what it likes."""

    def __init__(self, path: Path, *, makes: bool) -> None:
        self._file = Database(SCHEMA, path, makes=makes)
        self._lock = threading.Lock()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """As `StoreDatabase` has it."""
        with self._lock, self._file.transaction() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """As `StoreDatabase` has it."""
        with self._lock, self._file.reading() as connection:
            yield connection

    def elements(self, parameter: str) -> str:
        """As `StoreDatabase` has it."""
        return f"json_each({parameter}) AS entry"

    def settled(self, connection: Connection) -> int:
        """Return the latest id: one transaction writes at a time."""
        latest: int = connection.execute("SELECT coalesce(max(id), 0) FROM batches").fetchone()[0]
        return latest

    def own_columns(self, _kind: Kind, _body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return nothing: its views read bodies."""
        return {}

    def check_key(self, field: str, value: str) -> None:
        """Take every text."""

    def free_bytes(self) -> int | None:
        """Return what is free on the file system of the file; None where its folder is gone."""
        return self._file.free_bytes()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
