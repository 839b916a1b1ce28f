"""The database of the queue, which is that of the receivers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hallmark.poc.core.errors import FieldError
from hallmark.server.cli.receiver.options import DATABASE_VARIABLE

if TYPE_CHECKING:
    from hallmark.server.receiver.store import BatchStore

__all__ = ["QueueDatabase", "opened"]

QueueDatabase = Annotated[
    str,
    typer.Option(
        "--database",
        metavar="URL",
        envvar=DATABASE_VARIABLE,
        show_envvar=True,
        help="The postgresql:// URL of the database that receivers keep batches in.",
    ),
]


@contextmanager
def opened(database: str) -> "Iterator[BatchStore]":
    """Open the receivers' store for its queue.

    Raises:
        FieldError: It is a file, or the database cannot be used.
        UnsupportedError: psycopg is not installed.
    """
    from hallmark.server.cli.receiver import batch_file
    from hallmark.server.receiver.database import address

    if isinstance(address(database), Path):
        raise FieldError("--database", database, "a postgresql:// URL: the queue is kept in PostgreSQL")
    with batch_file.opened(database) as store:
        yield store
