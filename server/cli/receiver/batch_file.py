"""The file of a receiver, opened to read it while the receiver runs or does not."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from hallmark.poc.core.errors import DatabaseError, FieldError
from hallmark.server.cli.receiver.options import BatchKind
from hallmark.server.receiver.store import BatchStore

__all__ = ["Filters", "filters", "opened"]

Filters = dict[str, str | None]
"""What batches are to match, by the names of `BatchStore.find`."""


@contextmanager
def opened(database: Path) -> Iterator[BatchStore]:
    """Open a receiver's file; it is neither made nor changed.

    Raises:
        FieldError: There is no such file, or it is another kind of file.
    """
    if not database.is_file():
        missing = FieldError("--database", str(database), "the file that a receiver keeps its batches in")
        missing.add_note("hallmark receiver makes the file when it starts")
        raise missing
    try:
        store = BatchStore(database, makes=False)
    except DatabaseError as exc:
        wrong = FieldError("--database", str(database), f"the file of a receiver ({exc})")
        wrong.add_note("hallmark receiver makes such a file, and brings an older one up to date")
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
