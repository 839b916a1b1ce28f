"""`hallmark round list`: the rounds that a server has run."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from hallmark.server.cli.consoles import WIDE, AsJson, print_or_drop, results, show
from hallmark.server.cli.outbox_file import OutboxFile, OutboxPort, opened
from hallmark.server.cli.words import span

if TYPE_CHECKING:
    from rich.table import Table

    from hallmark.poc.outbox.round_journal import JournaledRound

__all__ = ["list_"]


def list_(outbox: OutboxFile = None, port: OutboxPort = None, as_json: AsJson = False) -> None:
    """Show the rounds that a server has run, the latest first.

    An open round runs, or its server ended in it. The journal lies in the file of the outbox and has the
    latest 1,000 rounds; the server may run or not.
    """
    from hallmark.poc.outbox.round_journal import journaled_rounds

    with opened(outbox, port) as database:
        rounds = journaled_rounds(database)
    if as_json:
        print_or_drop(json.dumps([asdict(round_) for round_ in rounds]))
    elif rounds:
        console = results()
        show(console, _table(rounds, time.time(), is_wide=console.width >= WIDE))
    else:
        print_or_drop("there are no rounds")


def _table(rounds: "Sequence[JournaledRound]", now: float, *, is_wide: bool) -> "Table":
    from hallmark.server.cli.tables import new_table, text

    columns = ["id", "block", "checked", "valid", "begun"]
    columns += ["failed", "phase", "took", "block hash"] if is_wide else []
    columns += ["state", "public key"]
    numbers = ("id", "block", "checked", "valid", "failed", "begun", "took")
    table = new_table(*columns, numbers=numbers, folds=("state", "public key", "block hash"))
    for each in rounds:
        cells = {
            "id": str(each.id),
            "block": str(each.config.get("block_height", "")),
            "checked": f"{each.checked:,}",
            "valid": f"{each.valid:,}",
            "failed": f"{each.failed:,}",
            "begun": f"{span(now - each.begun_at)} ago",
            "phase": each.phase.lower(),
            "took": span(each.updated_at - each.begun_at),
            "block hash": str(each.config.get("block_hash", "")),
            "state": ("over" if each.is_over else "open") + (f": {each.reason}" if each.reason else ""),
            "public key": str(each.config.get("public_key", "")),
        }
        table.add_row(*(text(cells[column]) for column in columns))
    return table
