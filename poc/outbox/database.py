"""The SQLite file of an outbox, which one server has at a time."""

import os
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from hallmark.poc.core.errors import OutboxError
from hallmark.poc.core.sqlite import Database, Schema, make_private
from hallmark.poc.outbox.file_system import problem_of_folder

__all__ = ["OutboxDatabase", "default_path"]

_VERSION_1: Final = """
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook_id TEXT NOT NULL UNIQUE,
    url TEXT NOT NULL,
    kind TEXT NOT NULL,
    created_at REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    last_error TEXT,
    given_up TEXT,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX deliveries_queued ON deliveries (url, id) WHERE given_up IS NULL;
CREATE INDEX deliveries_given_up ON deliveries (created_at) WHERE given_up IS NOT NULL;

-- What is in `deliveries`, by receiver: counting 100,000 rows for each status would take too long.
CREATE TABLE receivers (
    url TEXT PRIMARY KEY,
    queued INTEGER NOT NULL DEFAULT 0,
    given_up INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TRIGGER delivery_added AFTER INSERT ON deliveries BEGIN
    INSERT OR IGNORE INTO receivers (url) VALUES (NEW.url);
    UPDATE receivers SET queued = queued + (NEW.given_up IS NULL),
        given_up = given_up + (NEW.given_up IS NOT NULL), bytes = bytes + length(NEW.body)
        WHERE url = NEW.url;
END;
CREATE TRIGGER delivery_removed AFTER DELETE ON deliveries BEGIN
    UPDATE receivers SET queued = queued - (OLD.given_up IS NULL),
        given_up = given_up - (OLD.given_up IS NOT NULL), bytes = bytes - length(OLD.body)
        WHERE url = OLD.url;
    DELETE FROM receivers WHERE url = OLD.url AND queued + given_up = 0;
END;
CREATE TRIGGER delivery_given_up AFTER UPDATE OF given_up ON deliveries BEGIN
    UPDATE receivers SET
        queued = queued + (NEW.given_up IS NULL) - (OLD.given_up IS NULL),
        given_up = given_up + (NEW.given_up IS NOT NULL) - (OLD.given_up IS NOT NULL)
        WHERE url = NEW.url;
END;

CREATE TABLE rounds (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    config TEXT NOT NULL,
    digest TEXT NOT NULL,
    url TEXT,
    template TEXT NOT NULL,
    phase TEXT NOT NULL,
    position INTEGER NOT NULL DEFAULT 0,
    reported INTEGER NOT NULL DEFAULT 0,
    valid INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    begun_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    reason TEXT,
    is_over INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE findings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    round_id INTEGER NOT NULL,
    last INTEGER NOT NULL,
    found TEXT NOT NULL
) STRICT;
CREATE INDEX findings_by_round ON findings (round_id, id);
"""
# The numbers of nonces came with hallmark/2; findings of hallmark/1 have none.
_VERSION_2: Final = "ALTER TABLE findings ADD COLUMN vectors TEXT"
_VERSION_3: Final = """
-- Receivers that have asked by `Retry-After` not to be called for so many seconds.
CREATE TABLE left_alone (
    url TEXT PRIMARY KEY,
    until REAL NOT NULL,
    seconds REAL NOT NULL
) STRICT, WITHOUT ROWID;
"""
# The HTTP request that a callback comes of, or a round and all its callbacks.
_VERSION_4: Final = """
ALTER TABLE deliveries ADD COLUMN request_id TEXT;
ALTER TABLE rounds ADD COLUMN request_id TEXT;
"""
_MIGRATIONS: Final = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4)
_SCHEMA: Final = Schema("outbox", OutboxError, 0x484C4D4B, _MIGRATIONS, is_transient=True)


def default_path(port: int | None, socket: str | None = None) -> Path:
    """Return where a server's outbox lies when nobody says: in the user's state directory, one for each port.

    Args:
        port: The port the server listens on.
        socket: The Unix socket it listens on instead.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    server = f"port-{port}" if socket is None else f"socket-{Path(socket).absolute().as_posix().strip('/')}"
    return base / "hallmark" / f"outbox-{server.replace('/', '-')}.db"


class OutboxDatabase(Database):
    """A connection to an outbox.

    Args:
        path: The file, made where there is none; None keeps everything in memory.
        for_server: Whether it is opened for a server, of which a file has one at a time. Tools open a file
            beside it, and neither make nor upgrade one.

    Raises:
        OutboxError: Another server has the file, it cannot be written, it is damaged, or it is none of ours,
            or of a newer Hallmark's.
    """

    def __init__(self, path: Path | None, *, for_server: bool = True) -> None:
        self._lock = _lock(path) if path is not None and for_server else None
        self._is_new = path is not None and not os.path.lexists(path)
        try:
            super().__init__(_SCHEMA, path, makes=for_server)
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        """Close the file, and let another server have it."""
        super().close()
        self._release()

    def close_as_found(self) -> None:
        """Close the file, and take it away where there was none before."""
        super().close()
        if self._is_new and self.path is not None:
            # While no other server can have it, which may put something in.
            self.path.unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()


def _lock(path: Path) -> FileLock:
    """Return the right to be the file's one server; it ends with the process, however that ends.

    It is of a file beside it: to open and close the database itself would take SQLite's own locks away.
    """
    # A link to the file is the same file.
    lock_path = f"{os.path.realpath(path)}.lock"
    lock = FileLock(lock_path, timeout=0, mode=0o600, thread_local=False)
    try:
        # FileLock takes a file that cannot be made for one that another process holds.
        make_private(Path(lock_path))
        # Before the lock is taken: without flock, FileLock goes on with a kind that outlives a crash.
        problem = problem_of_folder(Path(lock_path).parent)
        if problem is None:
            lock.acquire()
            problem = _problem_of(lock_path)
    except Timeout as exc:
        raise OutboxError(
            f"another server has the outbox {path}: give this one its own with the setting outbox_path"
        ) from exc
    except OSError as exc:
        raise OutboxError(f"the outbox {path} cannot be opened: {exc}") from exc
    if problem is not None:
        lock.release()
        raise OutboxError(
            f"the outbox {path} lies on a file system that {problem}: give it a place on a local disk with "
            "the setting outbox_path"
        )
    return lock


def _problem_of(held: str) -> str | None:
    """Return what is wrong where a lock that is held here can be had again."""
    again = FileLock(held, timeout=0, thread_local=False)
    try:
        again.acquire()
    except Timeout:
        return None
    again.release()
    return "has locks that keep nobody out"
