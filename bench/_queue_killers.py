"""What kills receivers, workers and the database at random moments, while they have something to do."""

import random
import time
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import psycopg
from _queue_processes import Kept
from _queue_progress import Part, Progress, Target
from _queue_senders import Senders
from postgresql_server import PostgresServer

from hallmark.server.verification.jobs import MAX_ATTEMPTS

__all__ = ["DatabaseCrashes", "ReceiverKiller", "WorkerKiller"]

_LONGEST_REST: Final = 2.0
_POLL_SECONDS: Final = 0.003
_CHANCE_SECONDS: Final = 45.0
"""How long a killer waits for something to be under way; then it kills without."""

_LONGEST_OF_A_POST: Final = 0.01
_LONGEST_OF_A_JOB: Final = 0.06
"""Longest time from when something is seen to be under way to the kill, in seconds."""

_AIMED_AT: Final = MAX_ATTEMPTS - 3
"""How often a job has been leased at most that is aimed at."""

_DOWN_SECONDS: Final = 1.0


class _Killer(Part):
    """Makes so many kills of a target.

    Args:
        target: What is killed.
        count: How many kills are made.
        progress: Says when, and is told.
        chance: Decides when and which.

    Attributes:
        kills: How many were made.
        hits: How many of them while something was under way.
    """

    def __init__(self, target: Target, count: int, progress: Progress, chance: random.Random) -> None:
        super().__init__(f"{target} killer")
        self.kills = self.hits = 0
        self._chance = chance
        self._target, self._count, self._progress = target, count, progress

    def _run(self) -> None:
        while self.kills < self._count and not self._over.wait(self._chance.uniform(0, _LONGEST_REST)):
            while not self._progress.may_kill(self._target):
                if self._over.wait(_POLL_SECONDS):
                    return
            until = time.monotonic() + _CHANCE_SECONDS
            while (hit := self._try(at_any_moment=time.monotonic() > until)) is None:
                if self._over.wait(_POLL_SECONDS):
                    return
            self.kills += 1
            self.hits += hit
            self._progress.kill(self._target)
            where = "while it was at work" if hit else "between"
            print(f"{self._progress.delivered:4.0%} delivered: {self._target} killed {where}", flush=True)

    @abstractmethod
    def _try(self, *, at_any_moment: bool) -> bool | None:
        """Kill a process that has something under way; return whether it still had, None if none was killed.

        Args:
            at_any_moment: Whether one that has nothing under way is killed too.
        """


class ReceiverKiller(_Killer):
    """Kills receivers while they are posted to."""

    def __init__(
        self,
        receivers: Sequence[Kept],
        senders: Senders,
        count: int,
        progress: Progress,
        chance: random.Random,
    ) -> None:
        super().__init__("receiver", count, progress, chance)
        self._receivers, self._senders = receivers, senders

    def _try(self, *, at_any_moment: bool) -> bool | None:
        is_ready = self._senders.has_answered if at_any_moment else self._senders.is_posting_to
        ready = [(each, each.called) for each in self._receivers if is_ready(each.url)]
        if not ready:
            return None
        chosen, called = self._chance.choice(ready)
        time.sleep(self._chance.uniform(0, _LONGEST_OF_A_POST))
        hit = self._senders.is_posting_to(chosen.url)
        if not chosen.kill(called):
            return None
        self._senders.forget(chosen.url)
        return hit


class WorkerKiller(_Killer):
    """Kills workers while they have a job.

    It aims at jobs that are leased for the first or the second time: one that has killed all its workers is
    given up, as it is to be.
    """

    def __init__(
        self, workers: Sequence[Kept], database: str, count: int, progress: Progress, chance: random.Random
    ) -> None:
        super().__init__("worker", count, progress, chance)
        self._workers, self._database = workers, database
        self._connection: psycopg.Connection | None = None

    def _try(self, *, at_any_moment: bool) -> bool | None:
        leases = self._leases()
        if leases is None:
            return None
        called = {each.called: each for each in self._workers}
        ready = [name for name in called if 0 < leases.get(name, 0) <= _AIMED_AT]
        if not ready and at_any_moment:
            ready = [name for name in called if name not in leases]
        if not ready:
            return None
        name = self._chance.choice(ready)
        time.sleep(self._chance.uniform(0, _LONGEST_OF_A_JOB))
        if (self._leases() or {}).get(name, 0) > _AIMED_AT or not called[name].kill(name):
            return None
        return name in (self._leases() or {})

    def _leases(self) -> dict[str, int] | None:
        """Return how often the open job of each worker has been leased; None while the database is away."""
        try:
            if self._connection is None:
                self._connection = psycopg.connect(self._database, autocommit=True)
            return dict(
                self._connection.execute(
                    "SELECT worker, max(attempts) FROM jobs WHERE ended_at IS NULL AND worker IS NOT NULL"
                    " GROUP BY worker"
                ).fetchall()
            )
        except psycopg.OperationalError:
            self._close()
            return None

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def _clean_up(self) -> None:
        self._close()


class DatabaseCrashes(Part):
    """Ends PostgreSQL as a crash does, and starts it again, at moments spread over the deliveries.

    Attributes:
        crashes: How many there were.
    """

    def __init__(self, server: PostgresServer, count: int, progress: Progress, chance: random.Random) -> None:
        super().__init__("database crashes")
        self.crashes = 0
        self._server, self._progress = server, progress
        self._moments = sorted(chance.uniform(0.1, 0.9) for _ in range(count))

    def _run(self) -> None:
        for moment in self._moments:
            while self._progress.delivered < moment:
                if self._over.wait(_POLL_SECONDS):
                    return
            self._server.stop("immediate")
            time.sleep(_DOWN_SECONDS)
            self._server.start()
            self.crashes += 1
