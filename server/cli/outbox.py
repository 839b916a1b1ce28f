"""`hallmark outbox`: look at the callbacks that a server keeps, and decide about them."""

import json
import os
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hallmark.poc.core.errors import FieldError
from hallmark.poc.outbox.database import OutboxDatabase, default_path
from hallmark.poc.outbox.delivery_queue import Delivery, DeliveryQueue

__all__ = ["drop", "export", "list_", "retry"]

_DEFAULT_PORT = 8000
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))
_COLUMNS = ("id", "kind", "receiver", "age", "attempts", "bytes", "state", "last error")
_NUMBERS = ("id", "age", "attempts", "bytes")

_Outbox = Annotated[
    Path | None, typer.Option("--outbox", metavar="PATH", help="The file, where the settings name one.")
]
_Port = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        help=f"The port of the server whose file it is; neither given: {_DEFAULT_PORT}.",
    ),
]
_Ids = Annotated[list[int] | None, typer.Argument(metavar="ID", help="Which, by their ids.")]
_All = Annotated[bool, typer.Option("--all", help="All of them, queued and dead letters.")]


def list_(
    outbox: _Outbox = None,
    port: _Port = None,
    dead: Annotated[
        bool,
        typer.Option(
            "--dead-letters",
            "--given-up",
            help="Only dead letters, at which no more attempts are made. --given-up is its older name.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as one array of JSON.")] = False,
) -> None:
    """Show the callbacks that a server has not delivered, dead letters too.

    The state is when the next attempt is due or, where no more are made, why: rejected, retries, forbidden.
    The server may run or not.
    """
    with _queue(outbox, port) as queue:
        found = [delivery for delivery in queue.listed() if not dead or delivery.dead_reason is not None]
    if as_json:
        print(json.dumps([_shown(delivery) for delivery in found]))
    elif found:
        Console(soft_wrap=True).print(_table(found, time.time()))
    else:
        typer.echo("there are no dead letters" if dead else "there are no callbacks")


def retry(ids: _Ids = None, every: _All = False, outbox: _Outbox = None, port: _Port = None) -> None:
    """Make callbacks due at once, dead letters too.

    A server that runs delivers them within a second or two; else the next one does.
    """
    _check_choice(ids, every=every)
    with _queue(outbox, port) as queue:
        count = queue.retry(_known(queue, ids))
    typer.echo(f"{_counted(count)} due now")


def drop(
    ids: _Ids = None,
    every: _All = False,
    outbox: _Outbox = None,
    port: _Port = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether all may go.")] = False,
) -> None:
    """Delete callbacks: nobody will get them any more.

    One that is being sent at the moment may still arrive.
    """
    _check_choice(ids, every=every)
    with _queue(outbox, port) as queue:
        chosen = _known(queue, ids)
        if every and not yes:
            totals = queue.receivers().values()
            count = sum(receiver.queued + receiver.dead_letters for receiver in totals)
            _confirm(f"Delete {_counted(count)} for ever?")
        count = queue.drop(chosen)
    typer.echo(f"{_counted(count)} deleted")


def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; - for standard output.")],
    outbox: _Outbox = None,
    port: _Port = None,
) -> None:
    """Write callbacks with their bodies to a file, a JSON object on each line; they stay in the outbox.

    What is there already is replaced.
    """
    with _queue(outbox, port) as queue:
        if file == "-":
            _export(queue, sys.stdout)
            return
        try:
            # Proofs are nobody else's business.
            descriptor = os.open(file, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
            with open(descriptor, "w", encoding="utf-8") as target:
                count = _export(queue, target)
        except OSError as exc:
            raise FieldError("FILE", file, f"a path to write to ({exc.strerror})") from exc
    typer.echo(f"{_counted(count)} written to {file}")


def _confirm(question: str) -> None:
    typer.echo(f"{question} [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        typer.echo("nothing is deleted; --yes deletes without a question", err=True)
        raise typer.Exit(2)


def _export(queue: DeliveryQueue, target: TextIO) -> int:
    count = 0
    for delivery, body in queue.exported():
        line = {
            "webhook_id": delivery.webhook_id,
            "url": delivery.url,
            "kind": delivery.kind,
            "created_at": delivery.created_at,
            "body": body,
        }
        print(json.dumps(line), file=target)
        count += 1
    return count


@contextmanager
def _queue(outbox: Path | None, port: int | None) -> Iterator[DeliveryQueue]:
    """The callbacks of the server that the options name."""
    if outbox is not None and port is not None:
        raise typer.BadParameter("give --outbox or --port, not both")
    if outbox is None:
        port = _DEFAULT_PORT if port is None else port
        path = default_path(port)
        if not path.is_file():
            raise FieldError("--port", port, f"a port with a file {path}; --outbox takes any file")
    elif outbox.is_file():
        path = outbox
    else:
        raise FieldError("--outbox", str(outbox), "the file that a server keeps its callbacks in")
    database = OutboxDatabase(path, for_server=False)
    try:
        yield DeliveryQueue(database)
    finally:
        database.close()


def _check_choice(ids: Collection[int] | None, *, every: bool) -> None:
    if bool(ids) == every:
        raise typer.BadParameter("give the ids of callbacks, or --all")


def _known(queue: DeliveryQueue, ids: Collection[int] | None) -> list[int] | None:
    """The ids, each once; None for all.

    Raises:
        FieldError: There are others among them than those of callbacks.
    """
    if not ids:
        return None
    chosen = [*dict.fromkeys(ids)]
    known = {delivery.id for delivery in queue.listed()}
    unknown = [identifier for identifier in chosen if identifier not in known]
    if unknown:
        raise FieldError("ID", unknown, "ids that hallmark outbox list shows")
    return chosen


def _counted(count: int) -> str:
    return f"{count} callback" if count == 1 else f"{count} callbacks"


def _table(deliveries: Collection[Delivery], now: float) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", overflow="fold")
    for delivery in deliveries:
        table.add_row(
            str(delivery.id),
            delivery.kind,
            escape(delivery.url),
            _span(now - delivery.created_at),
            str(delivery.attempts),
            f"{delivery.size:,}",
            _state(delivery, now),
            escape(delivery.last_error or "-"),
        )
    return table


def _shown(delivery: Delivery) -> dict[str, object]:
    """All fields; `not_before` is when the next attempt is due, and `given_up` older for `dead_reason`."""
    return {**asdict(delivery), "not_before": delivery.due_at, "given_up": delivery.dead_reason}


def _state(delivery: Delivery, now: float) -> str:
    """When the next attempt is due, or the word for why there is none."""
    if delivery.dead_reason is not None:
        return delivery.dead_reason
    return "due" if delivery.due_at <= now else f"in {_span(delivery.due_at - now)}"


def _span(seconds: float) -> str:
    """A time in its largest unit that is not below 1, rounded down."""
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
