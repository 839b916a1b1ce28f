"""Where receivers keep the batches they have acknowledged, and what each prover's show.

A verdict continues its prover's record in the transaction that stores it: after a kill both are there, or
neither is, and its sender sends it again. Verdicts that a Hallmark without records has stored continue them
when the database is opened.

Records are imported where they are needed: whoever lists batches need not wait for numpy.
"""

import hashlib
import json
import logging
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.server.receiver.database import OUTCOME, Address, Connection, Kind, StoreDatabase

if TYPE_CHECKING:
    from hallmark.poc.verdict.prover_record import ProverRecord

__all__ = ["BatchStore"]

logger = logging.getLogger(__name__)

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


class BatchStore:
    """Batches in the order of their arrival, each once; safe to call from several threads."""

    def __init__(self, address: Address, *, makes: bool = True) -> None:
        """Open the database, or make its tables, and read the verdicts that are in no record yet.

        Args:
            address: Where it is.
            makes: Whether that is done where it is missing or old; else it is there to be read only.

        Raises:
            DatabaseError: There is no such database, and none can be made there; or a newer Hallmark wrote
                it, or an older one and it is not to be brought up to date.
            UnsupportedError: It is PostgreSQL, and psycopg is not installed.
        """
        self._database = _open(address, makes=makes)
        if not makes:
            return
        try:
            self._read_older()
        except BaseException:
            self._database.close()
            raise

    @property
    def database(self) -> StoreDatabase:
        """The database, for transactions that do more than store a batch."""
        return self._database

    def free_bytes(self) -> int | None:
        """Return what is free on the file system that it lies on; None where that is not known."""
        return self._database.free_bytes()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def check(self) -> None:
        """Read the database.

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
            DatabaseError: The database cannot be written.
        """
        with self._database.transaction() as connection:
            return self.add_within(connection, kind, body, webhook_id, request_id)

    def add_within(
        self,
        connection: Connection,
        kind: Kind,
        body: Mapping[str, Any],
        webhook_id: str | None,
        request_id: str | None = None,
    ) -> tuple[int, bool]:
        """Store a batch as `add` does, in a transaction that does more."""
        from hallmark.poc.verdict.prover_record import ScoredBatch
        from hallmark.server.receiver.records import continue_record, locked_record

        scored = ScoredBatch.of_body(body) if kind == "validated" else None
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        content = hashlib.sha256(f"{kind}\n{text}".encode()).hexdigest()
        row = {
            "kind": kind,
            "webhook_id": webhook_id,
            "request_id": request_id,
            "content": content,
            "received_at": time.time(),
            "public_key": body["public_key"],
            "block_hash": body["block_hash"],
            "block_height": body["block_height"],
            "node_id": body["node_id"],
            "n_nonces": len(body["nonces"]),
            "is_read": int(kind == "validated"),
            "body": text,
            **self._database.own_columns(kind, body),
        }
        for field, key in (("public_key", row["public_key"]), ("block_hash", row["block_hash"])):
            self._database.check_key(field, key)
        if webhook_id is not None:
            self._database.check_key("webhook-id", webhook_id)
        known = _repeated(connection, content, webhook_id)
        if known is not None:
            return known, True
        # Before the verdict has an id, so that records are continued in the order of ids.
        record = None if scored is None else locked_record(self._database, connection, scored.public_key)
        inserted = connection.execute(
            f"INSERT INTO batches ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})"  # noqa: S608
            " ON CONFLICT DO NOTHING RETURNING id",
            row,
        ).fetchone()
        if inserted is None:
            # Another receiver was the first, since we looked.
            known = _repeated(connection, content, webhook_id)
            assert known is not None  # noqa: S101  # what conflicts is committed, and nothing is deleted
            return known, True
        if scored is not None and record is not None:
            continue_record(self._database, connection, record, scored)
        identifier: int = inserted[0]
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
        wanted = _stated(kind=kind, public_key=public_key, block_hash=block_hash)
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT {', '.join(_SUMMARY)} FROM batches"  # noqa: S608  # constants
                f" WHERE id > :after AND id <= :settled{_and(wanted)} ORDER BY id LIMIT :limit",
                {**wanted, "after": after, "settled": self._database.settled(connection), "limit": limit},
            ).fetchall()
        return [dict(zip(_SUMMARY, row, strict=True)) for row in rows]

    def totals(self) -> tuple[int, dict[str, tuple[int, int]]]:
        """Return the latest id, 0 where there is none, and batches and nonces by kind.

        A nonce counts for each batch that has it, so no batch has to be read; `stats` counts it once.
        """
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT kind, max(id), count(*), CAST(sum(n_nonces) AS BIGINT) FROM batches"
                " WHERE id <= :settled GROUP BY kind",
                {"settled": self._database.settled(connection)},
            ).fetchall()
        latest = max((row[1] for row in rows), default=0)
        return latest, {kind: (batches, nonces) for kind, _, batches, nonces in rows}

    def outlines(self, *, after: int, limit: int) -> list[dict[str, Any]]:
        """Return summaries of batches, and of verdicts what they came to, in the order of their arrival.

        Args:
            after: Only ids above this one.
            limit: The most to return.
        """
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT {', '.join(_SUMMARY + OUTCOME)} FROM outlines"  # noqa: S608  # constants
                " WHERE id > :after AND id <= :settled ORDER BY id LIMIT :limit",
                {"after": after, "settled": self._database.settled(connection), "limit": limit},
            ).fetchall()
        return [dict(zip(_SUMMARY + OUTCOME, row, strict=True)) for row in rows]

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
        """Return a batch's summary with its `body`; None where there is no such id."""
        with self._database.reading() as connection:
            row = connection.execute(
                f"SELECT {', '.join(_SUMMARY)}, body FROM batches WHERE id = :id",  # noqa: S608  # constants
                {"id": identifier},
            ).fetchone()
        if row is None:
            return None
        return {**dict(zip(_SUMMARY, row[:-1], strict=True)), "body": json.loads(row[-1])}

    def provers(
        self, *, public_key: str | None = None, after: str = "", limit: int = 100
    ) -> "list[ProverRecord]":
        """Return what the verdicts of each prover show together, in the order of their keys.

        Args:
            public_key: Only of this key.
            after: Only keys behind this one, to page through many.
            limit: The most to return.
        """
        from hallmark.server.receiver.records import find_records

        with self._database.reading() as connection:
            return find_records(connection, public_key=public_key, after=after, limit=limit)

    def provers_of(self, public_keys: Collection[str]) -> "list[ProverRecord]":
        """Return what the verdicts of each of these provers show together, of those who have any."""
        from hallmark.server.receiver.records import records_of

        with self._database.reading() as connection:
            return records_of(self._database, connection, public_keys)

    def stats(self, *, public_key: str | None = None, block_hash: str | None = None) -> dict[str, Any]:
        """Return totals by kind: `batches`, `nonces`, and `duplicates`, deliveries beyond the first.

        A nonce counts once for its block and key, in however many batches it stands.

        Args:
            public_key: Only of this key.
            block_hash: Only of this block.
        """
        wanted = _stated(public_key=public_key, block_hash=block_hash)
        with self._database.reading() as connection:
            rows = connection.execute(
                f"WITH matching AS (SELECT * FROM batches WHERE id > 0{_and(wanted)}),"  # noqa: S608  # constants
                " claimed AS (SELECT DISTINCT kind, public_key, block_hash, nonce FROM claims"
                f" WHERE nonce >= 0{_and(wanted)})"
                " SELECT kind, count(*), (SELECT count(*) FROM claimed WHERE claimed.kind = matching.kind),"
                " CAST(sum(deliveries - 1) AS BIGINT) FROM matching GROUP BY kind",
                wanted,
            ).fetchall()
        nothing = {"batches": 0, "nonces": 0, "duplicates": 0}
        return {
            **dict.fromkeys(("generated", "validated"), nothing),
            **{kind: dict(zip(nothing, numbers, strict=True)) for kind, *numbers in rows},
        }

    def _read_older(self) -> None:
        """Continue records by verdicts that were stored before there were any, each in its transaction."""
        from hallmark.poc.verdict.prover_record import ScoredBatch
        from hallmark.server.receiver.records import continue_record, locked_record

        unread = "SELECT id, body FROM batches WHERE kind = 'validated' AND is_read = 0 ORDER BY id LIMIT 1"
        while True:
            with self._database.transaction() as connection:
                row = connection.execute(unread + self._database.row_lock).fetchone()
                if row is None:
                    return
                identifier, text = row
                try:
                    scored = ScoredBatch.of_body(json.loads(text))
                except FieldError as exc:
                    # It was taken by other rules than today's, and is acknowledged.
                    logger.warning("Verdict %d is in no prover's record: %s", identifier, exc)
                else:
                    record = locked_record(self._database, connection, scored.public_key)
                    continue_record(self._database, connection, record, scored)
                connection.execute("UPDATE batches SET is_read = 1 WHERE id = :id", {"id": identifier})


