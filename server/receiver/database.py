"""What a store of batches asks of its database, whichever it is: where two differ, each says how."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from hallmark.poc.core.postgresql import is_url

__all__ = [
    "OUTCOME",
    "Address",
    "Connection",
    "Cursor",
    "Kind",
    "StoreDatabase",
    "address",
]

Kind = Literal["generated", "validated"]
"""Which callback brought a batch."""

OUTCOME: Final = ("fraud_detected", "probability_honest", "n_invalid")
"""What a verdict came to."""

Address = Path | str
"""Where a database is: the path of a SQLite file, or a PostgreSQL URL."""


class Cursor(Protocol):
    """What came of a statement."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""
        ...

    def fetchone(self) -> Any:
        """Return the next row; None where there is none."""
        ...

    def fetchall(self) -> Sequence[Any]:
        """Return all rows that are left."""
        ...


class Connection(Protocol):
    """Runs statements, with their parameters as `:name`."""

    def execute(self, statement: str, parameters: Mapping[str, Any] = ..., /) -> Cursor:
        """Run a statement."""
        ...


class StoreDatabase(Protocol):
    """A database with a store's tables, for several threads.

    Its views: `outlines` has what `batches` has but the body, and what verdicts came to; `claims` has a row
    for each nonce of each batch.
    """

    @property
    def row_lock(self) -> str:
        """What ends a `SELECT` so that nobody else changes the row before the transaction ends."""
        ...

    def transaction(self) -> AbstractContextManager[Connection]:
        """Let all that is done in it be on the disk at its end, or nothing.

        Raises:
            DatabaseError: The database cannot be written.
        """
        ...

    def reading(self) -> AbstractContextManager[Connection]:
        """Return a connection to read with.

        Raises:
            DatabaseError: The database cannot be read.
        """
        ...

    def elements(self, parameter: str) -> str:
        """Write the table `entry`: its column `value` has the elements of a parameter, a JSON list."""
        ...

    def settled(self, connection: Connection) -> int:
        """Return an id up to which no batch can come any more.

        Whoever reads batches in the order of their ids, and no further than that, misses none.
        """
        ...

    def own_columns(self, kind: Kind, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what is stored of a body in columns that the other database does without."""
        ...

    def check_key(self, field: str, value: str) -> None:
        """Check that a text can be looked up.

        Raises:
            FieldError: It is too long for an index, or has characters that cannot be stored.
        """
        ...

    def free_bytes(self) -> int | None:
        """Return what is free where it lies; None where that is not known."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


def address(text: str) -> Address:
    """Read where a database is: a text that begins as a URL is one, of PostgreSQL, and any other a path."""
    return text if is_url(text) else Path(text)
