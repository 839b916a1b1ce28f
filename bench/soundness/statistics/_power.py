"""How many nonces a test needs, and how well it tells cheating from honest batches.

The tests are the product's own: where a critical value is needed, the product's p-value is inverted, which is
monotone in the statistic.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache, partial

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import gamma, rankdata

from hallmark.poc.verdict.hypothesis_tests import (
    PROBABILITY_MISMATCH,
    binomial_test,
    bonferroni,
    probability_at_least,
    rms_test,
    signed_mean_test,
)

Errors = npt.NDArray[np.float64]
"""Received minus computed distances, in units of s."""

TOLERANCE = 0.35
"""The protocol's default, in units of s; errors count up to it in the tests of their size."""
POWER = 0.99
TESTS_AT_RATE_1 = 3
"""Binomial, RMS and signed mean: what the combined verdict multiplies the least p-value by."""
MAX_NONCES = 100_000
_SIMULATED = 64
"""Up to so many nonces a sum of squares is simulated; beyond, a gamma distribution has its moments."""


@cache
def critical_count(n: int, threshold: float) -> int:
    """The least number of invalid claims among n that the binomial test convicts for; n + 1: none does."""
    count = 0
    while count <= n and binomial_test(count, n) >= threshold:
        count += 1
    return count


@cache
def critical_mean_square(n: int, threshold: float, sigma: float, kurtosis: float, tolerance: float) -> float:
    """The mean square error above which the RMS test convicts; infinite where none can."""

    def excess(rms: float) -> float:
        p_value = rms_test(np.full(n, rms), sigma, kurtosis, limit=tolerance)
        return math.log(max(p_value, 1e-300)) - math.log(threshold)

    if excess(tolerance) >= 0:
        return math.inf
    return float(brentq(excess, 0.0, tolerance, xtol=1e-7)) ** 2


@cache
def critical_mean(n: int, threshold: float, sigma: float, tolerance: float) -> float:
    """The mean error below which the signed-mean test convicts; minus infinity where none can."""

    def excess(mean: float) -> float:
        p_value = signed_mean_test(np.full(n, mean), sigma, limit=tolerance)
        return math.log(max(p_value, 1e-300)) - math.log(threshold)

    if excess(-tolerance) >= 0:
        return -math.inf
    return float(brentq(excess, -tolerance, 0.0, xtol=1e-7))


