"""What `hallmark doctor` has found, as tests ask for it."""

import json
from collections.abc import Iterable
from typing import Any

from command_line import Result

from hallmark.server.doctor.finding import Finding

__all__ = ["by_name", "only"]


def only(findings: Iterable[Finding]) -> tuple[str, str, str | None]:
    """The one finding there is: its outcome, what it says, and its remedy."""
    [finding] = findings
    return finding.outcome.value, finding.says, finding.remedy


def by_name(result: Result) -> dict[str, dict[str, Any]]:
    """The findings of `hallmark doctor --json` by their names, each of which comes once.

    That the object is whole, and the exit code fits it, is looked at on the way.
    """
    printed = json.loads(result.out)
    assert printed.keys() == {"passed", "findings"}
    found = {finding["name"]: finding for finding in printed["findings"]}
    assert len(found) == len(printed["findings"])
    for finding in found.values():
        assert finding.keys() == {"name", "outcome", "says", "remedy"}
        assert finding["says"]
        assert (finding["remedy"] is not None) == (finding["outcome"] in ("warning", "problem"))
    assert printed["passed"] is all(each["outcome"] != "problem" for each in found.values())
    assert result.code == (0 if printed["passed"] else 1)
    return found
