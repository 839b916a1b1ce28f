"""What an examination has found, and what to do about it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from hallmark.poc.core.errors import HallmarkError

__all__ = ["Examination", "Finding", "Outcome", "examine"]


class Outcome(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    WARNING = "warning"
    """It works, and something is not as it should be."""
    PROBLEM = "problem"
    """A node could not prove itself, or would lose proofs."""
    SKIPPED = "skipped"
    """It was not looked at, for want of something."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What.
        outcome: How it is.
        says: What was found, in a sentence or less; no secret is in it.
        remedy: What to do, where something is to be done.
    """

    name: str
    outcome: Outcome
    says: str
    remedy: str | None = None

    @classmethod
    def ok(cls, name: str, says: str) -> "Finding":
        """Return that something is in order."""
        return cls(name, Outcome.OK, says)

    @classmethod
    def warning(cls, name: str, says: str, remedy: str) -> "Finding":
        """Return that something works, and should be better."""
        return cls(name, Outcome.WARNING, says, remedy)

    @classmethod
    def problem(cls, name: str, says: str, remedy: str) -> "Finding":
        """Return that something does not work."""
        return cls(name, Outcome.PROBLEM, says, remedy)

    @classmethod
    def skipped(cls, name: str, says: str) -> "Finding":
        """Return that something was not looked at, and why."""
        return cls(name, Outcome.SKIPPED, says)


Examination = Callable[[], Iterable[Finding]]
"""Looks at one thing; an error of Hallmark's that it raises is a problem, whose notes are the remedy."""


def examine(name: str, examination: Examination, remedy: str) -> list[Finding]:
    """Run an examination to its end, whatever it meets: the others are to be run too.

    Args:
        name: What it looks at.
        examination: What looks.
        remedy: What to do where it ends with an error that has no remedy of its own.
    """
    try:
        return list(examination())
    except HallmarkError as exc:
        notes = getattr(exc, "__notes__", ())
        return [Finding.problem(name, str(exc), "; ".join(notes) or remedy)]
    except Exception as exc:  # noqa: BLE001  # told as what it is
        return [Finding.problem(name, f"{type(exc).__name__}: {exc}", remedy)]
