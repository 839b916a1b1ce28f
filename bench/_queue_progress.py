"""How far deliveries and kills are: neither gets far ahead of the other, so kills meet all of the work."""

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Final, Literal

from _background import Background

__all__ = ["Part", "Progress", "Target"]

Target = Literal["receiver", "worker"]

_AHEAD: Final = 0.15
"""Share of the whole by which one may be ahead of the other."""


class Part(Background):
    """What runs beside the others until its work is done, or all are to end."""

    @property
    def has_ended(self) -> bool:
        """Whether it has nothing more to do, or failed."""
        return not self._thread.is_alive()

    @property
    def has_failed(self) -> bool:
        """Whether it failed."""
        return self._failure is not None


class Progress:
    """Counts for several threads.

    Args:
        batches: All that are to be delivered.
        kills: All that are to be made of each target.
    """

    def __init__(self, batches: int, kills: Mapping[Target, int]) -> None:
        self._lock = threading.Lock()
        self._batches, self._kills = batches, kills
        self._begun = self._acknowledged = 0
        self._made: Counter[Target] = Counter()
        self._ahead = max(_AHEAD, 1 / max(1, sum(kills.values())))

    @property
    def delivered(self) -> float:
        """The share of the batches that are acknowledged."""
        with self._lock:
            return self._acknowledged / self._batches

    def acknowledge(self) -> None:
        """Count a batch."""
        with self._lock:
            self._acknowledged += 1

    def kill(self, target: Target) -> None:
        """Count a kill."""
        with self._lock:
            self._made[target] += 1

    def may_deliver(self) -> bool:
        """Return whether another batch may be begun; it is counted where it may."""
        with self._lock:
            planned = sum(self._kills.values())
            killed = self._made.total() / planned if planned else 1.0
            may = self._begun / self._batches <= killed + self._ahead
            self._begun += may
            return may

    def may_kill(self, target: Target) -> bool:
        """Return whether it is time for another kill."""
        with self._lock:
            return (
                self._made[target] / self._kills[target] <= self._acknowledged / self._batches + self._ahead
            )
