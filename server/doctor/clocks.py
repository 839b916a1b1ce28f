"""Whether another machine's clock agrees with this one's."""

from typing import Final

from hallmark.server.cli.words import span
from hallmark.server.doctor.finding import Finding

__all__ = ["problem_of_clock"]

_MAX_DIFFERENCE: Final = 30.0
"""Seconds; signatures hold for five minutes."""


def problem_of_clock(whose: str, difference: float) -> Finding | None:
    """Return what is wrong with a clock; None where nothing is.

    Args:
        whose: The machine's, as in `clock of the receiver`.
        difference: Seconds from this one's, either way.
    """
    if difference <= _MAX_DIFFERENCE:
        return None
    return Finding.problem(
        f"clock of the {whose}",
        f"{span(difference)} from this one: signatures are refused from 5 min on",
        "run a time service on both machines",
    )
