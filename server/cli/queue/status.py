"""`hallmark queue status`: what has become of orders."""

import json
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hallmark.poc.core.errors import FieldError
from hallmark.server.cli.consoles import WIDE, AsJson, print_or_drop, results, show
from hallmark.server.cli.queue.queue_database import QueueDatabase, opened
from hallmark.server.cli.verdicts import p_value

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["status"]

_ORDER_COLUMNS: Final = ("order", "age", "batches", "honest", "fraud", "no verdict", "jobs left")
_PROVER_COLUMNS: Final = ("verdict", "p-value", "nonces", "batches", "refused")


def status(
    database: QueueDatabase,
    order: Annotated[
        int | None, typer.Argument(metavar="ORDER", help="Show the provers of this one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what has become of orders.

    Of one order it shows what the batches of each prover come to together. A batch without a verdict is
    refused, or too many of its nonces failed.
    """
    from hallmark.server.verification.progress import order_provers, order_rows

    with opened(database) as store:
        rows = order_rows(store.database, order)
        if order is not None:
            if not rows:
                raise FieldError("ORDER", order, "an order that hallmark queue status shows")
            rows = order_provers(store.database, order)
    if as_json:
        print_or_drop(json.dumps(rows))
    elif rows:
        show(results(), _orders(rows, time.time()) if order is None else _provers(rows))
    else:
        print_or_drop("there are no orders" if order is None else "the order is not planned yet")


def _orders(rows: Iterable[Mapping[str, Any]], now: float) -> "Table":
    from hallmark.server.cli.tables import new_table, text
    from hallmark.server.cli.words import span

    wide = results().width >= WIDE
    more = ("provers", "convicted", "given up", "leased", "randomness") if wide else ()
    numbers = frozenset({*_ORDER_COLUMNS, *more} - {"randomness"})
    table = new_table(
        *_ORDER_COLUMNS, *more, "block hash", numbers=numbers, folds=("randomness", "block hash")
    )
    for row in rows:
        is_planned = row["planned_at"] is not None
        counts = (
            row["batches"],
            row["verdicts"] - row["fraud_verdicts"],
            row["fraud_verdicts"],
            row["no_verdict"],
            row["jobs"] - row["jobs_ended"],
        )
        shown = [f"{count:,}" if is_planned else "-" for count in counts]
        if wide:
            names = ("provers", "provers_convicted", "jobs_given_up", "jobs_leased")
            shown += [f"{row[name]:,}" for name in names]
        randomness = [text(row["draw"]["randomness"])] if wide else []
        table.add_row(
            str(row["order"]),
            span(now - row["ordered_at"]),
            *shown,
            *randomness,
            text(row["block_hash"]),
        )
    return table


def _provers(rows: Iterable[Mapping[str, Any]]) -> "Table":
    from hallmark.server.cli.tables import new_table, text

    table = new_table(
        *_PROVER_COLUMNS, "public key", numbers=frozenset(_PROVER_COLUMNS[1:]), folds=("public key",)
    )
    for row in rows:
        found = row["conclusion"]
        if found is None:
            shown = (f"open ({row['open_batches']:,})", "-", "-", "-", "-")
        else:
            chance = found["probability_honest"]
            shown = (
                found["verdict"].replace("_", " "),
                "-" if chance is None else p_value(chance, digits=2),
                f"{found['n_judged']:,}",
                f"{found['batches']:,}",
                f"{found['refused']:,}",
            )
        table.add_row(*shown, text(row["public_key"]))
    return table
