"""The database of a receiver, opened to read it while receivers run or do not."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from hallmark.poc.core.errors import DatabaseError, FieldError
from hallmark.poc.core.postgresql import without_password
from hallmark.server.cli.receiver.options import BatchKind
from hallmark.server.receiver.database import address
from hallmark.server.receiver.store import BatchStore

__all__ = ["Filters", "filters", "opened"]

Filters = dict[str, str | None]
"""What batches are to match, by the names of `BatchStore.find`."""


@contextmanager
def opened(database: str) -> Iterator[BatchStore]:
    """Open a receiver's file or database; its tables are neither made nor brought up to date.

    Raises:
        FieldError: There is no such file or database, or it is another kind.
        UnsupportedError: It is a PostgreSQL database, and psycopg is not installed.
    """
    found = address(database)
    if isinstance(found, Path) and not found.is_file():
        missing = FieldError("--database", database, "the file that a receiver keeps its batches in")
        missing.add_note("hallmark receiver makes the file when it starts")
        raise missing
    is_file = isinstance(found, Path)
    try:
        store = BatchStore(found, makes=False)
    except DatabaseError as exc:
        allowed = f"the {'file' if is_file else 'database'} of a receiver ({exc})"
        wrong = FieldError("--database", without_password(database), allowed)
        wrong.add_note(
            "hallmark receiver makes such a file, and brings an older one up to date"
            if is_file
            else "hallmark receiver makes its tables, and brings older ones up to date"
        )
        raise wrong from exc
    with closing(store):
        yield store


def filters(kind: BatchKind | None, public_key: str | None, block_hash: str | None) -> Filters:
    """Return what the options of a command ask for."""
    return {
        "kind": None if kind is None else kind.value,
        "public_key": public_key,
        "block_hash": block_hash,
    }
