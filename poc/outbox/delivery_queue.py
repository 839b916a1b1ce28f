"""Callbacks that are still to be delivered, in the order they came, for each receiver."""

import json
import sqlite3
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.poc.webhooks.url import CallbackKind

__all__ = ["Delivery", "DeliveryQueue", "Dropped", "ReceiverTotals"]

_FIELDS = (
    "id, webhook_id, url, kind, created_at, attempts, not_before, last_error, given_up, length(body),"
    " coalesce((SELECT until FROM left_alone WHERE left_alone.url = deliveries.url), 0), request_id"
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A callback of the queue.

    Attributes:
        id: Its place: a receiver's smaller ids are delivered first.
        webhook_id: The idempotency key, the same on every attempt.
        url: The receiver's base URL.
        kind: What is appended to it.
        created_at: When it was queued; seconds since the epoch.
        attempts: How many there have been.
        not_before: Until when it waits after a failure; seconds since the epoch. `due_at` is what holds.
        last_error: What the last one ended with.
        dead_reason: Why it is a dead letter, at which no more are made; None while it is queued.
        size: Bytes of its body.
        left_alone_until: Until when its receiver has asked not to be called; seconds since the epoch.
        request_id: Of the HTTP request that it comes of; None where that is not known.
    """

    id: int
    webhook_id: str
    url: str
    kind: CallbackKind
    created_at: float
    attempts: int
    not_before: float
    last_error: str | None
    dead_reason: str | None
    size: int
    left_alone_until: float = 0.0
    request_id: str | None = None

    @property
    def due_at(self) -> float:
        """When the next attempt may be made; seconds since the epoch."""
        return max(self.not_before, self.left_alone_until)


class Dropped(NamedTuple):
    """A callback that had to make room."""

    url: str
    webhook_id: str


class ReceiverTotals(NamedTuple):
    """What a receiver has in the queue.

    Attributes:
        queued: Callbacks still to be delivered.
        dead_letters: Callbacks that are kept, and not attempted any more.
        bytes: Of all their bodies.
        oldest: When the oldest queued one was; seconds since the epoch.
    """

    queued: int
    dead_letters: int
    bytes: int
    oldest: float | None


class DeliveryQueue:
    """The deliveries of a database; every change of them is on the disk when it returns.

    It is bounded by the callbacks that one receiver has waiting and by the bytes of all bodies. Dead
    letters make room first, then what has waited longest.

    Args:
        database: Where they are kept.
        max_bytes: Bytes of bodies, for all receivers.
        max_age: Dead letters are kept for so long, in seconds.

    Raises:
        OutboxError: By every method, where the database cannot be read or written.
    """

    def __init__(self, database: OutboxDatabase, max_bytes: int = 2**30, max_age: float = 86_400.0) -> None:
        self._database = database
        self._max_bytes = max_bytes
        self._max_age = max_age

    def add(
        self,
        url: str,
        kind: CallbackKind,
        bodies: Collection[bytes],
        *,
        now: float,
        max_queued: int,
        in_flight: Collection[int] = (),
        request_id: str | None = None,
        connection: sqlite3.Connection | None = None,
    ) -> tuple[list[int], list[Dropped]]:
        """Queue callbacks for a receiver; one that is larger than all may be is dropped itself.

        Args:
            url: The receiver's base URL.
            kind: What is appended to it.
            bodies: A body for each.
            now: Seconds since the epoch.
            max_queued: Callbacks that the receiver may have waiting.
            in_flight: Ids that do not make room, since they are being delivered.
            request_id: Of the HTTP request that they come of.
            connection: A transaction that this is to be part of.

        Returns:
            The ids of those that were queued and are still there, and what had to make room.
        """
        if connection is None:
            with self._database.transaction() as own:
                return self._add(own, url, kind, bodies, now, max_queued, in_flight, request_id)
        return self._add(connection, url, kind, bodies, now, max_queued, in_flight, request_id)

    def _add(
        self,
        connection: sqlite3.Connection,
        url: str,
        kind: CallbackKind,
        bodies: Collection[bytes],
        now: float,
        max_queued: int,
        in_flight: Collection[int],
        request_id: str | None,
    ) -> tuple[list[int], list[Dropped]]:
        connection.execute(
            "DELETE FROM deliveries WHERE given_up IS NOT NULL AND created_at < ?", (now - self._max_age,)
        )
        added, dropped = [], []
        for body in bodies:
            webhook_id = f"msg_{uuid.uuid4().hex}"
            if len(body) > self._max_bytes:
                # Nothing else has to go for what does not fit anyway.
                dropped.append(Dropped(url, webhook_id))
                continue
            [identifier] = connection.execute(
                "INSERT INTO deliveries (webhook_id, url, kind, created_at, body, request_id)"
                " VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
                (webhook_id, url, kind, now, body, request_id),
            ).fetchone()
            added.append(identifier)
        made_room = [*self._make_room(connection, url, max_queued, in_flight)]
        dropped += made_room
        if made_room:
            marks = ", ".join("?" * len(added))
            left = connection.execute(f"SELECT id FROM deliveries WHERE id IN ({marks})", added)  # noqa: S608
            added = [identifier for (identifier,) in left]
        return added, dropped

    def _make_room(
        self, connection: sqlite3.Connection, url: str, max_queued: int, in_flight: Collection[int]
    ) -> Iterator[Dropped]:
        spared = json.dumps([*in_flight])
        queued = "given_up IS NULL AND id NOT IN (SELECT value FROM json_each(?))"
        while self._queued(connection, url) > max_queued:
            oldest = connection.execute(
                f"SELECT id, url, webhook_id FROM deliveries WHERE url = ? AND {queued} ORDER BY id LIMIT 1",  # noqa: S608
                (url, spared),
            ).fetchone()
            if oldest is None:
                break
            yield self._drop(connection, oldest)
        while connection.execute("SELECT total(bytes) FROM receivers").fetchone()[0] > self._max_bytes:
            given_up = connection.execute(
                "SELECT id FROM deliveries WHERE given_up IS NOT NULL ORDER BY created_at LIMIT 1"
            ).fetchone()
            if given_up is not None:
                connection.execute("DELETE FROM deliveries WHERE id = ?", given_up)
                continue
            oldest = connection.execute(
                f"SELECT id, url, webhook_id FROM deliveries WHERE {queued} ORDER BY id LIMIT 1",  # noqa: S608
                (spared,),
            ).fetchone()
            if oldest is None:
                break
            yield self._drop(connection, oldest)

    def _drop(self, connection: sqlite3.Connection, oldest: tuple[int, str, str]) -> Dropped:
        identifier, url, webhook_id = oldest
        connection.execute("DELETE FROM deliveries WHERE id = ?", (identifier,))
        return Dropped(url, webhook_id)

    def _queued(self, connection: sqlite3.Connection, url: str) -> int:
        row = connection.execute("SELECT queued FROM receivers WHERE url = ?", (url,)).fetchone()
        return 0 if row is None else int(row[0])

    def oldest(self, url: str) -> tuple[Delivery, bytes] | None:
        """Return a receiver's oldest queued callback and its body; None where it has none."""
        with self._database.transaction() as connection:
            row = connection.execute(
                f"SELECT {_FIELDS}, body FROM deliveries WHERE url = ? AND given_up IS NULL"  # noqa: S608
                " ORDER BY id LIMIT 1",
                (url,),
            ).fetchone()
        return None if row is None else (Delivery(*row[:-1]), row[-1])

    def delivered(self, identifier: int) -> None:
        """Forget a callback that has been delivered; one that is gone already is no error."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM deliveries WHERE id = ?", (identifier,))

    def failed(self, identifier: int, error: str, not_before: float) -> None:
        """Note a failed attempt, and when the next one is due."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE deliveries SET attempts = attempts + 1, last_error = ?, not_before = ? WHERE id = ?",
                (error, not_before, identifier),
            )

    def leave_alone(self, url: str, seconds: float, now: float) -> None:
        """Note that a receiver asked not to be called for so long, whichever of its callbacks is next."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM left_alone WHERE until <= ?", (now,))
            connection.execute(
                "INSERT OR REPLACE INTO left_alone (url, until, seconds) VALUES (?, ?, ?)",
                (url, now + seconds, seconds),
            )

    def bound_times(self, now: float, max_wait: float) -> None:
        """Let nothing be from the future, or wait longer than was meant: the clock may have been set back.

        Args:
            now: Seconds since the epoch.
            max_wait: The longest wait after a failure, in seconds, beside what receivers ask for.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE deliveries SET created_at = min(created_at, :now),"
                " not_before = min(not_before, :most) WHERE created_at > :now OR not_before > :most",
                {"now": now, "most": now + max_wait},
            )
            connection.execute("UPDATE left_alone SET until = min(until, ? + seconds)", (now,))

    def shift_times(self, seconds: float) -> None:
        """Move all times by as much as the clock was set, so that ages and waits stay what they were."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE deliveries SET created_at = created_at + ?", (seconds,))
            # 0 says that it is due at once.
            connection.execute(
                "UPDATE deliveries SET not_before = max(not_before + ?, 0) WHERE not_before > 0", (seconds,)
            )
            connection.execute("UPDATE left_alone SET until = until + ?", (seconds,))
            connection.execute(
                "UPDATE rounds SET begun_at = begun_at + :step, updated_at = updated_at + :step",
                {"step": seconds},
            )

    def bury(self, identifier: int, reason: str, error: str | None = None) -> None:
        """Make a callback a dead letter: no more attempts, kept for the operator, who may retry it."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE deliveries SET attempts = attempts + (:error IS NOT NULL), given_up = :reason,"
                " last_error = coalesce(:error, last_error) WHERE id = :id",
                {"error": error, "reason": reason, "id": identifier},
            )

    def bury_receiver(self, url: str, reason: str) -> None:
        """Make everything that a receiver has queued dead letters."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE deliveries SET given_up = ? WHERE url = ? AND given_up IS NULL", (reason, url)
            )

    def retry(self, identifiers: Collection[int] | None = None) -> int:
        """Make callbacks due at once, dead letters too, whatever their receivers have asked for.

        Args:
            identifiers: Which; None: all.

        Returns:
            How many there were.
        """
        with self._database.transaction() as connection:
            _change(
                connection,
                "DELETE FROM left_alone",
                identifiers,
                "url = (SELECT url FROM deliveries WHERE id = ?)",
            )
            return _change(
                connection, "UPDATE deliveries SET given_up = NULL, not_before = 0, attempts = 0", identifiers
            )

    def drop(self, identifiers: Collection[int] | None = None) -> int:
        """Delete callbacks; None: all. Returns how many there were."""
        with self._database.transaction() as connection:
            return _change(connection, "DELETE FROM deliveries", identifiers)

    def receivers(self) -> Mapping[str, ReceiverTotals]:
        """Return what each receiver has in the queue; none is there that has nothing."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT url, queued, given_up, bytes, (SELECT created_at FROM deliveries AS d"
                " WHERE d.url = receivers.url AND d.given_up IS NULL ORDER BY id LIMIT 1) FROM receivers"
            ).fetchall()
        return {url: ReceiverTotals(*totals) for url, *totals in rows}

    def listed(self) -> list[Delivery]:
        """Return all callbacks, without their bodies."""
        with self._database.reading() as connection:
            rows = connection.execute(f"SELECT {_FIELDS} FROM deliveries ORDER BY id").fetchall()  # noqa: S608
        return [Delivery(*row) for row in rows]

    def exported(self) -> Iterator[tuple[Delivery, Any]]:
        """Yield all callbacks with their bodies as parsed JSON, one after the other."""
        with self._database.reading() as connection:
            for row in connection.execute(f"SELECT {_FIELDS}, body FROM deliveries ORDER BY id"):  # noqa: S608
                yield Delivery(*row[:-1]), json.loads(row[-1])


def _change(
    connection: sqlite3.Connection,
    statement: str,
    identifiers: Collection[int] | None,
    where: str = "id = ?",
) -> int:
    """Change what belongs to callbacks, or all; returns how many rows that were."""
    if identifiers is None:
        return connection.execute(statement).rowcount
    return sum(connection.execute(f"{statement} WHERE {where}", (i,)).rowcount for i in identifiers)