class Sample:
    """Errors of a prover, noise included, as a population to draw batches from.

    Args:
        errors: In units of s.
        tolerance: The round's, in units of s.
    """

    def __init__(self, errors: Errors, tolerance: float = TOLERANCE) -> None:
        self.errors = errors
        self.tolerance = tolerance
        clipped = np.clip(errors, -tolerance, tolerance)
        self._clipped = clipped
        self.invalid_share = float(np.mean(np.abs(errors) > tolerance))
        self._mean, self._std = float(clipped.mean()), float(clipped.std())
        squares = clipped**2
        self._mean_square, self._variance = float(squares.mean()), float(squares.var())
        draws = np.random.default_rng(0).integers(len(errors), size=(2_000, _SIMULATED))
        self._sums = np.cumsum(squares[draws], axis=1)

    def batches(self, count: int, n: int, seed: int) -> Errors:
        """Draw batches, [count, n]."""
        return self.errors[np.random.default_rng(seed).integers(len(self.errors), size=(count, n))]

    def binomial_power(self, n: int, threshold: float) -> float:
        """The probability that n nonces convict by the binomial test."""
        return probability_at_least(critical_count(n, threshold), n, self.invalid_share)

    def rms_power(self, n: int, threshold: float, sigma: float, kurtosis: float = 3.0) -> float:
        """The probability that n nonces convict by the RMS test."""
        critical = critical_mean_square(n, threshold, sigma, kurtosis, self.tolerance)
        if n <= _SIMULATED:
            return float(np.mean(self._sums[:, n - 1] > critical * n))
        if not math.isfinite(critical):
            return 0.0
        scale = self._variance / self._mean_square
        return float(gamma.sf(critical * n, n * self._mean_square / scale, scale=scale))

    def mean_power(self, n: int, threshold: float, sigma: float) -> float:
        """The probability that n nonces convict by the signed-mean test, its mean taken for normal."""
        critical = critical_mean(n, threshold, sigma, self.tolerance)
        return float(ndtr((critical - self._mean) * math.sqrt(n) / self._std))

    def combined_power(self, n: int, threshold: float, sigma: float, kurtosis: float = 3.0) -> float:
        """The least that the probability of the combined verdict can be: that of its strongest test."""
        share = threshold / TESTS_AT_RATE_1
        return max(
            self.binomial_power(n, share),
            self.rms_power(n, share, sigma, kurtosis),
            self.mean_power(n, share, sigma),
        )

    def binomial_nonces(self, threshold: float) -> int | None:
        """The least number of nonces with which the binomial test has the power; None: above `MAX_NONCES`.

        Its power is a saw of n. With k invalid claims to convict, n may be so large that k still convicts,
        and must be so large that k are likely: the first k for which both can be.
        """

        def still_convicts(k: int, n: int) -> bool:
            return n < k or binomial_test(k, n) < threshold

        def is_too_unlikely(k: int, n: int) -> bool:
            return probability_at_least(k, n, self.invalid_share) < POWER

        for count in range(1, MAX_NONCES):
            largest = _last(partial(still_convicts, count))
            if largest < count:
                continue
            if probability_at_least(count, largest, self.invalid_share) >= POWER:
                return 1 + _last(partial(is_too_unlikely, count), largest)
            if largest >= MAX_NONCES:
                return None
            if self.invalid_share <= PROBABILITY_MISMATCH:
                return None
        return None

    def rms_nonces(self, threshold: float, sigma: float, kurtosis: float = 3.0) -> int | None:
        """The same for the RMS test."""
        return _first(lambda n: self.rms_power(n, threshold, sigma, kurtosis) >= POWER)

    def combined_nonces(self, threshold: float, sigma: float, kurtosis: float = 3.0) -> int | None:
        """The same for the combined verdict, at rate 1."""
        found = [
            self.binomial_nonces(threshold / TESTS_AT_RATE_1),
            self.rms_nonces(threshold / TESTS_AT_RATE_1, sigma, kurtosis),
            _first(lambda n: self.mean_power(n, threshold / TESTS_AT_RATE_1, sigma) >= POWER),
        ]
        return min((n for n in found if n is not None), default=None)


def combined_p_value(
    errors: Errors, sigma: float, kurtosis: float = 3.0, tolerance: float = TOLERANCE
) -> float:
    """The p-value of the verdict on a batch at rate 1, [n] errors."""
    return bonferroni(
        (
            binomial_test(int(np.sum(np.abs(errors) > tolerance)), len(errors)),
            rms_test(errors, sigma, kurtosis, limit=tolerance),
            signed_mean_test(errors, sigma, limit=tolerance),
        )
    )


def area_under_roc(honest: Errors, cheating: Errors) -> float:
    """The probability that a cheating batch has the smaller p-value; ties count half (Mann and Whitney)."""
    ranks = rankdata(np.concatenate([honest, cheating]))
    below = ranks[: len(honest)].sum() - len(honest) * (len(honest) + 1) / 2
    return float(below / (len(honest) * len(cheating)))


def roc(honest: Errors, cheating: Errors) -> tuple[Errors, Errors]:
    """False alarms and detections at every threshold that occurs, both from 0 to 1."""
    thresholds = np.unique(np.concatenate([honest, cheating]))
    false_alarms = np.searchsorted(np.sort(honest), thresholds, side="right") / len(honest)
    detections = np.searchsorted(np.sort(cheating), thresholds, side="right") / len(cheating)
    return np.concatenate([[0.0], false_alarms]), np.concatenate([[0.0], detections])


def doubling(first: int, most: int) -> Iterator[int]:
    """Yield first, 2·first, 4·first and so on, up to `most`."""
    n = first
    while n <= most:
        yield n
        n *= 2


def _first(is_enough: Callable[[int], bool]) -> int | None:
    """The least number for which a monotone condition holds; None where none up to `MAX_NONCES` is."""
    for n in (*doubling(1, MAX_NONCES), MAX_NONCES):
        if is_enough(n):
            return 1 + _last(lambda m: not is_enough(m), n)
    return None


def _last(holds: Callable[[int], bool], most: int = MAX_NONCES) -> int:
    """The largest number up to `most` for which a condition that ends once holds; 0 where it never does."""
    if holds(most):
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
