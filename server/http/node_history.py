"""What a node did in the last hours: a row every few seconds, bounded."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.rounds.active_round import ActiveRound
from hallmark.poc.rounds.manager import PoCManager
from hallmark.server.http.inference_tokens import generated_tokens
from hallmark.server.http.status import snapshot

__all__ = ["COLUMNS", "ROW_SECONDS", "NodeHistory"]

ROW_SECONDS: Final = 5
_KEPT_SECONDS: Final = 3 * 3600

COLUMNS: Final = (
    "time",
    "generated_per_second",
    "validated_per_second",
    "tokens_per_second",
    "connections",
    "share_used",
    "queued_nonces",
    "callbacks_queued",
    "callbacks_oldest_age",
)
"""What a row has: the time in seconds since the epoch, rates over the time since the row before, and what
`/status` said then."""

Row = list[float | None]


class NodeHistory:
    """Rows of the last three hours; a restart begins anew.

    Args:
        clock: Seconds on a clock that never goes back.
        now: Seconds since the epoch.
        tokens: Tokens that inference has generated so far; None where nobody counts them.

    Attributes:
        latest: The latest row; None before the first.
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
        self.latest: Row | None = None
        # As JSON: whoever begins to look is told all of them.
        self._rows: deque[bytes] = deque(maxlen=_KEPT_SECONDS // ROW_SECONDS)
        self._before: _Totals | None = None

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
            generated,
            validated,
            tokens,
            status["inference"]["connections"],
            validation["share_used"],
            validation["queued_nonces"],
            callbacks["queued"],
            callbacks["oldest_age"],
        )
        self.latest = [value if value is None else round(value, 3) for value in row]
        self._rows.append(compact_json(self.latest))

    def encoded(self) -> bytes:
        """Return all rows as JSON, with what they are; they are only put together here, beside chat."""
        head = {"columns": list(COLUMNS), "row_seconds": ROW_SECONDS, "kept_seconds": _KEPT_SECONDS}
        return compact_json(head)[:-1] + b',"rows":[' + b",".join(self._rows) + b"]}"


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
