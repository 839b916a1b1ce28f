"""How many nonces it takes to convict a stated cheat, or to clear an honest prover, by simulation.

The tests are those of `judge`, with their critical values in the place of a p-value for each trial: a trial
is fraud where one test's p-value times the number of tests is below the threshold. Sums that go on from nonce
to nonce answer for every number of nonces at once. The seed is fixed: the same question has the same answer.

**Careful.** There is no honest noise on top of the cheat's. Its errors share a scale of each nonce, by which
they have the kurtosis of honest ones (`cheat`): mean squares then vary more, and more nonces are needed than
with Gaussian errors of the same size. Below rate 1 they are drawn as if nothing had selected the nonces,
although whose noise is its own delivers nonces that noise has lowered; and the density test, which may be
asked there, counts as one of the tests without ever speaking, in one batch as one nonce after the other.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hallmark.poc.verdict.cheat import Allowance, Cheat, draw_scales
from hallmark.poc.verdict.clearing import Clearing, check_power, log_clearing_wealths
from hallmark.poc.verdict.hypothesis_tests import (
    LIMIT_IN_SIGMAS,
    mean_squares,
    nonce_bound,
    selected_mean,
)
from hallmark.poc.verdict.sequential_test import log_wealths, mean_square_ratios

__all__ = [
    "MAX_NONCES",
    "CriticalValues",
    "Stops",
    "critical_values",
    "nonces_needed",
    "stops_of_cheats",
    "stops_of_honest",
]

MAX_NONCES: Final = 16_384
"""More are not tried."""

_SEED: Final = 20_261
_TRIALS: Final = 1_000
_WIDTH: Final = 512
"""Nonces that are looked at together, at most."""

_POOL: Final = 2**19
"""Numbers of wrong nonces that trials draw from: a nonce is drawn with its numbers, and with replacement.

