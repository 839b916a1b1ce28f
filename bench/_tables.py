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


def percent(digits: int) -> Callable[[Any], str]:
    """A share in percent, with so many digits after the point."""
    return lambda value: f"{value:.{digits}%}"


def mebibytes(value: Any) -> str:
    """Bytes as MiB."""
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
