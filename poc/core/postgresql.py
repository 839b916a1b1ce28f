"""PostgreSQL databases of Hallmark's: brought up to date by one process at a time, found again when away."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from hallmark.poc.core.errors import DatabaseError, UnsupportedError

if TYPE_CHECKING:
    import psycopg

__all__ = ["PostgresConnection", "PostgresDatabase", "PostgresSchema", "is_url", "without_password"]

_URL: Final = re.compile(r"[A-Za-z][\w+.-]*://")
_LEAST_VERSION: Final = 13
_CONNECTIONS: Final = 8
_WAIT_SECONDS: Final = 10.0
"""How long whoever asks waits for a connection, and a connection for the server."""

_RECONNECT_SECONDS: Final = 3.0
_MIGRATING: Final = 0x484C4D4B
"""The advisory lock of whoever brings a database up to date."""

_NETWORK: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""By which a server that is gone without a word is noticed, where the URL says nothing else; in seconds, the
last in milliseconds."""

_SESSION: Final = (
    # Each statement is to see what others have committed by then.
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
    # One that stands still in the middle of a transaction would keep others from the rows it has locked.
    "SET idle_in_transaction_session_timeout = '30s'",
    # What is acknowledged is on the disk; where the server waits for more than its own disk, it goes on to.
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') = 'off'",
)


@dataclass(frozen=True, slots=True)
class PostgresSchema:
    """What a database holds.

    Its version is the number of migrations it has had, the highest in the table `hallmark_schema`. To change
    a schema, append a script. A script that was released is never changed, and none is taken away.

    Attributes:
        kind: What messages call such a database.
        error: What is raised.
        migrations: One script a version.
    """

    kind: str
    error: type[DatabaseError]
    migrations: tuple[str, ...]


class PostgresConnection:
    """A connection that takes parameters as SQLite does, `:name` in the statement."""

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self._connection = connection

    def execute(
        self, statement: str, parameters: Mapping[str, Any] | None = None, /
    ) -> "psycopg.Cursor[Any]":
        """Run a statement."""
        # As bytes, psycopg takes what is not written out where it is called.
        renamed = statement if parameters is None else _renamed(statement)
        return self._connection.execute(renamed.encode(), parameters)

    def value(self, statement: str) -> Any:
        """Return the first column of the first row; None where there is none."""
        row = self.execute(statement).fetchone()
        return None if row is None else row[0]


