"""What a node did in the last hours: a row every few seconds, bounded."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from hallmark.poc.rounds.active_round import ActiveRound
from hallmark.poc.rounds.manager import PoCManager
from hallmark.server.http.inference_tokens import generated_tokens
from hallmark.server.http.status import snapshot

__all__ = ["COLUMNS", "ROW_SECONDS", "NodeHistory"]

ROW_SECONDS: Final = 5
_KEPT_SECONDS: Final = 3 * 3600

COLUMNS: Final = (
    "time",
    "total_checked",
    "total_valid",
    "generated_per_second",
    "validated_per_second",
    "tokens_per_second",
    "connections",
    "share_used",
    "stall_p99_ms",
    "queued_nonces",
    "callbacks_queued",
    "callbacks_oldest_age",
)
"""What a row has: the time in seconds since the epoch, rates over the time since the row before, and what
`/status` said then."""

Row = tuple[float | None, ...]


class NodeHistory:
    """Rows of the last three hours; a restart begins anew.

    Args:
        clock: Seconds on a clock that never goes back.
        now: Seconds since the epoch.
        tokens: Tokens that inference has generated so far; None where nobody counts them.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        tokens: Callable[[], float | None] = generated_tokens,
    ) -> None:
        self._clock = clock
        self._now = now
        self._tokens = tokens
        self._rows: deque[Row] = deque(maxlen=_KEPT_SECONDS // ROW_SECONDS)
        self._before: _Totals | None = None

    @property
    def latest(self) -> Row | None:
        """The latest row."""
        return self._rows[-1] if self._rows else None

    def note(self, manager: PoCManager) -> None:
        """Add a row."""
        status = snapshot(manager)
        totals = _Totals(
            self._clock(),
            manager.active,
            status["total_checked"],
            status["validation"]["checked_nonces"],
            self._tokens(),
        )
        generated, validated, tokens = totals.rates_since(self._before)
        self._before = totals
        validation, callbacks = status["validation"], status["callbacks"]
        row = (
            self._now(),
            status["total_checked"],
            status["total_valid"],
            generated,
            validated,
            tokens,
            status["inference"]["connections"],
            validation["share_used"],
            validation["stall_ms"]["p99"],
            validation["queued_nonces"],
            callbacks["queued"],
            callbacks["oldest_age"],
        )
        self._rows.append(tuple(value if value is None else round(value, 3) for value in row))

    def as_dict(self) -> dict[str, Any]:
        """Return all rows, for JSON."""
        return {
            "columns": list(COLUMNS),
            "row_seconds": ROW_SECONDS,
            "kept_seconds": _KEPT_SECONDS,
            "rows": [list(row) for row in self._rows],
        }


@dataclass(frozen=True)
class _Totals:
    """What only rises, at one time."""

    at: float
    active: ActiveRound | None
    checked: int
    validated: int
    tokens: float | None

    def rates_since(self, before: "_Totals | None") -> tuple[float | None, float | None, float | None]:
        """Return nonces generated, nonces validated and tokens in a second; None where that is not known."""
        if before is None or self.at <= before.at:
            return None, None, None
        seconds = self.at - before.at
        # A round begins with nothing checked, or where the last server was.
        begun = 0 if self.active is None or self.active.resumes is None else self.active.resumes.position
        checked = before.checked if before.active is self.active else begun
        tokens = None if self.tokens is None or before.tokens is None else self.tokens - before.tokens
        return (
            (self.checked - checked) / seconds,
            (self.validated - before.validated) / seconds,
            None if tokens is None else max(0.0, tokens) / seconds,
        )
