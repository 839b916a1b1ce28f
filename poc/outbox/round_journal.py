"""The rounds of a server and what the running one has found, so that a crash loses neither."""

import json
import logging
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from hallmark.poc.core.errors import OutboxError
from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.poc.outbox.delivery_queue import DeliveryQueue, Dropped
from hallmark.poc.protocol.config import PoCConfig, PoCState
from hallmark.poc.protocol.generated import ComputedSpan, merged_bodies
from hallmark.poc.protocol.streams import PROTOCOL

__all__ = ["InterruptedRound", "JournalLimits", "JournaledRound", "RoundJournal", "journaled_rounds"]

logger = logging.getLogger(__name__)

_MAX_ROUNDS: Final = 1_000
"""Rounds that are remembered, the latest ones."""

_CLOSED: Final = 2
"""`is_over` of a round that another one has replaced, or that is not to be gone on with: nothing is recorded
of it any more. 1 is one that was stopped, whose last batch may still come."""


@dataclass(frozen=True, slots=True)
class InterruptedRound:
    """A round that was running when its server ended.

    Attributes:
        id: Its number in the journal.
        config: The request.
        digest: Of the settings that the request and the model gave.
        phase: What it was doing.
        position: Index of the next nonce of its walk.
        valid: Nonces that counted.
        failed: Nonces that could not be computed.
        begun_at: When it began; seconds since the epoch.
        updated_at: When something of it was noted last; seconds since the epoch.
        reason: What the engine failed with, where that ended it.
    """

    id: int
    config: PoCConfig
    digest: str
    phase: PoCState
    position: int
    valid: int
    failed: int
    begun_at: float
    updated_at: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class JournaledRound:
    """A round of the journal, as it stood when something of it was noted last.

    Attributes:
        id: Its number in the journal; later rounds have higher ones.
        config: The request, by the fields of `PoCConfig`; another version of Hallmark may have written it.
        digest: Of the settings that the request and the model gave.
        phase: What it was doing.
        checked: Nonces that were computed.
        valid: Nonces that counted.
        failed: Nonces that could not be computed.
        begun_at: When it began; seconds since the epoch.
        updated_at: When something of it was noted last; seconds since the epoch.
        reason: What the engine failed with, where that ended it.
        is_over: Whether it was stopped or replaced; if not it runs, or its server ended in it.
    """

    id: int
    config: Mapping[str, Any]
    digest: str
    phase: str
    checked: int
    valid: int
    failed: int
    begun_at: float
    updated_at: float
    reason: str | None
    is_over: bool


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """How findings become callbacks.

    Attributes:
        max_payload_bytes: Longest body of a merged batch.
        max_queued: Callbacks that a receiver may have waiting.
    """

    max_payload_bytes: int
    max_queued: int


