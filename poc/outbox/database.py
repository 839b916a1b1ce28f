"""The SQLite file of an outbox: opened by one server at a time, checked, and brought up to date."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from hallmark.poc.core.errors import OutboxError

__all__ = ["MEMORY", "OutboxDatabase", "default_path"]

MEMORY: Final = "memory"
"""What takes the path's place where nothing is to be kept."""

_APPLICATION_ID: Final = 0x484C4D4B  # "HLMK"
_BUSY_SECONDS: Final = 5.0
_MAX_LOG_BYTES: Final = 2**22

# One script a version; a file of version n gets those from n on. A script that was released is never changed.
_MIGRATIONS: Final = (
    """
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
    """,
)


def default_path(port: int | None, socket: str | None = None) -> Path:
    """Where a server's outbox lies when nobody says: in the user's state directory, one for each port.

    Args:
        port: The port the server listens on.
        socket: The Unix socket it listens on instead.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    server = f"port-{port}" if socket is None else f"socket-{Path(socket).absolute().as_posix().strip('/')}"
    return base / "hallmark" / f"outbox-{server.replace('/', '-')}.db"


class OutboxDatabase:
    """A connection to an outbox, in a file or in memory; used by one thread at a time.

    A write-ahead log lets others read the file while it is written. `synchronous` is FULL: a commit is on the
    disk when it returns, so that a power cut loses no more than a kill does. That costs one flush of the disk
    for each call of the engine, in a thread of its own.

    Args:
        path: The file, made where there is none; None keeps everything in memory.
        for_server: Whether it is opened for a server, of which a file has one at a time. Tools open a file
            beside it, and neither make nor upgrade one.

    Attributes:
        path: The file; None in memory.

    Raises:
        OutboxError: Another server has the file, it cannot be written, it is damaged, or it is none of ours,
            or of a newer Hallmark's.
    """

    def __init__(self, path: Path | None, *, for_server: bool = True) -> None:
        self.path = path
        self._lock: FileLock | None = None
        self._reader: sqlite3.Connection | None = None
        if path is not None and for_server:
            self._lock = _lock(path)
        try:
            self._writer = self._connect(for_server)
        except BaseException:
            if self._lock is not None:
                self._lock.release()
            raise

    def __str__(self) -> str:
        return MEMORY if self.path is None else str(self.path)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is done in it is on the disk at its end, or nothing.

        Raises:
            OutboxError: The file cannot be written.
        """
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            yield self._writer
            self._writer.execute("COMMIT")
        except BaseException as exc:
            # A disk that is full may have rolled it back already, or may let even that fail.
            with suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
            if isinstance(exc, sqlite3.Error):
                raise OutboxError(f"the outbox {self} cannot be written: {exc}") from exc
            raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to read with, on another thread than the writer's too.

        Raises:
            OutboxError: The file cannot be read.
        """
        try:
            if self.path is not None and self._reader is None:
                self._reader = _open(self.path, "ro")
            yield self._reader or self._writer
        except sqlite3.Error as exc:
            raise OutboxError(f"the outbox {self} cannot be read: {exc}") from exc

    def close(self) -> None:
        """Close the file, and let another server have it."""
        if self._reader is not None:
            self._reader.close()
        self._writer.close()
        if self._lock is not None:
            self._lock.release()

    def _connect(self, for_server: bool) -> sqlite3.Connection:
        try:
            if self.path is None:
                database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
            else:
                database = _open(self.path, "rwc" if for_server else "rw")
        except (OSError, sqlite3.Error) as exc:
            raise OutboxError(f"the outbox {self} cannot be opened: {exc}") from exc
        try:
            self._prepare(database, for_server)
        except BaseException as exc:
            database.close()
            if isinstance(exc, sqlite3.OperationalError):
                raise OutboxError(f"the outbox {self} cannot be written: {exc}") from exc
            # The latter where the text of SQLite's own error is damaged.
            if isinstance(exc, sqlite3.Error | UnicodeDecodeError):
                raise self._damaged(str(exc)) from exc
            raise
        return database

    def _prepare(self, database: sqlite3.Connection, for_server: bool) -> None:
        version = self._version(database)
        if for_server:
            if self.path is not None:
                self._check_pages(database)
                if not version:
                    database.execute("PRAGMA auto_vacuum = INCREMENTAL")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(f"PRAGMA journal_size_limit = {_MAX_LOG_BYTES}")
            database.execute("PRAGMA synchronous = FULL")
            for number, script in enumerate(_MIGRATIONS[version:], version + 1):
                database.executescript(
                    f"BEGIN IMMEDIATE; {script}; PRAGMA application_id = {_APPLICATION_ID};"
                    f" PRAGMA user_version = {number}; COMMIT"
                )
            # Whether it can be written is known only once it has been.
            database.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
            # A script is run to its end; `execute` would give back one page.
            database.executescript("PRAGMA incremental_vacuum")
        elif version != len(_MIGRATIONS):
            raise OutboxError(f"the outbox {self} is not up to date: start the server with it once")

    def _version(self, database: sqlite3.Connection) -> int:
        """The version of the file's schema; 0 where the file is new.

        Raises:
            OutboxError: It is no outbox, or of a newer Hallmark's.
        """
        application: int = database.execute("PRAGMA application_id").fetchone()[0]
        version: int = database.execute("PRAGMA user_version").fetchone()[0]
        is_empty = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if application != _APPLICATION_ID and not (application == 0 and is_empty):
            raise OutboxError(f"{self} is a database, but no outbox of Hallmark's")
        if version > len(_MIGRATIONS):
            raise OutboxError(
                f"the outbox {self} was written by a newer Hallmark: its schema is {version}, this one "
                f"knows those up to {len(_MIGRATIONS)}"
            )
        return version

    def _check_pages(self, database: sqlite3.Connection) -> None:
        found: str = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise self._damaged(found)

    def _damaged(self, reason: str) -> OutboxError:
        # What SQLite finds comes on several lines.
        text = " ".join(reason.split())
        return OutboxError(f"the outbox {self} is damaged: {text}; move it away, or repair it")


def _lock(path: Path) -> FileLock:
    """The right to be the file's one server; it ends with the process, however that ends.

    It is of a file beside it: to open and close the database itself would take SQLite's own locks away.
    """
    # A link to the file is the same file.
    lock_path = f"{os.path.realpath(path)}.lock"
    lock = FileLock(lock_path, timeout=0, mode=0o600, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # FileLock takes a file that cannot be made for one that another process holds.
        os.close(os.open(lock_path, os.O_CREAT | os.O_RDWR, 0o600))
        lock.acquire()
    except Timeout as exc:
        raise OutboxError(
            f"another server has the outbox {path}: give this one its own with the setting outbox_path"
        ) from exc
    except OSError as exc:
        raise OutboxError(f"the outbox {path} cannot be opened: {exc}") from exc
    return lock


def _open(path: Path, mode: str) -> sqlite3.Connection:
    if mode == "rwc":
        # Proofs are nobody else's business; SQLite gives its own files beside it the same mode.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        check_same_thread=False,
        isolation_level=None,
    )
