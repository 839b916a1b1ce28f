"""How far a round is to go: so many nonces, or so long."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

import typer

from hallmark.poc.core.errors import FieldError
from hallmark.server.cli.words import counted, span

__all__ = ["Goal", "Until"]

Until = Annotated[
    str | None,
    typer.Option(
        metavar="N|TIME",
        help="Follow the round and stop it at the end of a batch, once so many nonces are checked (10000), "
        "or so long since it, or its server, was started (90s, 5min, 2h).",
    ),
]

_SECONDS: Final = {"s": 1, "min": 60, "h": 3_600}


@dataclass(frozen=True, slots=True)
class Goal:
    """Where a round is to be stopped.

    Attributes:
        amount: Nonces checked, or seconds since the round's start.
        is_time: Whether it is seconds.
    """

    amount: int
    is_time: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what --until was given.

        Raises:
            FieldError: It is neither a number of nonces nor a time.
        """
        match = re.fullmatch(r"([1-9][0-9]{0,14})(?: ?(s|min|h))?", text)
        if match is None:
            raise FieldError(
                "--until", text, "a number of nonces such as 10000, or a time such as 90s, 5min or 2h"
            )
        return cls(int(match[1]) * _SECONDS.get(match[2], 1), match[2] is not None)

    def __str__(self) -> str:
        return span(self.amount) if self.is_time else counted(self.amount, "nonce")

    def reached(self, status: Mapping[str, Any]) -> float:
        """Return how much of it a round has done, in its own unit."""
        return float(status["elapsed_seconds" if self.is_time else "total_checked"])

    def is_reached(self, status: Mapping[str, Any]) -> bool:
        """Tell whether a round is to be stopped now."""
        return self.reached(status) >= self.amount

    def seconds_left(self, status: Mapping[str, Any], rate: float) -> float | None:
        """Return how long it still takes.

        Args:
            status: Of the round.
            rate: Nonces in a second.

        Returns:
            Seconds; None where the rate is not known yet.
        """
        left = max(0.0, self.amount - self.reached(status))
        if self.is_time:
            return left
        return left / rate if rate > 0 else None
