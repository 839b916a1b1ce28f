"""A fleet as a terminal shows it: a line a node, and what they come to together, in 80 columns."""

import json
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import httpx
from rich.console import Console, RenderableType
from rich.text import Text

from hallmark.poc.core.errors import HallmarkError
from hallmark.server.cli.client import ServerError
from hallmark.server.cli.consoles import WIDE, print_or_drop, results, show
from hallmark.server.cli.fleet.answers import Answer
from hallmark.server.cli.fleet.tally import Tally, groups_of
from hallmark.server.cli.tables import name_table, new_table, text
from hallmark.server.cli.words import counted

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["NodesFailedError", "as_json", "check", "line", "live_view", "print_answers", "show_answers"]

_COLOURS = {"GENERATING": "green", "VALIDATING": "cyan", "STOPPED": "yellow"}
_NAMED = 3
_SHOWN_ROUNDS = 3


class NodesFailedError(HallmarkError):
    """Some nodes of a fleet gave an error; the message names them all."""


def print_answers(answers: Collection[Answer], *, is_json: bool = False) -> None:
    """Print what the nodes of a fleet have answered, and what that comes to.

    Args:
        answers: Of all nodes.
        is_json: An object for each node and one for the fleet, a line each, in the place of the view.

    Raises:
        NodesFailedError: A node gave an error; all is printed then too.
    """
    if is_json:
        print_or_drop("\n".join(as_json(answers)))
    else:
        show_answers(answers)
    check(answers)


def show_answers(answers: Collection[Answer]) -> None:
    """Print the view of a fleet."""
    console = results()
    notes = _notes(answers, console)
    gap = [Text()] if notes else []
    show(console, _nodes(answers, console), Text(), _together(answers), *gap, *notes)


def check(answers: Collection[Answer]) -> None:
    """Let a command fail where a node did.

    Raises:
        NodesFailedError: It did.
    """
    failed = Tally.of(answers).failed
    if not failed:
        return
    error = NodesFailedError(f"{len(failed)} of {counted(len(answers), 'node')} failed: {', '.join(failed)}")
    errors = [answer.error for answer in answers]
    if any(isinstance(each, ServerError) and each.status == httpx.codes.UNAUTHORIZED for each in errors):
        error.add_note("the inventory names tokens by token_env or token_file, for all nodes or for one")
    raise error


def as_json(answers: Collection[Answer]) -> Iterator[str]:
    """Yield a line of JSON for each node, and one for the fleet."""
    for answer in answers:
        node = answer.node
        yield json.dumps(
            {
                "node": node.number,
                "name": node.name,
                "url": node.url,
                "group": node.group,
                "group_number": node.group_number,
                "error": None if answer.error is None else str(answer.error),
                "remarks": answer.remarks,
                "status": answer.status,
            }
        )
    groups = [{"group": label, **tally.as_dict()} for label, tally in groups_of(answers)]
    yield json.dumps({"fleet": Tally.of(answers).as_dict(), "groups": groups})


def line(answers: Collection[Answer]) -> str:
    """Return a fleet as one line, for a log."""
    tally = Tally.of(answers)
    parts = [
        *(f"{state} {count}" for state, count in sorted(tally.states.items())),
        f"checked {counted(tally.checked, 'nonce')}",
        f"{tally.rate:,.1f} nonces/s",
        f"judged {tally.honest:,} honest, {tally.fraud:,} fraud",
        f"callbacks {tally.waiting:,} waiting",
    ]
    if tally.failed:
        parts.append(f"failed: {', '.join(tally.failed)}")
    return text("  ".join(parts)).plain


def live_view(answers: Collection[Answer], console: Console) -> "Table":
    """Return a fleet as a screen holds it: the whole first, then as many nodes as there is room for.

    Those that gave an error or a remark come before the others.
    """
    from rich.table import Table

    together, notes = _together(answers), _notes(answers, console)
    around: list[RenderableType] = [together, *notes]
    taken = sum(len(console.render_lines(each)) for each in around)
    # Beside them an empty line, the table's head, how many are not shown, and where the cursor stands.
    room = console.height - taken - 4
    shown = sorted(answers, key=lambda answer: answer.error is None and not answer.remarks)[: max(1, room)]
    grid = Table.grid()
    grid.add_row(together)
    grid.add_row(Text())
    grid.add_row(_nodes(shown, console))
    if len(shown) < len(answers):
        grid.add_row(
            Text(f"and {counted(len(answers) - len(shown), 'node')} that the screen has no room for")
        )
    for note in notes:
        grid.add_row(note)
    return grid


