"""What a table of a document shows of a results file, and in which form."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


def text(value: Any) -> str:
    """As it is."""
    return str(value)


def number(digits: int) -> Callable[[Any], str]:
    """With so many digits after the point."""
    return lambda value: f"{value:,.{digits}f}"


def significant(digits: int) -> Callable[[Any], str]:
    """With so many significant digits, in scientific notation where it is shorter."""
    return lambda value: f"{value:.{digits}g}"


def percent(digits: int) -> Callable[[Any], str]:
    """Return a share in percent, with so many digits after the point."""
    return lambda value: f"{value:.{digits}%}"


def mebibytes(value: Any) -> str:
    """Return bytes as MiB."""
    return f"{value / 2**20:,.1f}"


def numbers(digits: int) -> Callable[[Any], str]:
    """Several, with so many digits after the point."""
    return lambda values: " / ".join(f"{value:,.{digits}f}" for value in values)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a document.

    Attributes:
        bench: Whose results it shows.
        columns: Header, key in a row and form of each column; a column that no row has is left out.
        rows: The key of the rows in the file.
        where: Which rows are shown; the file has all of them.
        least: Where stated, the five of them with the least values under this key are shown.
    """

    bench: str
    columns: tuple[tuple[str, str, Callable[[Any], str]], ...]
    rows: str = "rows"
    where: Callable[[Mapping[str, Any]], bool] = bool
    least: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a summary: one row of a results file.

    Attributes:
        words: What the line is about, in Markdown.
        bench: Whose results it shows.
        where: Which row; the first of those that it holds for.
        more: Form of a cell from the row, by the header of its column.
    """

    words: str
    bench: str
    where: Callable[[Mapping[str, Any]], bool]
    more: Mapping[str, Callable[[Mapping[str, Any]], str]]


@dataclass(frozen=True, slots=True)
class Summary:
    """A table of a document whose lines are from several results files.

    Attributes:
        header: Of the first column.
        lines: Its lines, all with the same further columns.
    """

    header: str
    lines: tuple[Line, ...]
