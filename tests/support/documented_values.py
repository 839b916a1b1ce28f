"""Values that documents mark for tests: ``<!-- value:NAME -->0.35``, in prose and in tables.

A reader does not see the mark. A test reads the value by its name, so that the sentence around it is free.
"""

import re
from typing import Final

__all__ = ["power_of_ten", "values"]

_MARK: Final = re.compile(
    r"""
    <!--\ value:(?P<name>[a-z0-9_]+)\ -->
    (?: `(?P<code>[^`\n]+)`
      | (?P<number>-?\d+(?:,\d{3})*(?:\.\d+)?(?:·10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)?)
    )
    """,
    re.VERBOSE,
)
_BEGUN: Final = re.compile(r"<!--\s*value\b")
# Markdown takes a line that begins with a comment for HTML, and its links and emphasis for text.
_BEGINS_A_LINE: Final = re.compile(r"^[ \t>]*(?:(?:[-*+]|\d+\.)[ \t]+)?<!--\s*value\b.*$", re.MULTILINE)
_SUPERSCRIPT: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def values(*pages: str) -> dict[str, str]:
    """Return the marked values of pages by their names: numbers as they stand there, or what code spans hold.

    Args:
        pages: Their text, in Markdown.

    Raises:
        ValueError: There is no value behind a mark, a mark begins a line, or two of a name differ.
    """
    found: dict[str, str] = {}
    for page in pages:
        for line in _BEGINS_A_LINE.findall(page):
            raise ValueError(f"a mark begins a line: {line.strip()}")
        matches = list(_MARK.finditer(page))
        starts = {match.start() for match in matches}
        for begun in _BEGUN.finditer(page):
            if begun.start() not in starts:
                raise ValueError(f"no value behind the mark: {page[begun.start() :][:60]!r}")
        for match in matches:
            name, value = match["name"], match["code"] or match["number"]
            if found.setdefault(name, value) != value:
                raise ValueError(f"{name} is {found[name]} and {value}")
    return found


def power_of_ten(value: float) -> str:
    """Return a value with one digit as documents write it: ``5·10⁻⁴`` for 0.0005."""
    digit, _, exponent = f"{value:.0e}".partition("e")
    return f"{digit}·10{str(int(exponent)).translate(_SUPERSCRIPT)}"
