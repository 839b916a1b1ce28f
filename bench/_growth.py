"""How fast something grows: the mean over windows of one kind, and how sure that is.

Memory grows in steps, and what is read every few seconds hangs together: a line through all samples would
seem surer than it is. So the levels at the ends of long windows are compared, and each window is one
observation.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import t as student

_CONFIDENCE = 0.95
# A connection or a thread more is no growth: pools fill when they are first needed.
_SPARE = 3


class Rate(NamedTuple):
    """A growth an hour, and its 95% interval, without bounds where there is one window only."""

    mean: float
    low: float
    high: float


def rate(growths: Sequence[float], hours: Sequence[float]) -> Rate:
    """The mean growth an hour.

    Args:
        growths: Of each window.
        hours: The length of each.
    """
    return _interval(statistics.fmean(_each(growths, hours)), *_variance(growths, hours))


def difference(
    growths: Sequence[float],
    hours: Sequence[float],
    other_growths: Sequence[float],
    other_hours: Sequence[float],
) -> Rate:
    """How much faster the first windows grow than the others, by Welch's interval."""
    mean = statistics.fmean(_each(growths, hours)) - statistics.fmean(_each(other_growths, other_hours))
    (a, n), (b, m) = _variance(growths, hours), _variance(other_growths, other_hours)
    if not (n and m and a + b):
        return _interval(mean, a + b, min(n, m))
    return _interval(mean, a + b, (a + b) ** 2 / (a**2 / n + b**2 / m))


def has_grown(counts: Sequence[int]) -> bool:
    """Whether counts at the ends of windows rise: all late ones are clearly above all early ones."""
    third = max(1, len(counts) // 3)
    return min(counts[-third:]) > max(counts[:third]) + _SPARE


def _each(growths: Sequence[float], hours: Sequence[float]) -> list[float]:
    return [growth / hour for growth, hour in zip(growths, hours, strict=True)]


def _variance(growths: Sequence[float], hours: Sequence[float]) -> tuple[float, float]:
    """The variance of the mean, and its degrees of freedom."""
    each = _each(growths, hours)
    return (statistics.variance(each) / len(each) if len(each) > 1 else math.inf), float(len(each) - 1)


def _interval(mean: float, variance: float, freedom: float) -> Rate:
    if freedom < 1 or not math.isfinite(variance):
        return Rate(mean, -math.inf, math.inf)
    half = float(student.ppf((1 + _CONFIDENCE) / 2, freedom)) * math.sqrt(variance)
    return Rate(mean, mean - half, mean + half)
