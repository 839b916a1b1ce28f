"""Where a receiver keeps the batches it has acknowledged, and what each prover's show: one SQLite file.

A verdict continues its prover's record in the transaction that stores it: after a kill both are there, or
neither is, and its sender sends it again. Verdicts that a Hallmark without records has stored continue them
when the file is opened.

Records are imported where they are needed: whoever lists batches need not wait for numpy.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from hallmark.poc.core.errors import DatabaseError, FieldError, StateError
from hallmark.poc.core.sqlite import Database, Schema

if TYPE_CHECKING:
    from hallmark.poc.verdict.prover_record import ProverRecord

__all__ = ["BatchStore", "Kind"]

logger = logging.getLogger(__name__)

Kind = Literal["generated", "validated"]

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
_MIGRATIONS: Final = (_VERSION_1, _VERSION_2, _VERSION_3)
_SCHEMA: Final = Schema("store of batches", DatabaseError, 0x484C4D52, _MIGRATIONS, unmarked_table="batches")

_SUMMARY = (
    "id",
    "kind",
    "webhook_id",
    "request_id",
    "received_at",
    "deliveries",
    "public_key",
    "block_hash",
    "block_height",
    "node_id",
    "n_nonces",
)
_PAGE: Final = 1000
_OUTCOME: Final = ("fraud_detected", "probability_honest", "n_invalid")


def _of_verdict(field: str) -> str:
    return f"CASE WHEN kind = 'validated' THEN json_extract(body, '$.{field}') END"


class BatchStore:
    """Batches in the order of their arrival, each once; safe to call from several threads."""

    def __init__(self, path: Path, *, makes: bool = True) -> None:
        """Open the file, or make it with its folder, and read the verdicts that are in no record yet.

        Args:
            path: The SQLite file; its write-ahead log lies beside it.
            makes: Whether that is done where it is missing or old; else the file is there to be read only.

        Raises:
            DatabaseError: The path is no such file, and none can be made there; or a newer Hallmark wrote it,
                or an older one and it is not to be brought up to date.
        """
        self._lock = threading.Lock()
        self._database = Database(_SCHEMA, path, makes=makes)
        if not makes:
            return
        try:
            self._read_older()
        except BaseException:
            self._database.close()
            raise

    def free_bytes(self) -> int | None:
        """Return what is free on the file system that it lies on, as `Database.free_bytes` does."""
        return self._database.free_bytes()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def check(self) -> None:
        """Read the file.

        Raises:
            DatabaseError: It cannot be read.
        """
        self.find(limit=1)

    def add(
        self, kind: Kind, body: Mapping[str, Any], webhook_id: str | None, request_id: str | None = None
    ) -> tuple[int, bool]:
        """Store a batch, and continue its prover's record by a verdict; both are on disk when this returns.

        Args:
            kind: Which callback brought it.
            body: The batch as JSON has it; its fields have been checked.
            webhook_id: The delivery's idempotency key, where the sender gave one.
            request_id: Of the request at the sender that it comes of, where it told.

        Returns:
            The id it is stored under, and whether it was there before.

        Raises:
            FieldError: A verdict states a tolerance or a sigma that cannot be.
            StateError: The webhook-id was used for another batch.
            DatabaseError: The file cannot be written.
        """
        from hallmark.poc.verdict.prover_record import ScoredBatch
        from hallmark.server.receiver.records import continue_record

        scored = ScoredBatch.of_body(body) if kind == "validated" else None
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        content = hashlib.sha256(f"{kind}\n{text}".encode()).hexdigest()
        with self._lock, self._database.transaction() as connection:
            known = connection.execute(
                "SELECT id, content FROM batches WHERE webhook_id = ? OR content = ?", (webhook_id, content)
            ).fetchall()
            for other, its_content in known:
                if its_content != content:
                    raise StateError(f"webhook-id {webhook_id!r} was used for another batch, {other}")
            if known:
                identifier: int = known[0][0]
                connection.execute(
                    "UPDATE batches SET deliveries = deliveries + 1 WHERE id = ?", (identifier,)
                )
                return identifier, True
            [identifier] = connection.execute(
                "INSERT INTO batches (kind, webhook_id, request_id, content, received_at, public_key,"
                " block_hash, block_height, node_id, n_nonces, body)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (
                    kind,
                    webhook_id,
                    request_id,
                    content,
                    time.time(),
                    body["public_key"],
                    body["block_hash"],
                    body["block_height"],
                    body["node_id"],
                    len(body["nonces"]),
                    text,
                ),
            ).fetchone()
            if scored is not None:
                continue_record(connection, identifier, scored)
            return identifier, False

    def find(
        self,
        *,
        kind: str | None = None,
        public_key: str | None = None,
        block_hash: str | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """Summaries of the batches that match, in the order of their arrival.

        Args:
            kind: Only of this callback.
            public_key: Only of this key.
            block_hash: Only of this block.
            after: Only ids above this one, to page through many.
            limit: The most to return.
        """
        with self._lock, self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT {', '.join(_SUMMARY)} FROM batches WHERE id > :after"  # noqa: S608  # constants
                " AND (:kind IS NULL OR kind = :kind)"
                " AND (:public_key IS NULL OR public_key = :public_key)"
                " AND (:block_hash IS NULL OR block_hash = :block_hash) ORDER BY id LIMIT :limit",
                {
                    "after": after,
                    "kind": kind,
                    "public_key": public_key,
                    "block_hash": block_hash,
                    "limit": limit,
                },
            ).fetchall()
        return [dict(zip(_SUMMARY, row, strict=True)) for row in rows]

    def totals(self) -> tuple[int, dict[str, tuple[int, int]]]:
        """Return the latest id, 0 where there is none, and batches and nonces by kind.

        A nonce counts for each batch that has it, so no batch has to be read; `stats` counts it once.
        """
        with self._lock, self._database.reading() as connection:
            rows = connection.execute(
                "SELECT kind, max(id), count(*), sum(n_nonces) FROM batches GROUP BY kind"
            ).fetchall()
        latest = max((row[1] for row in rows), default=0)
        return latest, {kind: (batches, nonces) for kind, _, batches, nonces in rows}

    def outlines(self, *, after: int, limit: int) -> list[dict[str, Any]]:
        """Return summaries of batches, and of verdicts what they came to, in the order of their arrival.

        Args:
            after: Only ids above this one.
            limit: The most to return.
        """
        with self._lock, self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT {', '.join(_SUMMARY)}, {', '.join(map(_of_verdict, _OUTCOME))} FROM batches"  # noqa: S608
                " WHERE id > ? ORDER BY id LIMIT ?",
                (after, limit),
            ).fetchall()
        return [dict(zip(_SUMMARY + _OUTCOME, row, strict=True)) for row in rows]

    def summaries(self, **wanted: str | None) -> Iterator[dict[str, Any]]:
        """Yield the summaries of all batches that match, in the order of their arrival.

        Args:
            **wanted: By the names of `find`.
        """
        last = 0
        while page := self.find(**wanted, after=last, limit=_PAGE):
            yield from page
            last = page[-1]["id"]

    def get(self, identifier: int) -> dict[str, Any] | None:
        """A batch's summary with its `body`; None where there is no such id."""
        with self._lock, self._database.reading() as connection:
            row = connection.execute(
                f"SELECT {', '.join(_SUMMARY)}, body FROM batches WHERE id = ?",  # noqa: S608  # constants
                (identifier,),
            ).fetchone()
        if row is None:
            return None
        return {**dict(zip(_SUMMARY, row[:-1], strict=True)), "body": json.loads(row[-1])}

    def provers(
        self, *, public_key: str | None = None, after: str = "", limit: int = 100
    ) -> "list[ProverRecord]":
        """What the verdicts of each prover show together, in the order of their keys.

        Args:
            public_key: Only of this key.
            after: Only keys behind this one, to page through many.
            limit: The most to return.
        """
        from hallmark.server.receiver.records import find_records

        with self._lock, self._database.reading() as connection:
            return find_records(connection, public_key=public_key, after=after, limit=limit)

    def provers_of(self, public_keys: Collection[str]) -> "list[ProverRecord]":
        """Return what the verdicts of each of these provers show together, of those who have any."""
        from hallmark.server.receiver.records import records_of

        with self._lock, self._database.reading() as connection:
            return records_of(connection, public_keys)

    def stats(self, *, public_key: str | None = None, block_hash: str | None = None) -> dict[str, Any]:
        """Totals by kind: `batches`, `nonces`, and `duplicates`, deliveries beyond the first.

        A nonce counts once for its block and key, in however many batches it stands.

        Args:
            public_key: Only of this key.
            block_hash: Only of this block.
        """
        with self._lock, self._database.reading() as connection:
            rows = connection.execute(
                "WITH matching AS (SELECT * FROM batches"
                " WHERE (:public_key IS NULL OR public_key = :public_key)"
                " AND (:block_hash IS NULL OR block_hash = :block_hash)),"
                " claimed AS (SELECT DISTINCT kind, public_key, block_hash, nonce.value"
                " FROM matching, json_each(matching.body, '$.nonces') AS nonce)"
                " SELECT kind, count(*), (SELECT count(*) FROM claimed WHERE claimed.kind = matching.kind),"
                " sum(deliveries - 1)"
                " FROM matching GROUP BY kind",
                {"public_key": public_key, "block_hash": block_hash},
            ).fetchall()
        nothing = {"batches": 0, "nonces": 0, "duplicates": 0}
        return {
            **dict.fromkeys(("generated", "validated"), nothing),
            **{kind: dict(zip(nothing, numbers, strict=True)) for kind, *numbers in rows},
        }

    def _read_older(self) -> None:
        """Continue records by verdicts that were stored before there were any, each in its transaction."""
        from hallmark.poc.verdict.prover_record import ScoredBatch
        from hallmark.server.receiver.records import continue_record

        select = "SELECT id, body FROM batches WHERE kind = 'validated' AND NOT is_read ORDER BY id LIMIT 1"
        while True:
            with self._database.transaction() as connection:
                row = connection.execute(select).fetchone()
                if row is None:
                    return
                identifier, text = row
                try:
                    scored = ScoredBatch.of_body(json.loads(text))
                except FieldError as exc:
                    # It was taken by other rules than today's, and is acknowledged.
                    logger.warning("Verdict %d is in no prover's record: %s", identifier, exc)
                    connection.execute("UPDATE batches SET is_read = 1 WHERE id = ?", (identifier,))
                else:
                    continue_record(connection, identifier, scored)
