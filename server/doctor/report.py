"""Findings as people read them, and as programs do."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hallmark.server.cli.tables import text
from hallmark.server.cli.words import counted
from hallmark.server.doctor.finding import Finding, Outcome

__all__ = ["as_json", "view"]

_MARKS: Final[Mapping[Outcome, tuple[str, str]]] = MappingProxyType(
    {
        Outcome.OK: ("✓", "green"),
        Outcome.WARNING: ("!", "yellow"),
        Outcome.PROBLEM: ("✗", "red"),
        Outcome.SKIPPED: ("-", "dim"),
    }
)


def view(findings: Sequence[Finding]) -> RenderableType:
    """Return a table of findings, a remedy below what needs one, and how many there are."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.outcome]
        table.add_row(Text(mark, style), Text(finding.name, "bold"), text(finding.says))
        if finding.remedy is not None:
            table.add_row("", "", Text("→ ", style).append_text(text(finding.remedy)))
    return Group(table, Text(), _summary(findings))


def _summary(findings: Sequence[Finding]) -> Text:
    count = Counter(finding.outcome for finding in findings)
    parts = [
        counted(count[Outcome.PROBLEM], "problem") if count[Outcome.PROBLEM] else "No problem",
        counted(count[Outcome.WARNING], "warning"),
        f"{count[Outcome.OK]} in order",
    ]
    if count[Outcome.SKIPPED]:
        parts.append(f"{count[Outcome.SKIPPED]} not looked at")
    return Text(", ".join(parts) + ".")


def as_json(findings: Sequence[Finding], *, passed: bool) -> str:
    """Return findings as a JSON object on one line.

    Args:
        findings: In their order.
        passed: Whether there is no problem among them.
    """
    found: list[dict[str, Any]] = [
        {"name": each.name, "outcome": each.outcome, "says": each.says, "remedy": each.remedy}
        for each in findings
    ]
    return json.dumps({"passed": passed, "findings": found})