def _repeated(connection: Connection, content: str, webhook_id: str | None) -> int | None:
    """Count a delivery of a batch that is there; return its id, None where it is not.

    Raises:
        StateError: The webhook-id was used for another batch.
    """
    known = connection.execute(
        "SELECT id, content FROM batches WHERE webhook_id = :webhook_id OR content = :content",
        {"webhook_id": webhook_id, "content": content},
    ).fetchall()
    for other, its_content in known:
        if its_content != content:
            raise StateError(f"webhook-id {webhook_id!r} was used for another batch, {other}")
    if not known:
        return None
    identifier: int = known[0][0]
    connection.execute("UPDATE batches SET deliveries = deliveries + 1 WHERE id = :id", {"id": identifier})
    return identifier


def _stated(**wanted: str | None) -> dict[str, str]:
    """Return what is stated of what batches are to match, by column."""
    return {column: value for column, value in wanted.items() if value is not None}


def _and(wanted: Mapping[str, str]) -> str:
    """Write the conditions by which batches match."""
    return "".join(f" AND {column} = :{column}" for column in wanted)


def _open(address: Address, *, makes: bool) -> StoreDatabase:
    """Open a store's database; the arguments as for `BatchStore`."""
    if isinstance(address, Path):
        from hallmark.server.receiver.sqlite_database import SqliteStoreDatabase

        return SqliteStoreDatabase(address, makes=makes)
    from hallmark.server.receiver.postgres_database import PostgresStoreDatabase

    return PostgresStoreDatabase(address, makes=makes)
