"""How fast something grows, what it grows by, and how sure that is.

Memory grows in steps, and what is read every few seconds hangs together: a line through all samples would
seem surer than it is. So the levels at the ends of long windows are compared, and each window is one
observation.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

_CONFIDENCE = 0.95
# A connection or a thread more is no growth: pools fill when they are first needed.
_SPARE = 3


class Rate(NamedTuple):
    """A growth, and its 95% interval, without bounds where there are too few windows."""

    mean: float
    low: float
    high: float


def rate(growths: Sequence[float], hours: Sequence[float]) -> Rate:
    """Return the mean growth an hour.

    Args:
        growths: Of each window.
        hours: The length of each.
    """
    each = [growth / hour for growth, hour in zip(growths, hours, strict=True)]
    variance = statistics.variance(each) / len(each) if len(each) > 1 else math.inf
    return _interval(statistics.fmean(each), variance, len(each) - 1)


def shares(growths: Sequence[float], counts: Mapping[str, Sequence[float]]) -> dict[str, Rate]:
    """Return what each of several causes adds to a growth, by least squares.

    Args:
        growths: Of each window.
        counts: By cause, how often it was there in each window.

    Returns:
        The growth for each time, of the causes that were there at all.
    """
    present = {name: its_own for name, its_own in counts.items() if any(its_own)}
    if not present:
        return {}
    design, grown = np.array([*present.values()], dtype=np.float64).T, np.array(growths)
    found = np.linalg.lstsq(design, grown, rcond=None)[0]
    freedom = len(grown) - len(present)
    if freedom < 1 or np.linalg.matrix_rank(design) < len(present):
        return {
            name: _interval(float(mean), math.inf, 0.0) for name, mean in zip(present, found, strict=True)
        }
    variance = float(np.sum(np.square(grown - design @ found))) / freedom
    spread = np.diag(np.linalg.inv(design.T @ design)) * variance
    return {
        name: _interval(float(mean), float(its_own), freedom)
        for name, mean, its_own in zip(present, found, spread, strict=True)
    }


def has_grown(counts: Sequence[int]) -> bool:
    """Return whether counts at the ends of windows rise: all late ones are clearly above all early ones."""
    third = max(1, len(counts) // 3)
    return min(counts[-third:]) > max(counts[:third]) + _SPARE


def _interval(mean: float, variance: float, freedom: float) -> Rate:
    if freedom < 1 or not math.isfinite(variance):
        return Rate(mean, -math.inf, math.inf)
    half = float(student.ppf((1 + _CONFIDENCE) / 2, freedom)) * math.sqrt(variance)
    return Rate(mean, mean - half, mean + half)
