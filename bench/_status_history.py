"""What the status of a round has shown, which must not be lost or change any more."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class StatusHistory:
    """What the status of a round has ever shown, over all its servers.

    Attributes:
        distances: Of every nonce that was shown as found.
        counts: Nonces checked and nonces valid, in the order they were shown, each pair once.
        problems: Where two statuses contradict each other.
    """

    distances: dict[int, float] = field(default_factory=dict)
    counts: list[tuple[int, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def note(self, status: Mapping[str, Any]) -> None:
        """Add a status."""
        count = status["total_checked"], status["total_valid"]
        if self.counts and count < self.counts[-1]:
            self.problems.append(f"the counts went back from {self.counts[-1]} to {count}")
        if not self.counts or count != self.counts[-1]:
            self.counts.append(count)
        for nonce, distance in zip(status["valid_nonces"], status["valid_distances"], strict=True):
            if self.distances.setdefault(nonce, distance) != distance:
                self.problems.append(f"nonce {nonce} had {self.distances[nonce]!r} and then {distance!r}")
