"""Distances forged from a prediction of the output, and how soon the verdict's tests convict the forger.

Of the true inner product with the target, given the predicted one, the expectation is c times the predicted
one, c being the prediction's cosine. A forger claims the distance of that: no other claim has a smaller mean
square error, √(1 − c²) in units of s.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
import numpy.typing as npt

from hallmark.poc.protocol.law import distance_std, r_target_for
from hallmark.poc.verdict.hypothesis_tests import binomial_test, cosine_errors, rms_test, signed_mean_test

Array = npt.NDArray[np.float64]

TOLERANCE = 0.35
"""A round's default, in units of s."""
SIGMA = TOLERANCE / 3.5
"""The RMS of honest errors that a round allows for by default."""
TESTS = ("binomial", "rms", "signed_mean")
"""Those that compare what was received with what was computed."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Received − computed of claims, in units of s; arrays of the same shape.

    Attributes:
        distances: Of the distances themselves, which the tolerance is for.
        cosines: By the cosines that distances stand for, which the tests of errors look at; near √2 the same.
    """

    distances: Array
    cosines: Array

    @classmethod
    def of(cls, received: Array, computed: Array, hidden_size: int) -> Self:
        """The errors of received distances against computed ones."""
        s = distance_std(hidden_size)
        return cls((received - computed) / s, cosine_errors(received, computed, s))

    def batches(self, trials: int, n: int) -> Self:
        """Batches [trials, n], drawn with repetition; the same for the same n."""
        chosen = np.random.default_rng(n).integers(len(self.distances), size=(trials, n))
        return type(self)(self.distances[chosen], self.cosines[chosen])


def forged_errors(true: Array, guessed: Array, cosine: float, rate: float, hidden_size: int) -> Errors:
    """What a forger's claims are off by.

    Below rate 1 it claims the nonces whose predicted distances are the smallest, as many as there should be,
    and lets no claim be too large to count.

    Args:
        true: The distances of the model's outputs, [n].
        guessed: Those of the predictions, [n].
        cosine: Of prediction and output; one below 0 is of no use, and what is claimed then is √2.
        rate: The round's valid rate.
        hidden_size: D.
    """
    inner = (2 - guessed**2) / 2
    claimed = np.sqrt(2 - 2 * max(0.0, cosine) * inner)
    if rate < 1:
        chosen = np.argsort(guessed, kind="stable")[: round(rate * len(guessed))]
        most = np.nextafter(r_target_for(rate, hidden_size), 0.0)
        true, claimed = true[chosen], np.minimum(claimed[chosen], most)
    return Errors.of(claimed, true, hidden_size)


@dataclass(frozen=True, slots=True)
class Conviction:
    """How a forger is found.

    Attributes:
        nonces: Of a batch that is convicted with the wanted power; None: the most that was tried is too few.
        spoke: The test that alone convicts most of such batches; empty where there are none.
    """

    nonces: int | None
    spoke: str


def nonces_to_convict(
    errors: Errors, rate: float, threshold: float, *, most: int, power: float = 0.99
) -> Conviction:
    """How many nonces it takes to convict, by simulation of 2,000 batches, 200 of the longest.

    Args:
        errors: Of the forger's claims, [n]; batches are drawn from them with repetition.
        rate: The round's valid rate; below 1 the verdict has a test more, of the density.
        threshold: Of the verdict's combined p-value.
        most: The largest number that is tried.
        power: The wanted probability of a conviction.
    """

    def convicts(n: int) -> bool:
        return bool(_convictions(errors, n, rate, threshold).any(axis=0).mean() >= power)

    high = 1
    while not convicts(high):
        if high == most:
            return Conviction(None, "")
        high = min(2 * high, most)
    low = high // 2
    while high - low > 1:
        tried = (low + high) // 2
        low, high = (low, tried) if convicts(tried) else (tried, high)
    alone = _convictions(errors, high, rate, threshold).mean(axis=1)
    return Conviction(high, TESTS[int(alone.argmax())])


def verdicts(errors: Errors, rate: float, threshold: float) -> npt.NDArray[np.bool_]:
    """Which of the tests convict batches of errors; [tests, batches] from [batches, n]."""
    critical = _critical(errors.distances.shape[1], rate, threshold)
    within = np.clip(errors.cosines, -TOLERANCE, TOLERANCE)
    return np.stack(
        [
            (np.abs(errors.distances) > TOLERANCE).sum(axis=1) >= critical.invalid,
            np.square(within).mean(axis=1) > critical.mean_square,
            within.mean(axis=1) < critical.mean,
        ]
    )


def _convictions(errors: Errors, n: int, rate: float, threshold: float) -> npt.NDArray[np.bool_]:
    trials = max(200, min(2_000, 4_000_000 // n))
    return verdicts(errors.batches(trials, n), rate, threshold)


@dataclass(frozen=True, slots=True)
class _Critical:
    """Where the tests' p-values, times the number of tests, fall below the threshold."""

    invalid: int
    mean_square: float
    mean: float


@lru_cache(maxsize=4096)
def _critical(n: int, rate: float, threshold: float) -> _Critical:
    each = threshold / (len(TESTS) + (rate < 1))
    invalid = next((k for k in range(n + 1) if binomial_test(k, n) < each), n + 1)

    def rms(size: float) -> float:
        return rms_test(np.full(n, size), SIGMA, rate=rate, limit=TOLERANCE)

    def signed_mean(size: float) -> float:
        return signed_mean_test(np.full(n, -size), SIGMA, rate=rate, limit=TOLERANCE)

    return _Critical(invalid, _crossing(rms, each) ** 2, -_crossing(signed_mean, each))


def _crossing(p_value: Callable[[float], float], each: float) -> float:
    """The size of errors, all of this size, from which on a p-value is below `each`; or infinity."""
    low, high = 0.0, TOLERANCE
    if p_value(high) >= each:
        return float("inf")
    for _ in range(40):
        tried = (low + high) / 2
        low, high = (low, tried) if p_value(tried) < each else (tried, high)
    return high
