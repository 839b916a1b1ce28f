"""Values as people read them: counts with their nouns, times and sizes with their units, others' texts."""

from itertools import pairwise
from typing import Final

__all__ = ["counted", "explained", "printable", "size", "span", "yes_or_no"]

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60))


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: 1 callback, 1,200 callbacks, 2 batches."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}es" if noun.endswith(("ch", "s", "x")) else f"{count:,} {noun}s"


def span(seconds: float) -> str:
    """Return a time in its largest unit that is not below 1, and the next smaller one: 2 h 5 min, 12 s."""
    left = max(0, int(seconds))
    lengths = (*_UNITS, ("s", 1))
    for (unit, length), (smaller, its_length) in pairwise(lengths):
        if left >= length:
            rest = left % length // its_length
            return f"{left // length} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{left} s"


def size(count: int) -> str:
    """Return a number of bytes in decimal units: 999 B, 12.3 kB, 4.0 MB."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if round(value, 1) < 1_000:
            break
        value, unit = value / 1_000, larger
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def yes_or_no(value: bool) -> str:
    """Return what a truth value is in a table."""
    return "yes" if value else "no"


def explained(error: BaseException) -> str:
    """Return what an error says, and after it what was noted as a next step."""
    return "; ".join([str(error), *getattr(error, "__notes__", ())])


def printable(value: str) -> str:
    """Return a text that somebody else chose without what a terminal obeys; lines stay lines."""
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in value)