def _nodes(answers: Collection[Answer], console: Console) -> "Table":
    """Return a table with a row for each node; a wide one has errors in it."""
    is_wide = console.width >= WIDE
    has_groups = len({answer.node.group_number for answer in answers}) > 1
    columns = ["#", "name", *(["group"] if has_groups else []), "state", "nonces", "nonces/s"]
    columns += ["honest", "fraud"]
    columns += ["waiting", "error"] if is_wide else []
    numbers = ("#", "nonces", "nonces/s", "honest", "fraud", "waiting")
    table = new_table(*columns, numbers=numbers, folds=("name", "group", "error"))
    for answer in answers:
        cells = _cells(answer)
        table.add_row(*(cells.get(column, Text()) for column in columns))
    return table


def _cells(answer: Answer) -> dict[str, Text]:
    node, figures = answer.node, answer.figures
    colour = "red" if answer.error is not None else _COLOURS.get(answer.state, "")
    cells = {
        "#": Text(str(node.number)),
        "name": text(node.name),
        "group": text(node.group or ""),
        "state": text(answer.state, colour),
    }
    if answer.error is not None:
        cells["error"] = text(str(answer.error), "red")
    if figures is not None:
        cells |= {
            "nonces": Text(f"{figures.checked:,}"),
            "nonces/s": Text("" if figures.rate is None else f"{figures.rate:,.1f}"),
            "honest": Text(f"{figures.honest:,}"),
            "fraud": Text(f"{figures.fraud:,}", "red" if figures.fraud else ""),
            "waiting": Text(f"{figures.waiting:,}"),
        }
    return cells


def _together(answers: Collection[Answer]) -> "Table":
    """Return what the nodes come to."""
    tally = Tally.of(answers)
    states = [f"{count:,} {state}" for state, count in sorted(tally.states.items())]
    states += [f"{len(tally.failed):,} failed"] if tally.failed else []
    rows: list[tuple[str, RenderableType]] = [("nodes", f"{tally.nodes:,}: {', '.join(states)}")]
    if len(tally.failed) == tally.nodes:
        return name_table(rows)
    rounds = [*_rounds(answers)]
    for height, block, key in rounds[:_SHOWN_ROUNDS]:
        rows += [("block", f"{height}, {block}"), ("public key", key)]
    if len(rounds) > _SHOWN_ROUNDS:
        rows.append(("rounds", f"{len(rounds) - _SHOWN_ROUNDS:,} more"))
    rows.append(("checked", counted(tally.checked, "nonce")))
    rows.append(("rate", f"{tally.rate:,.1f} nonces/s"))
    judged = Text(f"{counted(tally.honest, 'batch')} honest, ")
    judged.append(f"{tally.fraud:,} fraud", "red" if tally.fraud else "")
    rows.append(("judged", judged))
    dead = f", {counted(tally.dead_letters, 'dead letter')}" if tally.dead_letters else ""
    rows.append(("callbacks", f"{tally.delivered:,} delivered, {tally.waiting:,} waiting{dead}"))
    for label, of_group in groups_of(answers):
        failed = f", {len(of_group.failed):,} failed" if of_group.failed else ""
        shown = f"{counted(of_group.nodes, 'node')}{failed}, {counted(of_group.checked, 'nonce')}"
        rows.append(
            ("no group" if label is None else f"group {label}", f"{shown}, {of_group.rate:,.1f} nonces/s")
        )
    return name_table(rows)


def _rounds(answers: Collection[Answer]) -> dict[tuple[str, str, str], None]:
    """Return the rounds that the nodes have: one, where all is as it should be."""
    configs = [answer.status["config"] for answer in answers if answer.status is not None]
    names = ("block_height", "block_hash", "public_key")
    return {
        (str(each["block_height"]), str(each["block_hash"]), str(each["public_key"])): None
        for each in configs
        if each is not None and all(name in each for name in names)
    }


def _notes(answers: Collection[Answer], console: Console) -> list[Text]:
    """Return a sentence for each remark, and for each error that the table has no column for."""
    notes: dict[str, list[str]] = {}
    for answer in answers:
        for remark in answer.remarks:
            notes.setdefault(remark, []).append(answer.node.name)
        if answer.error is not None and console.width < WIDE:
            notes.setdefault(f"error: {answer.error}", []).append(answer.node.name)
    return [text(f"{_some(names)}: {note}") for note, names in notes.items()]


def _some(names: list[str]) -> str:
    """Name those whom a sentence is about: a few, and how many more."""
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED:,} more"
