"""Whether inference is at work on the server."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from hallmark.poc.rounds.engine_protocol import PoCEngine

__all__ = ["QUIET_SECONDS", "InferenceActivity", "InferenceConnection"]

QUIET_SECONDS: Final = 10.0
"""How long a connection on which nothing moves counts as inference without work in the engine."""


class InferenceConnection:
    """A connection for inference that is being served.

    Args:
        clock: Seconds on a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._moved_at = clock()

    def note_movement(self) -> None:
        """Note that something of the request or its answer has come or gone."""
        self._moved_at = self._clock()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has moved for `QUIET_SECONDS`."""
        return self._clock() - self._moved_at >= QUIET_SECONDS


class InferenceActivity:
    """Inference in flight: what the server's middleware counts, and what the engine still has to finish.

    The one knows requests before they reach the engine, the other knows work that no connection waits for. A
    connection held open in silence is not waited for: it would keep a round in short slices to its end.

    Args:
        engine: The engine.
        clock: Seconds on a clock that never goes back.

    Attributes:
        some_served: Set while a connection for inference is being served.
        all_served: Set while none is.
    """

    def __init__(self, engine: PoCEngine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._connections: set[InferenceConnection] = set()
        self.some_served = asyncio.Event()
        self.all_served = asyncio.Event()
        self.all_served.set()

    @property
    def connections(self) -> int:
        """Connections for inference that are being served."""
        return len(self._connections)

    @property
    def quiet_connections(self) -> int:
        """Those of them on which nothing has moved for `QUIET_SECONDS`."""
        return sum(connection.is_quiet for connection in self._connections)

    @property
    def is_active(self) -> bool:
        """Whether some inference is at work, or about to be."""
        return not self._engine.is_idle or any(not each.is_quiet for each in self._connections)

    @contextmanager
    def connection(self) -> Iterator[InferenceConnection]:
        """Yield a connection for inference, from its first byte to the end of its answer."""
        connection = InferenceConnection(self._clock)
        self._connections.add(connection)
        self.all_served.clear()
        self.some_served.set()
        try:
            yield connection
        finally:
            self._connections.remove(connection)
            if not self._connections:
                self.some_served.clear()
                self.all_served.set()
