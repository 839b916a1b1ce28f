"""The rate of a round from look to look, and the small curve that shows it."""

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["Trend"]

_BARS: Final = "▁▂▃▄▅▆▇█"
_ASCII_BARS: Final = "_.-=+*#@"
_MAX_RATES: Final = 24

_WINDOW: Final = 8
"""Looks that a rate is measured over: counts grow by whole batches, which may take longer than a look."""


class Trend:
    """What each look at a status adds: nonces in a second, over the looks just before it."""

    def __init__(self) -> None:
        self._state = ""
        self._looks: deque[tuple[float, int]] = deque(maxlen=_WINDOW + 1)
        self._rates: deque[float] = deque(maxlen=_MAX_RATES)

    def add(self, status: Mapping[str, Any], now: float) -> None:
        """Note a look; another phase, or a count that went back, begins anew.

        Args:
            status: As the server gave it.
            now: Seconds of a steady clock.
        """
        state = status["state"]
        count = status["validation"]["checked_nonces"] if state == "VALIDATING" else status["total_checked"]
        if state != self._state or (self._looks and count < self._looks[-1][1]):
            self._looks.clear()
            self._rates.clear()
        self._state = state
        self._looks.append((now, count))
        then, before = self._looks[0]
        if now > then:
            self._rates.append((count - before) / (now - then))

    @property
    def rate(self) -> float | None:
        """Return the nonces in a second, lately; None before the second look."""
        return self._rates[-1] if self._rates else None

    def curve(self, *, is_ascii: bool) -> str:
        """Return a bar for each of the latest looks, the highest for the highest rate."""
        bars = _ASCII_BARS if is_ascii else _BARS
        most = max(self._rates, default=0.0)
        if most <= 0:
            return bars[0] * len(self._rates)
        return "".join(bars[round(rate / most * (len(bars) - 1))] for rate in self._rates)
