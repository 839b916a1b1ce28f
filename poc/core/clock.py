"""A wall clock that may be set, beside one that nobody sets."""

import time
from collections.abc import Callable
from typing import Final

__all__ = ["SettableClock"]

# Reading two clocks takes a moment, and less than this holds nobody up.
_LEAST_STEP: Final = 1.0


class SettableClock:
    """Tells the time, and tells first by how much the clock was set since it was last asked.

    A clock is set by hand, by NTP where it was wrong at the start, and by a machine that was suspended. A
    clock that runs a little fast or slow is not set: the steady one is corrected with it.

    Args:
        wall: Seconds since the epoch.
        steady: Seconds since any moment; it only goes forward.
        on_step: Is told by how many seconds the clock was set: negative where that was back.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        *,
        on_step: Callable[[float], None],
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._on_step = on_step
        self._ahead = wall() - steady()

    def __call__(self) -> float:
        """Return seconds since the epoch."""
        now = self._wall()
        step = now - self._steady() - self._ahead
        if abs(step) >= _LEAST_STEP:
            self._ahead += step
            self._on_step(step)
        return now
