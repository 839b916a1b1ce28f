"""How long the event loop is held at a time, by whatever, while it has chat to stream."""

import asyncio
from typing import Final

from hallmark.poc.rounds.inference_activity import InferenceActivity

__all__ = ["LoopHolds"]

# What is measured is short of the hold by as much, at most.
_PERIOD: Final = 0.005


class LoopHolds:
    """Asks for a turn every 5 ms while inference is served, and notes how late it comes.

    Args:
        activity: What inference is served.

    Attributes:
        longest: By how many seconds a turn came late at most; None where none was asked for.
    """

    def __init__(self, activity: InferenceActivity) -> None:
        self.longest: float | None = None
        self._activity = activity

    async def measure(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._activity.some_served.wait()
            due = loop.time() + _PERIOD
            await asyncio.sleep(_PERIOD)
            self.longest = max(self.longest or 0.0, loop.time() - due)
