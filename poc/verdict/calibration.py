"""How far honest recomputations on two platforms are apart, and what a round between them should allow for.

An error is the difference of two platforms' numbers of one nonce; of distances, what the cosine differs by in
units of its standard deviation. It is measured at rate 1: below it only nonces with low distances are
reported, and their errors are selected with them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.protocol.config import DEFAULT_BEYOND, DEFAULT_DESIGN_EFFECT, DEFAULT_KURTOSIS
from hallmark.poc.protocol.law import distance_std
from hallmark.poc.verdict.hypothesis_tests import (
    LAW_MARGIN,
    LIMIT_IN_SIGMAS,
    counted_kurtosis,
    degrees_of_freedom,
    probability_at_least,
)

__all__ = [
    "ENOUGH_NONCES",
    "MIN_NONCES",
    "MIN_SIGMA",
    "Calibration",
    "check_law",
    "clipped_sigma",
    "sigma_bound",
]

MIN_NONCES: Final = 64
"""With fewer the bounds are too wide to be of use."""

ENOUGH_NONCES: Final = 6_000
"""With fewer nothing is lowered below the defaults but sigma."""

MIN_SIGMA: Final = 0.01
"""The least `honest_sigma` that is proposed, in units of s.

Two machines of one kind differ by exactly 0, and a test against 0 would call the next driver's last bits
fraud. A final norm that is rounded the other way moves a bf16 model's distance by up to this.
"""

_CONFIDENCE: Final = 0.999
_UNRELATED_SIGMA: Final = 0.7
"""Numbers that have nothing to do with each other are √2 apart, those of half as much are not honest."""

_ENOUGH_BEYOND: Final = 30
"""Errors beyond the limit, from which on it is measured how they come together."""

_LAW_REJECTED: Final = 1e-9
_SPREAD_ERRORS: Final = 6.0
_SPREAD_MARGIN: Final = 0.02
_MAX_STEPS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was measured, in units of s, and the settings that follow.

    Attributes:
        n: Number of nonces.
        numbers: How many numbers of each, k.
        sigma: RMS of the errors, each counting up to 3.5 times itself.
        sigma_bound: What it is at most, with 99.9 % confidence.
        kurtosis: E[e⁴]/E[e²]² of the same errors; 3 where all are 0.
        mean: Mean of the errors of number 0, first platform minus second, as distances have it.
        largest: The largest absolute error.
        n_beyond: Errors beyond 3.5 · `honest_sigma`.
        beyond_bound: What their share is at most, with 99.9 % confidence (Clopper and Pearson, Biometrika 26
            (1934), with what the design effect leaves of the errors).
        design_effect: How many errors beyond it are worth one, by how they come together in nonces; None
            where there are too few to say.
        honest_sigma: The bound on sigma, at least `MIN_SIGMA`.
        honest_kurtosis: The kurtosis, at least that of Gaussian errors; with fewer than `ENOUGH_NONCES` not
            below the default.
        honest_beyond: The bound on the share beyond it; with fewer than `ENOUGH_NONCES` not below the
            default.
        honest_design_effect: The design effect; likewise.
    """

    n: int
    numbers: int
    sigma: float
    sigma_bound: float
    kurtosis: float
    mean: float
    largest: float
    n_beyond: int
    beyond_bound: float
    design_effect: float | None
    honest_sigma: float
    honest_kurtosis: float
    honest_beyond: float
    honest_design_effect: float

    @property
    def settings(self) -> dict[str, float]:
        """What a round should state, by the names of its settings."""
        return {
            "honest_sigma": self.honest_sigma,
            "honest_kurtosis": self.honest_kurtosis,
            "honest_beyond": self.honest_beyond,
            "honest_design_effect": self.honest_design_effect,
        }

    @classmethod
    def measure(cls, errors: npt.ArrayLike) -> Self:
        """Measure errors and say what a round should allow for.

        Args:
            errors: Of the same nonces on two platforms in units of s, [n, k]; number 0 as distances have it.

        Raises:
            FieldError: There are fewer than `MIN_NONCES`.
            StateError: The numbers have little to do with each other.
            ValueError: They are not [n, k], or one is not finite.
        """
        found = _checked(errors)
        n, numbers = found.shape
        sigma = clipped_sigma(found)
        if sigma > _UNRELATED_SIGMA:
            raise StateError(
                f"the numbers are {sigma:.2f} s apart, and unrelated ones {math.sqrt(2):.2f} s: these are "
                "not two computations of the same nonces by the same model and settings"
            )
        limit = LIMIT_IN_SIGMAS * sigma
        clipped = np.clip(found, -limit, limit)
        kurtosis = float(np.mean(clipped**4)) / sigma**4 if sigma**4 > 0.0 else 3.0
        is_enough = n >= ENOUGH_NONCES
        honest_kurtosis = counted_kurtosis(kurtosis)
        if not is_enough:
            honest_kurtosis = max(honest_kurtosis, DEFAULT_KURTOSIS)
        bound = sigma_bound(sigma, n, honest_kurtosis, numbers)
        honest_sigma = max(MIN_SIGMA, _rounded_up(bound, 4))
        beyond = np.abs(found) > LIMIT_IN_SIGMAS * honest_sigma
        n_beyond = int(np.count_nonzero(beyond))
        design_effect = _design_effect(beyond)
        honest_effect = DEFAULT_DESIGN_EFFECT if design_effect is None else _rounded_up(design_effect, 2)
        if not is_enough:
            honest_effect = max(honest_effect, DEFAULT_DESIGN_EFFECT)
        beyond_bound = _share_bound(n_beyond, found.size, honest_effect if numbers > 1 else 1.0)
        honest_beyond = _rounded_up(beyond_bound, 4)
        return cls(
            n=n,
            numbers=numbers,
            sigma=sigma,
            sigma_bound=bound,
            kurtosis=kurtosis,
            mean=float(np.mean(found[:, 0])),
            largest=float(np.abs(found).max()),
            n_beyond=n_beyond,
            beyond_bound=beyond_bound,
            design_effect=design_effect,
            honest_sigma=honest_sigma,
            honest_kurtosis=_rounded_up(honest_kurtosis, 2),
            honest_beyond=honest_beyond if is_enough else max(DEFAULT_BEYOND, honest_beyond),
            honest_design_effect=honest_effect,
        )


