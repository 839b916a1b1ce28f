"""What a prover gains that runs only the nonces it predicts to be valid, and when the density test sees it.

Let c be the cosine of the predicted output with the true one. Over a uniform target, √D·ŷ·t and √D·y·t are
in the limit of large D jointly standard normal with correlation c. Valid is the highest share `rate` of the
second; run is the highest share q of the first. Of the valid nonces

    κ = 1/rate · E_c Φ₂(Φ⁻¹(q), Φ⁻¹(rate); c)

are found, Φ₂ being the bivariate normal distribution function and E_c the mean over the nonces' cosines. A
forward run then gives κ/q times what it gives an honest prover, and what is covered has the density κ·rate.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, bdtrc, ndtr, ndtri, owens_t

from hallmark.poc.verdict.hypothesis_tests import density_test
from hallmark.poc.verdict.judge import MAX_FAILED

TESTS = 4
"""How many tests a verdict combines below rate 1, by Bonferroni: binomial, RMS, signed mean, density."""
SIGMA = 0.10
"""The RMS of honest errors that a round allows for by default, in units of s."""


def found_share(rate: float, share: float, cosines: npt.ArrayLike) -> float:
    """κ: which part of the valid nonces is among the most promising ones.

    Args:
        rate: The round's valid rate, above 0, at most 1.
        share: The share of the nonces that are run, above 0, at most 1.
        cosines: Of the predicted with the true outputs; a sample of the nonces.
    """
    if rate == 1.0 or share == 1.0:
        return share
    # 32 quantiles stand for the distribution.
    cosine = np.quantile(np.asarray(cosines, dtype=np.float64), (np.arange(32) + 0.5) / 32)
    both = _both_below(ndtri(share), ndtri(rate), np.clip(cosine, -1 + 1e-9, 1 - 1e-9))
    return float(both.mean() / rate)


def _both_below(h: float, k: float, correlation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """P[X < h, Y < k] of standard normal X and Y with each correlation.

    Source: Owen, Tables for computing bivariate normal probabilities, Ann. Math. Statist. 27 (1956), 2.1.
    """
    # Its limits at 0 are reached to 1e-12.
    h, k = (h or 1e-12), (k or 1e-12)
    spread = np.sqrt(1 - correlation**2)
    parts = owens_t(h, (k / h - correlation) / spread) + owens_t(k, (h / k - correlation) / spread)
    return np.asarray((ndtr(h) + ndtr(k)) / 2 - parts - (0.0 if h * k > 0 else 0.5), dtype=np.float64)


def smallest_share(rate: float, cosines: npt.ArrayLike, found: float) -> float:
    """Return the smallest share of the nonces that holds the part `found` of the valid ones."""
    if found >= 1.0:
        return 1.0
    return _bisect(lambda share: found_share(rate, share, cosines) >= found, 1e-6, 1.0)


def unconvicted_counts(covered: int, rate: float, threshold: float) -> tuple[int, int]:
    """Return the fewest and the most valid nonces among so many that the density test lets pass."""

    def passes(count: int) -> bool:
        return TESTS * density_test(count, covered, rate, SIGMA) >= threshold

    middle = round(covered * rate)
    assert passes(middle)
    low, high = -1, middle
    while high - low > 1:
        tried = (low + high) // 2
        low, high = (low, tried) if passes(tried) else (tried, high)
    smallest = high
    low, high = middle, covered + 1
    while high - low > 1:
        tried = (low + high) // 2
        low, high = (tried, high) if passes(tried) else (low, tried)
    return smallest, low


def density_power(covered: int, rate: float, density: float, threshold: float) -> float:
    """Return how probably a prover is convicted whose nonces are valid with the probability `density`."""
    smallest, largest = unconvicted_counts(covered, rate, threshold)
    too_few = float(bdtr(smallest - 1, covered, density)) if smallest else 0.0
    too_many = float(bdtrc(largest, covered, density)) if largest < covered else 0.0
    return too_few + too_many


def reported_density(rate: float, found: float) -> float:
    """Return the density of a grinder that declares as failed what the protocol lets it.

    Of what it did not run.
    """
    return min(1.0, rate * found / (1 - MAX_FAILED))


def covered_to_convict(
    rate: float, density: float, threshold: float, power: float = 0.99, most: int = 10**9
) -> int | None:
    """Return how many nonces must be covered for a conviction with that power; None: more than `most`."""
    if density_power(most, rate, density, threshold) < power:
        return None
    low, high = 1, 16
    while density_power(high, rate, density, threshold) < power:
        low, high = high, 2 * high
    # The power is not quite monotone, counts being whole: this is one of the places where it crosses.
    while high - low > 1:
        tried = (low + high) // 2
        low, high = (low, tried) if density_power(tried, rate, density, threshold) >= power else (tried, high)
    return high


def least_density(covered: int, rate: float, threshold: float, power: float) -> float:
    """Return the lowest density with which a prover is convicted with no more than that probability."""
    smallest, _ = unconvicted_counts(covered, rate, threshold)
    if smallest == 0:
        return 0.0
    return _bisect(lambda density: float(bdtr(smallest - 1, covered, density)) <= power, 0.0, rate)


def _bisect(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return where a condition begins to hold that does not at `low` and does at `high`."""
    for _ in range(30):
        tried = (low + high) / 2
        low, high = (low, tried) if holds(tried) else (tried, high)
    return high
