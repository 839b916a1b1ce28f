"""An event loop on which waiting takes no time."""

import asyncio
import selectors
from typing import Any


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop that sets its clock forward where it would wait, or stops there."""

    class _Selector(selectors.DefaultSelector):
        now = 0.0
        stop: Any = None

        def select(self, timeout: float | None = None) -> Any:
            ready = super().select(0)
            if ready or timeout == 0:
                return ready
            if self.stop is not None:
                self.stop()
            elif timeout is None:
                raise RuntimeError("everybody waits, and nothing will ever happen")
            else:
                self.now += timeout
            return ready

    def __init__(self) -> None:
        self._virtual = self._Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def settle(self) -> None:
        """Run what can run without time passing."""
        self._virtual.stop = self.stop
        self.run_forever()
        self._virtual.stop = None