def clipped_sigma(errors: npt.NDArray[np.float64]) -> float:
    """Return the RMS of errors that count up to 3.5 times it, any shape.

    It is the one σ > 0 with ``mean(min((e/σ)², 3.5²)) = 1``, a mean that falls as σ grows; 0 where hardly any
    error is not 0.
    """
    squares = np.square(errors)
    if np.count_nonzero(squares) * LIMIT_IN_SIGMAS**2 <= squares.size:
        return 0.0
    variance = float(np.mean(squares))
    for _ in range(_MAX_STEPS):
        smaller = float(np.mean(np.minimum(squares, LIMIT_IN_SIGMAS**2 * variance)))
        if variance - smaller <= 1e-12 * variance:
            break
        variance = smaller
    return math.sqrt(variance)


def sigma_bound(sigma: float, n: int, kurtosis: float, numbers: int = 1) -> float:
    """Return what the RMS of the errors of n nonces is at most, with 99.9 % confidence.

    ``ν₀·σ̂²/σ²`` is taken for χ² with ``ν₀ = n·ν`` degrees of freedom, as in the test of the RMS; exact for
    Gaussian errors.
    """
    from scipy.special import gammaincinv

    degrees = n * degrees_of_freedom(kurtosis, numbers)
    quantile = 2.0 * float(gammaincinv(degrees / 2, 1.0 - _CONFIDENCE))
    return sigma * math.sqrt(degrees / quantile)


def check_law(distances: Sequence[float], hidden_size: int) -> None:
    """Refuse distances that are not those of every nonce at this width.

    By the law half of all distances lie below √2, exactly, and they spread by s. What is refused would
    happen by chance in one case of a thousand million.

    Raises:
        StateError: More are below √2: a round below rate 1.
        FieldError: They spread as those of another width.
    """
    values = np.asarray(distances, dtype=np.float64)
    n_low = int(np.count_nonzero(values < math.sqrt(2)))
    if probability_at_least(n_low, values.size, 0.5 * (1 + LAW_MARGIN)) < _LAW_REJECTED:
        raise StateError(
            f"{n_low} of {values.size} distances are below √2, where half of all are: the round was below "
            "rate 1, where errors are selected; calibrate at rate 1"
        )
    spread = float(np.std(values)) / distance_std(hidden_size)
    margin = _SPREAD_MARGIN + _SPREAD_ERRORS / math.sqrt(2 * values.size)
    if not 1 - margin < spread < 1 + margin:
        raise FieldError(
            "hidden_size", hidden_size, f"the width of the model; these distances spread by {spread:.2f} s"
        )


def _checked(errors: npt.ArrayLike) -> npt.NDArray[np.float64]:
    found = np.asarray(errors, dtype=np.float64)
    if found.ndim != 2 or not found.shape[1] or not np.isfinite(found).all():
        raise ValueError("finite errors are needed, as many of each nonce")
    if len(found) < MIN_NONCES:
        raise FieldError(
            "nonces",
            len(found),
            f"at least {MIN_NONCES} that both platforms computed, better {ENOUGH_NONCES:,}",
        )
    return found


def _design_effect(beyond: npt.NDArray[np.bool_]) -> float | None:
    """By how much more the count beyond the limit varies from nonce to nonce than of independent ones."""
    share = float(np.mean(beyond))
    if np.count_nonzero(beyond) < _ENOUGH_BEYOND:
        return None
    numbers = int(beyond.shape[1])
    variance = float(np.var(np.sum(beyond, axis=1)))
    return max(1.0, float(variance / (numbers * share * (1.0 - share))))


def _share_bound(count: int, size: int, design_effect: float) -> float:
    """Return what a share is at most, by Clopper and Pearson."""
    from scipy.special import betaincinv

    worth, found = size / design_effect, count / design_effect
    return float(betaincinv(found + 1.0, max(worth - found, math.ulp(1.0)), _CONFIDENCE))


def _rounded_up(value: float, digits: int) -> float:
    return float(math.ceil(value * 10.0**digits) / 10.0**digits)