class PostgresDatabase:
    """Connections to one database, for several threads, beside those of other processes.

    A transaction reads what others have committed, at each of its statements.

    Args:
        schema: What the database holds.
        url: Where it is; what it leaves open libpq takes from its environment variables and password file.
        makes: Whether tables are made where they are missing, and brought up to date where they are old.

    Raises:
        UnsupportedError: psycopg is not installed.
        DatabaseError: As the schema has it: the database cannot be reached or changed, or it is of a newer
            Hallmark's, or of an older one's and not to be brought up to date.
    """

    def __init__(self, schema: PostgresSchema, url: str, *, makes: bool = True) -> None:
        self._schema = schema
        self._name = without_password(url)
        try:
            import psycopg
            from psycopg_pool import ConnectionPool
        except ImportError as exc:
            missing = UnsupportedError(f"{self} needs psycopg, which cannot be imported: {exc}")
            missing.add_note("install it: pip install 'hallmark-poc[postgres]'")
            raise missing from exc
        self._driver_error = psycopg.Error
        try:
            stated = psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            # libpq says what is wrong with a URL by the URL, with the password in it.
            raise self._error("is no URL that libpq can read") from None
        network: dict[str, Any] = {name: value for name, value in _NETWORK.items() if name not in stated}
        # The pool would go on trying; whoever starts is told at once.
        with self._answered("cannot be opened"):
            psycopg.connect(url, **network).close()
        self._pool: ConnectionPool[psycopg.Connection[Any]] = ConnectionPool(
            url,
            kwargs=network,
            min_size=1,
            max_size=_CONNECTIONS,
            timeout=_WAIT_SECONDS,
            # Its attempts come ever more rarely; once it has given up, the next who asks has it try at once.
            reconnect_timeout=_RECONNECT_SECONDS,
            configure=_configure,
            # The server may have been started anew since a connection was last used.
            check=ConnectionPool.check_connection,
            open=True,
        )
        try:
            with self._connected("cannot be used") as connection:
                self._prepare(connection, makes=makes)
        except BaseException:
            self._pool.close()
            raise

    def __str__(self) -> str:
        return self._name

    @contextmanager
    def transaction(self) -> Iterator[PostgresConnection]:
        """Let all that is done in it be on the disk at its end, or nothing.

        Raises:
            DatabaseError: The database cannot be written. Where the connection broke at the very end, all may
                be there nevertheless.
        """
        with self._connected("cannot be written") as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[PostgresConnection]:
        """Yield a connection to read with.

        Raises:
            DatabaseError: The database cannot be read.
        """
        with self._connected("cannot be read") as connection:
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def _prepare(self, connection: PostgresConnection, *, makes: bool) -> None:
        version = int(connection.value("SHOW server_version_num")) // 10_000
        if version < _LEAST_VERSION:
            raise self._error(f"is PostgreSQL {version}; allowed: {_LEAST_VERSION} and newer")
        encoding = connection.value("SHOW server_encoding")
        if encoding != "UTF8":
            raise self._error(f"has the encoding {encoding}; allowed: UTF8")
        if not makes:
            self._check_version(connection)
            return
        connection.execute("SELECT pg_advisory_xact_lock(:key)", {"key": _MIGRATING})
        connection.execute("CREATE TABLE IF NOT EXISTS hallmark_schema (version INTEGER NOT NULL)")
        had = connection.value("SELECT max(version) FROM hallmark_schema") or 0
        self._check_known(had)
        for script in self._schema.migrations[had:]:
            connection.execute(script)
        newest = len(self._schema.migrations)
        if had < newest:
            connection.execute("INSERT INTO hallmark_schema (version) VALUES (:version)", {"version": newest})

    def _check_version(self, connection: PostgresConnection) -> None:
        """Refuse a database that is none of ours, or not up to date."""
        if connection.value("SELECT to_regclass('hallmark_schema')") is None:
            raise self._error("is a database without tables of Hallmark's")
        had = connection.value("SELECT max(version) FROM hallmark_schema") or 0
        self._check_known(had)
        if had < len(self._schema.migrations):
            raise self._error("is not up to date: start the receiver with it once")

    def _check_known(self, version: int) -> None:
        if version > len(self._schema.migrations):
            raise self._error(
                f"was written by a newer Hallmark: its schema is {version}, this one knows those up to "
                f"{len(self._schema.migrations)}"
            )

    @contextmanager
    def _connected(self, problem: str) -> Iterator[PostgresConnection]:
        with self._answered(problem), self._pool.connection() as connection:
            try:
                yield PostgresConnection(connection)
            except self._driver_error:
                # What was cancelled may have left locks, which a session keeps beyond its transaction.
                connection.close()
                raise

    @contextmanager
    def _answered(self, problem: str) -> Iterator[None]:
        """Say what the driver raises as one sentence."""
        try:
            yield
        except self._driver_error as exc:
            raise self._error(f"{problem}: {' '.join(str(exc).split())}") from exc

    def _error(self, problem: str) -> DatabaseError:
        return self._schema.error(f"the {self._schema.kind} {self} {problem}")


def is_url(text: str) -> bool:
    """Return whether a text is meant as a URL, and not as a path; libpq says whether it can read it."""
    return _URL.match(text) is not None


def without_password(url: str) -> str:
    """Return a URL as it may be shown, even where it is none that can be read."""
    shown = re.sub(r"(://[^:@/?]*):.*@", r"\1:***@", url)
    # What stands in a port's place and is no port.
    shown = re.sub(r"(://[^:@/?]*):(?!\d+(?:[/?]|$)|\*)[^@/?]*", r"\1:***", shown)
    return re.sub(r"([?&](?:ssl)?password)=[^&]*", r"\1=***", shown, flags=re.IGNORECASE)


def _configure(connection: "psycopg.Connection[Any]") -> None:
    """Prepare a new connection."""
    for statement in _SESSION:
        connection.execute(statement.encode())
    connection.commit()


@cache
def _renamed(statement: str) -> str:
    """Write `:name` as psycopg does; `::type` is a cast."""
    return re.sub(r"(?<!:):([a-z_]+)", r"%(\1)s", statement)