class RoundJournal:
    """The rounds of a database; every change of them is on the disk when it returns.

    A round's position and what was found on the way there are written together. Findings lie here until they
    are merged into callbacks, in one transaction with these.

    Args:
        database: Where they are kept.
        queue: The callbacks of the same database.
        limits: How findings become callbacks.

    Raises:
        OutboxError: By every method, where the database cannot be read or written.
    """

    def __init__(self, database: OutboxDatabase, queue: DeliveryQueue, limits: JournalLimits) -> None:
        self._database = database
        self._queue = queue
        self._limits = limits

    def begin(
        self,
        config: PoCConfig,
        digest: str,
        template: Mapping[str, Any],
        phase: PoCState,
        now: float,
        *,
        request_id: str | None = None,
    ) -> tuple[int, list[Dropped]]:
        """Note a round that begins; any before it is over.

        Args:
            config: The request.
            digest: Of the settings that the request and the model gave.
            template: What every callback of it says beside what was found.
            phase: The phase it begins with.
            now: Seconds since the epoch.
            request_id: Of the HTTP request that it comes of, which its callbacks come of too.

        Returns:
            Its number, and what had to make room for what those before it had found.
        """
        with self._database.transaction() as connection:
            dropped = self._end_all(connection, now)
            identifier: int = connection.execute(
                "INSERT INTO rounds (config, digest, url, template, phase, begun_at, updated_at, request_id)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (
                    json.dumps(asdict(config)),
                    digest,
                    config.callback_url,
                    json.dumps(template),
                    phase,
                    now,
                    now,
                    request_id,
                ),
            ).fetchone()[0]
            connection.execute("DELETE FROM rounds WHERE id <= ?", (identifier - _MAX_ROUNDS,))
        return identifier, dropped

    def resume(self, identifier: int, template: Mapping[str, Any], now: float) -> None:
        """Note that an interrupted round goes on, on a server that may have other numerics."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE rounds SET template = ?, updated_at = ?, reason = NULL WHERE id = ?",
                (json.dumps(template), now, identifier),
            )

    def enter(self, identifier: int, phase: PoCState, now: float) -> None:
        """Note a change of phase."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE rounds SET phase = ?, updated_at = ? WHERE id = ?", (phase, now, identifier)
            )

    def record(self, identifier: int, walked: Sequence[ComputedSpan], now: float) -> None:
        """Note computed spans of the walk, each right after the last.

        Raises:
            OutboxError: The database cannot be written, or the spans do not go on where the round stood.
        """
        with self._database.transaction() as connection:
            for batch in walked:
                first, last = batch.covered
                moved = connection.execute(
                    "UPDATE rounds SET position = ?, valid = valid + ?, failed = failed + ?, updated_at = ?"
                    " WHERE id = ? AND position = ? AND is_over < ?",
                    (last + 1, len(batch.nonces), len(batch.failed_nonces), now, identifier, first, _CLOSED),
                ).rowcount
                if not moved:
                    raise OutboxError(f"the round's journal does not stand at nonce number {first}")
                if batch.nonces or batch.failed_nonces:
                    found = json.dumps([batch.nonces, batch.dist, batch.failed_nonces], allow_nan=False)
                    connection.execute(
                        "INSERT INTO findings (round_id, last, found, vectors) SELECT id, ?, ?, ? FROM rounds"
                        " WHERE id = ? AND url IS NOT NULL",
                        (last, found, json.dumps(batch.vectors), identifier),
                    )

    def merge(self, identifier: int, now: float, in_flight: Collection[int] = ()) -> list[Dropped]:
        """Queue what a round has found since the last time; what is covered without a find waits for one.

        Args:
            identifier: The round's number.
            now: Seconds since the epoch.
            in_flight: Callbacks that do not make room.

        Returns:
            What had to make room.
        """
        with self._database.transaction() as connection:
            return self._merge(connection, identifier, now, in_flight)

    def _merge(
        self, connection: sqlite3.Connection, identifier: int, now: float, in_flight: Collection[int]
    ) -> list[Dropped]:
        row = connection.execute(
            "SELECT url, template, reported, position, request_id FROM rounds WHERE id = ?", (identifier,)
        ).fetchone()
        if row is None:
            return []
        url, template, reported, position, request_id = row
        found = [
            (last, *json.loads(text), json.loads(vectors or "[]"))
            for last, text, vectors in connection.execute(
                "SELECT last, found, vectors FROM findings WHERE round_id = ? ORDER BY id", (identifier,)
            )
        ]
        if not found:
            return []
        walked = []
        for last, nonces, dist, failed_nonces, vectors in found:
            walked.append(
                ComputedSpan(
                    covered=(reported, position - 1 if last == found[-1][0] else last),
                    nonces=tuple(nonces),
                    dist=tuple(dist),
                    vectors=tuple(vectors),
                    failed_nonces=tuple(failed_nonces),
                )
            )
            reported = last + 1
        bodies = merged_bodies(json.loads(template), walked, self._limits.max_payload_bytes)
        _, dropped = self._queue.add(
            url,
            "generated",
            bodies,
            now=now,
            max_queued=self._limits.max_queued,
            in_flight=in_flight,
            request_id=request_id,
            connection=connection,
        )
        connection.execute("DELETE FROM findings WHERE round_id = ?", (identifier,))
        connection.execute("UPDATE rounds SET reported = ? WHERE id = ?", (position, identifier))
        return dropped

    def end(self, identifier: int, reason: str | None, now: float) -> None:
        """Note that a round stands still.

        Args:
            identifier: The round's number.
            reason: What it failed with, to be gone on with; None: it is over.
            now: Seconds since the epoch.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE rounds SET is_over = max(is_over, ?), reason = coalesce(?, reason), updated_at = ?"
                " WHERE id = ? AND is_over < ?",
                (reason is None, reason, now, identifier, _CLOSED),
            )

    def recover(self, now: float) -> tuple[InterruptedRound | None, list[Dropped]]:
        """Take over what the last server left: its findings are queued.

        A round that another version of Hallmark has begun by another protocol or so that this one cannot read
        it is over, which is logged; what it found is delivered as what it is.

        Returns:
            The round that it was interrupted in, and what had to make room.
        """
        with self._database.transaction() as connection:
            dropped = self._merge_all(connection, now)
            row = connection.execute(
                "SELECT template, id, config, digest, phase, position, valid, failed, begun_at, updated_at,"
                " reason FROM rounds WHERE NOT is_over ORDER BY id DESC LIMIT 1"
            ).fetchone()
            if row is None:
                return None, dropped
            template, identifier, config, digest, phase, *rest = row
            protocol = json.loads(template).get("protocol")
            if protocol != PROTOCOL:
                logger.error(
                    "The interrupted round was begun by protocol %s and is not gone on with: this is %s",
                    protocol,
                    PROTOCOL,
                )
                _close(connection)
                return None, dropped
            try:
                asked, entered = PoCConfig(**json.loads(config)), PoCState(phase)
            except (TypeError, ValueError) as exc:
                logger.error("A round of another version of Hallmark is not gone on with: %s", exc)
                _close(connection)
                return None, dropped
        return InterruptedRound(identifier, asked, digest, entered, *rest), dropped

    def forget(self, now: float) -> list[Dropped]:
        """Note that no round is to be gone on with; what they found is queued.

        Returns:
            What had to make room.
        """
        with self._database.transaction() as connection:
            return self._end_all(connection, now)

    def _end_all(self, connection: sqlite3.Connection, now: float) -> list[Dropped]:
        dropped = self._merge_all(connection, now)
        _close(connection)
        return dropped

    def _merge_all(self, connection: sqlite3.Connection, now: float) -> list[Dropped]:
        rounds = connection.execute("SELECT DISTINCT round_id FROM findings ORDER BY round_id").fetchall()
        return [d for (identifier,) in rounds for d in self._merge(connection, identifier, now, ())]


def journaled_rounds(database: OutboxDatabase) -> list[JournaledRound]:
    """Return the rounds of a database, the latest first; of a request that is not JSON nothing is known.

    Raises:
        OutboxError: The database cannot be read.
    """
    names = [each.name for each in fields(JournaledRound)]
    with database.reading() as connection:
        rows = connection.execute(
            "SELECT id, iif(json_valid(config), config, '{}'), digest, phase, position, valid, failed,"
            " begun_at, updated_at, reason, is_over FROM rounds ORDER BY id DESC"
        ).fetchall()
    return [
        JournaledRound(**{**found, "config": json.loads(found["config"]), "is_over": bool(found["is_over"])})
        for found in (dict(zip(names, row, strict=True)) for row in rows)
    ]


def _close(connection: sqlite3.Connection) -> None:
    """Let nothing more be recorded of the rounds that there are."""
    connection.execute("UPDATE rounds SET is_over = ?", (_CLOSED,))