So many are drawn at once.
"""

_LEAST_POOL: Final = 2**14
"""Nonces, however many numbers they have: with few of them all trials would be alike."""

_WALKS: Final = 300
_FIRST_HORIZON: Final = 256
_IN_MEMORY: Final = 2**18

_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]


def nonces_needed(
    cheat: Cheat,
    allowance: Allowance,
    *,
    power: float = 0.99,
    kurtosis: float | None = None,
    most: int = MAX_NONCES,
) -> int | None:
    """Return the fewest nonces with which a batch of a cheat is fraud with a probability of `power`.

    So it is with every larger number that was simulated as well: up to twice as many, or the most.

    Args:
        cheat: The cheat.
        allowance: What the round judges by.
        power: Of 1,000 simulated batches this share has to be fraud, so that 0.99 is 0.99 ± 0.003.
        kurtosis: Of the cheat's errors; None: that of honest ones.
        most: How many nonces are tried.

    Returns:
        The number; None where `most` are not enough.

    Raises:
        FieldError: The power is out of its range.
    """
    check_power(power)
    rng = np.random.default_rng(_SEED)
    pool = _Pool.draw(rng, cheat.error, allowance, allowance.kurtosis if kurtosis is None else kurtosis)
    needed = 1
    done = 0
    totals = _Totals.none(_TRIALS)
    for width in _widths(most):
        wrong = rng.random((_TRIALS, width)) < cheat.share
        totals, sums = totals.after(pool, rng.integers(len(pool.sizes), size=wrong.shape), wrong)
        counts = np.arange(done + 1, done + width + 1)
        is_missed = np.mean(_convicts(sums, counts, allowance), axis=0) < power
        [missed] = np.nonzero(is_missed & (counts <= most))
        if missed.size:
            needed = done + int(missed[-1]) + 2
        done += width
        if done >= 2 * needed:
            break
    return needed if needed <= most else None


class Stops(NamedTuple):
    """When provers are convicted or cleared.

    Attributes:
        convicted: The share that is convicted first.
        cleared: The share that is cleared first.
        median: Nonces after which half of all are either; None where too many nonces are needed.
        nearly_all: Nonces after which 99 % of all are.
    """

    convicted: float
    cleared: float
    median: int | None
    nearly_all: int | None


def stops_of_cheats(
    cheat: Cheat, allowance: Allowance, *, power: float = 0.99, most: int = MAX_NONCES
) -> Stops:
    """Say when provers that cheat as stated are convicted, or wrongly cleared, one nonce after the other.

    Args:
        cheat: The cheat.
        allowance: What the round judges by.
        power: The probability with which the cheat is not cleared.
        most: How many nonces are drawn of each prover.

    Raises:
        FieldError: The power is out of its range, or the cheat's mean square is not above that of honest
            noise.
    """
    return _stops(cheat, allowance, cheat, power, most)


def stops_of_honest(
    cheat: Cheat, allowance: Allowance, noise: float, *, power: float = 0.99, most: int = MAX_NONCES
) -> Stops:
    """Say when provers with honest noise are cleared of a cheat, or wrongly convicted.

    Args:
        cheat: The cheat that is looked for.
        allowance: What the round judges by.
        noise: RMS of the provers' errors in units of s; 0 for the same machine.
        power: As for `stops_of_cheats`.
        most: As for `stops_of_cheats`.

    Raises:
        FieldError: As `stops_of_cheats`.
    """
    return _stops(cheat, allowance, Cheat(max(noise, 1e-9)), power, most)


def _stops(cheat: Cheat, allowance: Allowance, prover: Cheat, power: float, most: int) -> Stops:
    check_power(power)
    clearing = Clearing.of(cheat, allowance)
    rng = np.random.default_rng(_SEED)
    ratios = np.concatenate(
        [
            mean_square_ratios(errors, allowance.sigma, allowance.rate)
            for errors in _draw(rng, prover.error, allowance, allowance.kurtosis)
        ]
    )
    horizon = min(_FIRST_HORIZON, most)
    while True:
        convicted, cleared = _first_passages(rng, ratios, prover.share, clearing, allowance, power, horizon)
        last = np.minimum(convicted, cleared)
        if horizon == most or np.mean(last <= horizon) >= 0.995:
            break
        horizon = min(8 * horizon, most)
    ordered = np.sort(last)
    median, nearly_all = (int(ordered[math.ceil(share * _WALKS) - 1]) for share in (0.5, 0.99))
    return Stops(
        convicted=float(np.mean((convicted <= cleared) & (convicted <= horizon))),
        cleared=float(np.mean(cleared < convicted)),
        median=median if median <= horizon else None,
        nearly_all=nearly_all if nearly_all <= horizon else None,
    )


def _first_passages(
    rng: np.random.Generator,
    ratios: _Floats,
    share: float,
    clearing: Clearing,
    allowance: Allowance,
    power: float,
    horizon: int,
) -> tuple[_Integers, _Integers]:
    """Return the nonce at which each of several provers is convicted and cleared.

    One after the horizon: never.
    """
    found: tuple[list[_Integers], list[_Integers]] = ([], [])
    left = _WALKS
    while left:
        count = max(1, min(left, _IN_MEMORY // horizon))
        left -= count
        drawn = ratios[rng.integers(len(ratios), size=(count, horizon))]
        if share < 1.0:
            drawn = np.where(rng.random(drawn.shape) < share, drawn, 0.0)
        # The density test may be asked below rate 1.
        level = allowance.threshold / (1 + (allowance.rate < 1.0))
        against = log_wealths(drawn) > -math.log(level)
        wealths = log_clearing_wealths(drawn, clearing.required, clearing.largest)
        for times, has_passed in zip(found, (against, wealths >= -math.log(1.0 - power)), strict=True):
            first = np.argmax(has_passed, axis=-1) + 1
            times.append(np.where(has_passed.any(axis=-1), first, horizon + 1))
    convicted, cleared = (np.concatenate(times) for times in found)
    return convicted, cleared


def _draw(rng: np.random.Generator, error: float, allowance: Allowance, kurtosis: float) -> Iterator[_Floats]:
    """Yield errors of a pool of nonces, [n, k], in parts that have room in memory."""
    at_once = max(1, _POOL // allowance.numbers)
    left = max(at_once, _LEAST_POOL)
    while left:
        count = min(left, at_once)
        left -= count
        scales = error * np.sqrt(draw_scales(rng, count, kurtosis))
        yield np.asarray(rng.standard_normal((count, allowance.numbers)) * scales[:, None])


@dataclass(frozen=True, slots=True)
class _Pool:
    """What the tests look at of wrong nonces.

    Attributes:
        sizes: The sum of squares of the numbers that the test of the RMS takes.
        beyond: How many numbers lie beyond the limit, of those that are asked.
        firsts: The error of number 0.
        invalid: Whether the nonce is invalid.
    """

    sizes: _Floats
    beyond: _Integers
    firsts: _Floats
    invalid: _Integers

    @classmethod
    def draw(cls, rng: np.random.Generator, error: float, allowance: Allowance, kurtosis: float) -> "_Pool":
        parts = [cls._of(errors, allowance) for errors in _draw(rng, error, allowance, kurtosis)]
        return cls(
            sizes=np.concatenate([part.sizes for part in parts]),
            beyond=np.concatenate([part.beyond for part in parts]),
            firsts=np.concatenate([part.firsts for part in parts]),
            invalid=np.concatenate([part.invalid for part in parts]),
        )

    @classmethod
    def _of(cls, errors: _Floats, allowance: Allowance) -> "_Pool":
        limit = allowance.limit
        bound = nonce_bound(allowance.numbers, allowance.kurtosis, allowance.beyond)
        clipped = np.clip(errors, -limit, limit)
        # A single number is compared as it is, with what clipping would be to.
        own = mean_squares(errors, math.inf if allowance.numbers == 1 else limit)
        taken = slice(_left_out(allowance), None)
        return cls(
            sizes=np.sum(np.square(clipped[:, taken]), axis=1),
            beyond=np.count_nonzero(np.abs(errors[:, taken]) > limit, axis=1),
            firsts=clipped[:, 0],
            invalid=(np.sqrt(own) > bound.size * allowance.sigma).astype(np.int64),
        )


class _Totals(NamedTuple):
    """Sums of a pool's entries over nonces of each trial: [trials], or [trials, n] one after the other."""

    sizes: _Floats
    beyond: _Floats
    firsts: _Floats
    invalid: _Floats

    @classmethod
    def none(cls, trials: int) -> "_Totals":
        return cls(*(np.zeros(trials) for _ in cls._fields))

    def after(self, pool: _Pool, places: _Integers, wrong: _Bools) -> "tuple[_Totals, _Totals]":
        """Return the sums after all of the nonces, and after each of them."""
        sums = _Totals(
            *(
                before[:, None] + np.cumsum(np.where(wrong, entries[places], 0), axis=1)
                for before, entries in zip(
                    self, (pool.sizes, pool.beyond, pool.firsts, pool.invalid), strict=True
                )
            )
        )
        return _Totals(*(each[:, -1] for each in sums)), sums


