"""Tables that fold what is too long, of texts that somebody else may have chosen."""

from collections.abc import Collection, Iterable

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from hallmark.server.cli.words import printable

__all__ = ["name_table", "new_table", "text"]


def new_table(*headings: str, numbers: Collection[str] = (), folds: Collection[str] = ()) -> Table:
    """Return a table without frames, whose cells are never cut.

    Args:
        headings: Of all columns.
        numbers: Those of columns of numbers, which stand on the right.
        folds: Those of columns that become narrower where the terminal is; the others keep their width.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(
            heading,
            justify="right" if heading in numbers else "left",
            overflow="fold",
            no_wrap=heading not in folds,
        )
    return table


def name_table(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Return a table of names and values; texts are shown as `text` has them."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, text(value) if isinstance(value, str) else value)
    return table


def text(value: str, style: str = "") -> Text:
    """Return what somebody sent as it may be shown: no markup, and nothing that a terminal obeys."""
    return Text(printable(value).replace("\n", "\\n"), style)
