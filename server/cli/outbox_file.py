"""The file of a server's outbox and journal, as commands open it: beside the server, or without it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from hallmark.poc.core.errors import FieldError

if TYPE_CHECKING:
    from hallmark.poc.outbox.database import OutboxDatabase

__all__ = ["OutboxFile", "OutboxPort", "opened"]

_DEFAULT_PORT: Final = 8000

OutboxFile = Annotated[
    Path | None, typer.Option("--outbox", metavar="PATH", help="The file, where the settings name one.")
]
OutboxPort = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        metavar="PORT",
        help=f"The port of the server whose file it is; neither given: {_DEFAULT_PORT}.",
    ),
]


@contextmanager
def opened(outbox: Path | None, port: int | None) -> Iterator["OutboxDatabase"]:
    """Open the file that the options name; it is neither made nor brought up to date.

    Raises:
        FieldError: There is no such file.
        OutboxError: It cannot be read, or is none of ours.
    """
    from hallmark.poc.outbox.database import OutboxDatabase, default_path

    if outbox is not None and port is not None:
        raise typer.BadParameter("give --outbox or --port, not both")
    if outbox is None:
        port = _DEFAULT_PORT if port is None else port
        path = default_path(port)
        if not path.is_file():
            error = FieldError("--port", port, f"a port with a file {path}; --outbox takes any file")
            error.add_note("hallmark serve makes the file; run this as the server's user")
            raise error
    elif outbox.is_file():
        path = outbox
    else:
        raise FieldError("--outbox", str(outbox), "the file that a server keeps its callbacks in")
    with closing(OutboxDatabase(path, for_server=False)) as database:
        yield database
