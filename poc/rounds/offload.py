"""Work that would hold the event loop too long, done beside it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

__all__ = ["Offload"]

_Result = TypeVar("_Result")

# About 3 ms of parsing, judging and writing: a thread of its own would cost small batches their place.
_SMALL: Final = 256


class Offload:
    """One thread for what takes its time over large batches: parsing, judging, writing them as JSON.

    The event loop streams chat meanwhile. One thread, since several would take turns with the loop for
    Python's lock: it would wait for each of them.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "hallmark batches")

    async def run(self, size: int, work: Callable[[], _Result]) -> _Result:
        """Run work in the thread, or at once where it is small; what it raises is raised.

        Args:
            size: About how many nonces it goes through.
            work: Touches nothing that the event loop changes.
        """
        if size <= _SMALL:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Let the thread end when it is done."""
        self._thread.shutdown(wait=False)
