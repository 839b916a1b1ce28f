"""Whether inference is at work on the server."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from hallmark.poc.rounds.engine_protocol import PoCEngine

__all__ = ["InferenceActivity"]


class InferenceActivity:
    """Inference in flight: what the server's middleware counts, and what the engine still has to finish.

    The one knows requests before they reach the engine, the other knows work that no connection waits for.

    Args:
        engine: The engine.

    Attributes:
        all_served: Set while no connection for inference is being served.
    """

    def __init__(self, engine: PoCEngine) -> None:
        self._engine = engine
        self._connections = 0
        self.all_served = asyncio.Event()
        self.all_served.set()

    @property
    def connections(self) -> int:
        """Connections for inference that are being served."""
        return self._connections

    @property
    def is_active(self) -> bool:
        """Whether some inference is at work, or about to be."""
        return self._connections > 0 or not self._engine.is_idle

    @contextmanager
    def connection(self) -> Iterator[None]:
        """A connection for inference, from its first byte to the end of its answer."""
        self._connections += 1
        self.all_served.clear()
        try:
            yield
        finally:
            self._connections -= 1
            if not self._connections:
                self.all_served.set()
