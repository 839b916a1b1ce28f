"""`hallmark outbox`: look at the callbacks that a server keeps, and decide about them."""

import json
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hallmark.poc.core.errors import FieldError
from hallmark.server.cli.consoles import WIDE, AsJson, print_or_drop, results, say, show
from hallmark.server.cli.json_lines import write_lines
from hallmark.server.cli.outbox_file import OutboxFile, OutboxPort, opened
from hallmark.server.cli.words import counted, size, span

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from hallmark.poc.outbox.delivery_queue import Delivery, DeliveryQueue

__all__ = ["drop", "export", "list_", "retry"]

_Ids = Annotated[list[int] | None, typer.Argument(metavar="ID", help="Which, by their ids.")]
_All = Annotated[bool, typer.Option("--all", help="All of them, queued and dead letters.")]


def list_(
    outbox: OutboxFile = None,
    port: OutboxPort = None,
    dead: Annotated[
        bool,
        typer.Option(
            "--dead-letters",
            "--given-up",
            help="Only dead letters, at which no more attempts are made. --given-up is its older name.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the callbacks that are not delivered.

    A receiver gets them in the order of their ids: all but the first wait for an earlier one. Of a dead
    letter, which is among them, it says why no more attempts are made: rejected, retries, forbidden. The
    server may run or not.
    """
    with _queue(outbox, port) as queue:
        found = [delivery for delivery in queue.listed() if not dead or delivery.dead_reason is not None]
    if as_json:
        print_or_drop(json.dumps([_shown(delivery) for delivery in found]))
    elif found:
        console = results()
        show(console, *_views(found, time.time(), is_wide=console.width >= WIDE))
    else:
        print_or_drop("there are no dead letters" if dead else "there are no callbacks")


def retry(ids: _Ids = None, every: _All = False, outbox: OutboxFile = None, port: OutboxPort = None) -> None:
    """Make callbacks due at once, dead letters too.

    A server that runs delivers them within a second or two; else the next one does.
    """
    _check_choice(ids, every=every)
    with _queue(outbox, port) as queue:
        count = queue.retry(_known(queue, ids))
    print_or_drop(f"{counted(count, 'callback')} due now")


def drop(
    ids: _Ids = None,
    every: _All = False,
    outbox: OutboxFile = None,
    port: OutboxPort = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether all may go.")] = False,
) -> None:
    """Delete callbacks; nobody will get them any more.

    One that is being sent at the moment may still arrive.
    """
    _check_choice(ids, every=every)
    with _queue(outbox, port) as queue:
        chosen = _known(queue, ids)
        if every and not yes:
            totals = queue.receivers().values()
            count = sum(receiver.queued + receiver.dead_letters for receiver in totals)
            _confirm(f"Delete {counted(count, 'callback')} for ever?")
        count = queue.drop(chosen)
    print_or_drop(f"{counted(count, 'callback')} deleted")


def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; - for standard output.")],
    outbox: OutboxFile = None,
    port: OutboxPort = None,
) -> None:
    """Write callbacks with their bodies to a file.

    It has a JSON object on each line; the callbacks stay in the outbox. What is there already is replaced.
    """
    from hallmark.poc.outbox.delivery_queue import DeliveryQueue

    with opened(outbox, port) as database:
        write_lines(file, _exported(DeliveryQueue(database)), Path(str(database)), "callback")


def _confirm(question: str) -> None:
    typer.echo(f"{question} [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        say("nothing is deleted; --yes deletes without a question")
        raise typer.Exit(2)


def _exported(queue: "DeliveryQueue") -> Iterator[dict[str, object]]:
    """Yield callbacks with their bodies, as they are written to files."""
    for delivery, body in queue.exported():
        yield {
            "webhook_id": delivery.webhook_id,
            "request_id": delivery.request_id,
            "url": delivery.url,
            "kind": delivery.kind,
            "created_at": delivery.created_at,
            "body": body,
        }


@contextmanager
def _queue(outbox: Path | None, port: int | None) -> Iterator["DeliveryQueue"]:
    """Open the callbacks of the server that the options name."""
    from hallmark.poc.outbox.delivery_queue import DeliveryQueue

    with opened(outbox, port) as database:
        yield DeliveryQueue(database)


def _check_choice(ids: Collection[int] | None, *, every: bool) -> None:
    if bool(ids) == every:
        raise typer.BadParameter("give the ids of callbacks, or --all")


def _known(queue: "DeliveryQueue", ids: Collection[int] | None) -> list[int] | None:
    """Return the ids, each once; None for all.

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


def _views(deliveries: Collection["Delivery"], now: float, *, is_wide: bool) -> Iterator["Table | Text"]:
    """Yield a heading for each receiver, and a table of what is to go there."""
    from hallmark.server.cli.tables import text

    for url in dict.fromkeys(delivery.url for delivery in deliveries):
        its_own = [delivery for delivery in deliveries if delivery.url == url]
        total = sum(delivery.size for delivery in its_own)
        yield text(f"{url}: {counted(len(its_own), 'callback')}, {size(total)}", "bold")
        yield _table(its_own, now, is_wide=is_wide)


def _table(deliveries: Collection["Delivery"], now: float, *, is_wide: bool) -> "Table":
    from hallmark.server.cli.tables import new_table, text

    columns = ["id", "kind", "age", "tries", "size", "next attempt", "last error"]
    if is_wide:
        columns.insert(-1, "webhook-id")
    table = new_table(*columns, numbers=("id", "tries", "size"), folds=("last error",))
    first = next((delivery for delivery in deliveries if delivery.dead_reason is None), None)
    for delivery in deliveries:
        cells = {
            "id": str(delivery.id),
            "kind": delivery.kind,
            "age": span(now - delivery.created_at),
            "tries": str(delivery.attempts),
            "size": size(delivery.size),
            "next attempt": _next_attempt(delivery, first, now),
            "webhook-id": delivery.webhook_id,
            "last error": delivery.last_error or "-",
        }
        table.add_row(*(text(cells[column]) for column in columns))
    return table


def _shown(delivery: "Delivery") -> dict[str, object]:
    """Return all fields.

    `not_before` is when the next attempt is due, and `given_up` older for `dead_reason`.
    """
    return {**asdict(delivery), "not_before": delivery.due_at, "given_up": delivery.dead_reason}


def _next_attempt(delivery: "Delivery", first: "Delivery | None", now: float) -> str:
    """Say when a callback is sent, or why it is not.

    Args:
        delivery: The callback.
        first: The one that its receiver gets next.
        now: Seconds since the epoch.
    """
    if delivery.dead_reason is not None:
        return f"none: {delivery.dead_reason}"
    if first is not None and delivery.id != first.id:
        return f"waits for {first.id}"
    return "due" if delivery.due_at <= now else f"in {span(delivery.due_at - now)}"
