"""How commands tell verdicts: a table that fits the terminal, colours, exit codes."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from hallmark.server.cli.consoles import WIDE

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "STYLES",
    "VerdictRow",
    "exit_code",
    "legend",
    "p_value",
    "rejection",
    "row_notes",
    "shortened",
    "verdict_table",
]

STYLES: Final[Mapping[str, str]] = MappingProxyType(
    {"honest": "green", "fraud": "red", "no_verdict": "yellow", "refused": "yellow", "error": "yellow"}
)
"""The colour of a verdict's row."""

_LEGEND: Final = (
    "RMS error: in s, the standard deviation of an unrelated number or distance.",
    "p-value: how often an honest node looks this bad by chance.",
)
"""Lines, which have to fit 80 columns as they are: off a terminal none is folded."""

_SMALLEST: Final = 1e-300
"""p-values below come out as 0, which none is."""

_MAX_KEY: Final = 16


@dataclass(frozen=True, kw_only=True)
class VerdictRow:
    """A verdict as a table shows it.

    Attributes:
        label: Which proof it is about.
        public_key: Whose.
        block_height: Of which block.
        nonces: How many were judged.
        verdict: `honest`, `fraud`, `no_verdict`, or why there is none: `refused`, `error`.
        n_invalid: Nonces whose claim is not confirmed; None without a verdict.
        n_failed: Nonces that could not be recomputed; None without a verdict.
        error_rms: RMS of the errors, in s.
        tests: p-values by test.
        p_value: Of all tests together.
    """

    label: str
    public_key: str
    block_height: int
    nonces: int
    verdict: str
    n_invalid: int | None = None
    n_failed: int | None = None
    error_rms: float | None = None
    tests: Mapping[str, float] = field(default_factory=dict)
    p_value: float | None = None


def verdict_table(rows: Sequence[VerdictRow], width: int) -> "Table":
    """Return a table of verdicts; with 120 columns it has a column for each test.

    Args:
        rows: The verdicts.
        width: Columns of the terminal.
    """
    from hallmark.server.cli.tables import new_table, text

    tests = dict.fromkeys(test for row in rows for test in row.tests) if width >= WIDE else {}
    columns = ["proof", "public key", "block", "nonces", "invalid"]
    columns += ["failed"] if width >= WIDE else []
    columns += ["RMS error", *(f"p {_words(test)}" for test in tests), "p-value", "verdict"]
    texts = ("proof", "public key", "verdict")
    table = new_table(
        *columns, numbers=[each for each in columns if each not in texts], folds=("public key",)
    )
    table.padding = (0, 1, 0, 0)
    for row in rows:
        cells = [row.label, shortened(row.public_key), str(row.block_height), f"{row.nonces:,}"]
        cells.append(_count(row.n_invalid))
        cells += [_count(row.n_failed)] if width >= WIDE else []
        cells.append("" if row.error_rms is None else f"{row.error_rms:.3f} s")
        cells += [p_value(row.tests.get(test)) for test in tests]
        cells += [p_value(row.p_value), _words(row.verdict)]
        table.add_row(*map(text, cells), style=STYLES[row.verdict])
    return table


def legend(rows: Sequence[VerdictRow]) -> "Iterator[Text]":
    """Yield what the units of a table are, where there is a verdict in it."""
    from rich.text import Text

    if any(row.p_value is not None for row in rows):
        yield from (Text(line, "dim") for line in _LEGEND)


def row_notes(row: VerdictRow, width: int) -> Iterator[str]:
    """Yield what a row has no room for."""
    if shortened(row.public_key) != row.public_key:
        yield f"public key {row.public_key}"
    if width < WIDE and row.tests:
        yield "p-values: " + ", ".join(
            f"{_words(test)} {p_value(value)}" for test, value in row.tests.items()
        )


def shortened(public_key: str) -> str:
    """Return a public key as a table has room for it: its ends, where it is long."""
    if len(public_key) <= _MAX_KEY:
        return public_key
    half = _MAX_KEY // 2
    return f"{public_key[:half]}…{public_key[1 - half :]}"


def rejection(tests: Collection[str]) -> str:
    """Return which tests bring a verdict of fraud, in words."""
    return f"rejected by {', '.join(map(_words, tests))}"


def p_value(value: float | None, digits: int = 3) -> str:
    """Return a p-value as a table shows it, with so many digits; empty for none."""
    if value is None:
        return ""
    return f"{value:.{digits}g}" if value > _SMALLEST else f"< {_SMALLEST:g}"


def exit_code(verdicts: Collection[str]) -> int:
    """Return 0 where all are honest, 1 with fraud among them, else 2; an error counts as no verdict."""
    if "fraud" in verdicts:
        return 1
    return 0 if set(verdicts) == {"honest"} else 2


def _count(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _words(name: str) -> str:
    return name.replace("_", " ")