def _convicts(sums: _Totals, n: _Integers, allowance: Allowance) -> _Bools:
    """Return which trials are fraud, [trials, n], of sums after n nonces."""
    critical = critical_values(n, allowance)
    asked = allowance.numbers - _left_out(allowance)
    found = (
        (sums.invalid >= critical.invalid)
        | (sums.sizes > critical.mean_square * (n * asked))
        | (sums.firsts < critical.mean * n)
    )
    if critical.beyond is not None:
        found |= np.floor(sums.beyond / allowance.design_effect) >= critical.beyond
    return np.asarray(found)


class CriticalValues(NamedTuple):
    """From where on each test alone brings the verdict, after n nonces, [n].

    Attributes:
        invalid: Of `nonces`: so many are invalid.
        mean_square: Of `rms`: the mean square is larger.
        mean: Of `signed_mean`: the mean is below it.
        beyond: Of `beyond`: so many numbers are beyond the limit, divided by the design effect and rounded
            down; None where it is not asked.
    """

    invalid: _Integers
    mean_square: _Floats
    mean: _Floats
    beyond: _Integers | None


def critical_values(n: _Integers, allowance: Allowance) -> CriticalValues:
    """Return from where on each test alone brings the verdict: its p-value is the threshold's m-th part.

    Args:
        n: Numbers of nonces.
        allowance: What the round judges by.
    """
    from scipy.special import gammainccinv, stdtrit

    numbers, sigma, kurtosis = allowance.numbers, allowance.sigma, allowance.kurtosis
    is_beyond_asked = numbers > 1
    # The density test may be asked below rate 1.
    level = allowance.threshold / (3 + is_beyond_asked + (allowance.rate < 1.0))
    bound = nonce_bound(numbers, kurtosis, allowance.beyond)
    asked = numbers - _left_out(allowance)
    half = n / ((kurtosis / 3.0) * (1.0 + 2.0 / asked) - 1.0)
    mean_square = sigma**2 * gammainccinv(half, level) / half
    degrees = 4.0 + 6.0 * n / max(min(kurtosis, LIMIT_IN_SIGMAS**2) - 3.0, 1e-9)
    z = stdtrit(degrees, level) * np.sqrt((degrees - 2.0) / degrees)
    beyond = None
    if is_beyond_asked:
        worth = np.ceil(n * asked / allowance.design_effect).astype(np.int64)
        beyond = _critical_counts(worth, allowance.beyond, level)
    return CriticalValues(
        invalid=_critical_counts(n, bound.probability, level),
        mean_square=mean_square,
        mean=z * sigma / np.sqrt(n) + selected_mean(allowance.rate, sigma),
        beyond=beyond,
    )


def _critical_counts(n: _Integers, probability: float, level: float) -> _Integers:
    """Return the smallest c with ``P[Binomial(n, p) ≥ c] < level``, of each n; n + 1 where there is none."""
    from scipy.special import betainc

    low, high = np.zeros_like(n), n + 1  # not below the level, below it
    while np.any(high - low > 1):
        middle = np.maximum((low + high) // 2, 1)
        is_below = betainc(middle, n - middle + 1.0, probability) < level
        high = np.where(is_below, middle, high)
        low = np.where(is_below, low, middle)
    return np.asarray(high)


def _left_out(allowance: Allowance) -> int:
    """Return how many numbers of a nonce, the first ones, its size is not judged by.

    The one that selected it.
    """
    return 1 if allowance.rate < 1.0 else 0


def _widths(most: int) -> Iterator[int]:
    """Yield how many nonces are looked at together, one time after the other, to the most at least."""
    done, width = 0, 32
    while done < most:
        yield width
        done += width
        width = min(2 * width, _WIDTH)
