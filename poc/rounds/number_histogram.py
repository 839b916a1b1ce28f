"""How the numbers of a round are spread: what is held against the law that honest ones follow."""

import math
from collections.abc import Iterable
from typing import Final

__all__ = ["BINS", "BIN_WIDTH", "FIRST_EDGE", "NumberHistogram"]

FIRST_EDGE: Final = -5.0
BIN_WIDTH: Final = 0.25
BINS: Final = 40
"""The bins, in standard deviations of the law; what lies beyond them counts in the outermost ones."""


class NumberHistogram:
    """Count numbers c by bins; what is not finite is left out."""

    def __init__(self) -> None:
        self._counts = [0] * BINS

    @property
    def counts(self) -> tuple[int, ...]:
        """Return how many numbers each bin has, from the lowest."""
        return tuple(self._counts)

    def add(self, numbers: Iterable[float]) -> None:
        """Count more of them."""
        for number in numbers:
            if math.isfinite(number):
                # Held within the bins while it is a float: the largest ones overflow here.
                place = min(max((number - FIRST_EDGE) / BIN_WIDTH, 0.0), BINS - 1.0)
                self._counts[int(place)] += 1
