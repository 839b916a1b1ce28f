"""SQLite files of Hallmark's: nobody else's business, checked, brought up to date, written whole."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hallmark.poc.core.errors import DatabaseError

__all__ = ["MEMORY", "Database", "Schema", "make_private"]

MEMORY: Final = "memory"
"""What takes the path's place where nothing is to be kept."""

_BUSY_SECONDS: Final = 5.0
_MAX_LOG_BYTES: Final = 2**22


@dataclass(frozen=True, slots=True)
class Schema:
    """What a kind of file holds.

    Its version is SQLite's `user_version`, the number of migrations it has had. To change a schema, append a
    script: whoever opens an older file for writing runs those that it lacks, each in a transaction of its
    own. A script that was released is never changed, and none is taken away.

    Attributes:
        kind: What messages call such a file.
        error: What is raised.
        application_id: SQLite's mark of whose file it is.
        migrations: One script a version.
        unmarked_table: A table by which a file is known that was written before there were marks.
        is_transient: Whether what is in it goes again. Such a file is read through when it is opened, and
            made smaller; one that grows for ever would keep its user waiting for that.
    """

    kind: str
    error: type[DatabaseError]
    application_id: int
    migrations: tuple[str, ...]
    unmarked_table: str | None = None
    is_transient: bool = False


class Database:
    """A connection to a file, or to a database in memory; used by one thread at a time.

    A write-ahead log lets others read the file while it is written. `synchronous` is FULL: a commit is on the
    disk when it returns, so that a power cut loses no more than a kill does.

    Args:
        schema: What the file holds.
        path: The file, for this user's eyes only where it is made; None keeps everything in memory.
        makes: Whether it is made where there is none and brought up to date where it is old.

    Attributes:
        path: The file; None in memory.

    Raises:
        DatabaseError: As the schema has it: the file cannot be written, it is damaged, it is none of ours, or
            of a newer Hallmark's, or of an older one's and not to be brought up to date.
    """

    def __init__(self, schema: Schema, path: Path | None, *, makes: bool = True) -> None:
        self.path = path
        self._schema = schema
        self._reader: sqlite3.Connection | None = None
        self._writer = self._connect(makes)

    def __str__(self) -> str:
        return MEMORY if self.path is None else str(self.path)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Let all that is done in it be on the disk at its end, or nothing.

        Raises:
            DatabaseError: The file cannot be written.
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
                raise self._error(f"cannot be written: {exc}") from exc
            raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection to read with, on another thread than the writer's too.

        Raises:
            DatabaseError: The file cannot be read.
        """
        try:
            if self.path is not None and self._reader is None:
                self._reader = _open(self.path, "ro")
            yield self._reader or self._writer
        except sqlite3.Error as exc:
            raise self._error(f"cannot be read: {exc}") from exc

    def free_bytes(self) -> int | None:
        """Return what is free on the file system of the file; None in memory, or where the folder is gone."""
        if self.path is None:
            return None
        try:
            return shutil.disk_usage(self.path.absolute().parent).free
        except OSError:
            return None

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            self._reader.close()
        self._writer.close()

    def _connect(self, makes: bool) -> sqlite3.Connection:
        try:
            if self.path is None:
                database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
            else:
                if makes:
                    # SQLite gives its own files beside it the same mode.
                    make_private(self.path)
                database = _open(self.path, "rw")
        except (OSError, sqlite3.Error) as exc:
            raise self._error(f"cannot be opened: {exc}") from exc
        try:
            self._prepare(database, makes)
        except BaseException as exc:
            database.close()
            if isinstance(exc, sqlite3.OperationalError):
                raise self._error(f"cannot be written: {exc}") from exc
            # The latter where the text of SQLite's own error is damaged.
            if isinstance(exc, sqlite3.Error | UnicodeDecodeError):
                raise self._damaged(str(exc)) from exc
            raise
        return database

    def _prepare(self, database: sqlite3.Connection, makes: bool) -> None:
        version, newest = self._version(database), len(self._schema.migrations)
        if not makes:
            if version != newest:
                raise self._error("is not up to date: start the server with it once")
            return
        if self._schema.is_transient and self.path is not None:
            self._check_pages(database)
            if not version:
                database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        mode = database.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if self.path is not None and mode != "wal":
            raise self._error(f"cannot have a write-ahead log there: SQLite keeps its journal mode {mode}")
        database.execute(f"PRAGMA journal_size_limit = {_MAX_LOG_BYTES}")
        database.execute("PRAGMA synchronous = FULL")
        for number, script in enumerate(self._schema.migrations[version:], version + 1):
            database.executescript(
                f"BEGIN IMMEDIATE; {script}; PRAGMA application_id = {self._schema.application_id};"
                f" PRAGMA user_version = {number}; COMMIT"
            )
        # Whether it can be written is known only once it has been.
        database.execute(f"PRAGMA user_version = {newest}")
        if self._schema.is_transient:
            # A script is run to its end; `execute` would give back one page.
            database.executescript("PRAGMA incremental_vacuum")

    def _version(self, database: sqlite3.Connection) -> int:
        """Return the version of the file's schema; 0 where the file is new, or has no mark yet.

        Raises:
            DatabaseError: It is another kind of file, or of a newer Hallmark's.
        """
        application: int = database.execute("PRAGMA application_id").fetchone()[0]
        version: int = database.execute("PRAGMA user_version").fetchone()[0]
        names = {name for (name,) in database.execute("SELECT name FROM sqlite_schema")}
        is_unmarked = application == 0 and (not names or self._schema.unmarked_table in names)
        if application != self._schema.application_id and not is_unmarked:
            raise self._schema.error(f"{self} is a database, but no {self._schema.kind} of Hallmark's")
        if version > len(self._schema.migrations):
            raise self._error(
                f"was written by a newer Hallmark: its schema is {version}, this one knows those up to "
                f"{len(self._schema.migrations)}"
            )
        return version

    def _check_pages(self, database: sqlite3.Connection) -> None:
        found: str = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise self._damaged(found)

    def _damaged(self, reason: str) -> DatabaseError:
        # What SQLite finds comes on several lines.
        return self._error(f"is damaged: {' '.join(reason.split())}; move it away, or repair it")

    def _error(self, problem: str) -> DatabaseError:
        return self._schema.error(f"the {self._schema.kind} {self} {problem}")


def make_private(path: Path) -> None:
    """Make a file and its folder where they are missing, for this user's eyes only.

    Raises:
        OSError: It cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _open(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        check_same_thread=False,
        isolation_level=None,
    )
