"""An event loop on which waiting takes no time."""

import asyncio
import selectors
from typing import Any

from clock import Clock

__all__ = ["VirtualTimeLoop"]


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop that sets its clock forward where it would wait, or stops there.

    Attributes:
        clock: What it goes by: whatever is given it passes the time with the loop.
    """

    class _Selector(selectors.DefaultSelector):
        stop: Any = None

        def __init__(self, clock: Clock) -> None:
            super().__init__()
            self._clock = clock

        def select(self, timeout: float | None = None) -> Any:
            ready = super().select(0)
            if ready or timeout == 0:
                return ready
            if self.stop is not None:
                self.stop()
            elif timeout is None:
                raise RuntimeError("everybody waits, and nothing will ever happen")
            else:
                self._clock.advance(timeout)
            return ready

    def __init__(self) -> None:
        self.clock = Clock(0.0)
        self._virtual = self._Selector(self.clock)
        super().__init__(self._virtual)

    def time(self) -> float:
        return self.clock()

    def settle(self) -> None:
        """Run what can run without time passing."""
        self._virtual.stop = self.stop
        self.run_forever()
        self._virtual.stop = None
