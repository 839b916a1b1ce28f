"""How far honest recomputations on two platforms are apart, and what a round between them should allow for.

An error is the difference of two platforms' distances of one nonce in units of s, the standard deviation of
the distance (`hallmark.poc.protocol.law.distance_std`), which makes it comparable across widths. It is
measured at rate 1: below it only nonces with low distances are reported, and their errors are selected with
them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.protocol.config import DEFAULT_TOLERANCE, MIN_TOLERANCE
from hallmark.poc.protocol.law import distance_std
from hallmark.poc.verdict.hypothesis_tests import LAW_MARGIN, PROBABILITY_MISMATCH, probability_at_least

__all__ = [
    "ENOUGH_NONCES",
    "MIN_NONCES",
    "MIN_SIGMA",
    "Calibration",
    "check_law",
    "sigma_bound",
]

MIN_NONCES: Final = 100
"""With fewer the bounds are too wide to be of use."""

ENOUGH_NONCES: Final = 6_000
"""As many without one beyond the tolerance show with 95 % confidence that p0 = 5e-4 holds: 3/6,000."""

MIN_SIGMA: Final = 0.01
"""The least `honest_sigma` that is proposed, in units of s.

Two machines of one kind differ by exactly 0, and a test against 0 would call the next driver's last bits
fraud. A final norm that is rounded the other way moves a bf16 model's distance by up to this.
"""

_SIGMA_CONFIDENCE: Final = 0.99
_BEYOND_CONFIDENCE: Final = 0.95
_GAUSSIAN_KURTOSIS: Final = 3.0
_UNRELATED_SIGMA: Final = 0.7
"""Distances that have nothing to do with each other are √2 s apart, those of half as much are not honest."""

_LAW_REJECTED: Final = 1e-9
_SPREAD_ERRORS: Final = 6.0
_SPREAD_MARGIN: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was measured, in units of s, and the settings that follow.

    Attributes:
        n: Number of nonces.
        sigma: RMS of the errors.
        sigma_bound: What it is at most, with 99 % confidence.
        kurtosis: E[e⁴]/E[e²]² of the errors; 3 where all are 0.
        mean: Mean of the errors, first platform minus second.
        largest: The largest absolute error.
        n_beyond: Errors beyond `DEFAULT_TOLERANCE`.
        beyond_bound: What their share is at most, with 95 % confidence (Clopper and Pearson, Biometrika 26
            (1934)).
        honest_sigma: The bound on sigma, at least `MIN_SIGMA`.
        honest_kurtosis: The kurtosis, at least that of Gaussian errors.
        distance_tolerance: The default, unless sigma, or the share of errors beyond it, demands more.
    """

    n: int
    sigma: float
    sigma_bound: float
    kurtosis: float
    mean: float
    largest: float
    n_beyond: int
    beyond_bound: float
    honest_sigma: float
    honest_kurtosis: float
    distance_tolerance: float

    @classmethod
    def measure(cls, first: Sequence[float], second: Sequence[float], hidden_size: int) -> Self:
        """Compare the distances of the same nonces on two platforms.

        Args:
            first: Of one platform.
            second: Of the other, in the same order.
            hidden_size: Width of the model.

        Raises:
            FieldError: There are fewer than `MIN_NONCES`.
            StateError: The distances have little to do with each other.
            ValueError: There are not as many on either side, or one is not finite.
        """
        from scipy.special import betaincinv

        differences = np.subtract(*_checked(first, second))
        errors: npt.NDArray[np.float64] = differences / distance_std(hidden_size)
        n = errors.size
        mean_square = float(np.mean(np.square(errors)))
        sigma = math.sqrt(mean_square)
        if sigma > _UNRELATED_SIGMA:
            raise StateError(
                f"the distances are {sigma:.2f} s apart, and unrelated ones {math.sqrt(2):.2f} s: these are "
                "not two computations of the same nonces by the same model and settings"
            )
        kurtosis = float(np.mean(errors**4)) / mean_square**2 if mean_square**2 > 0.0 else _GAUSSIAN_KURTOSIS
        honest_kurtosis = max(_GAUSSIAN_KURTOSIS, kurtosis)
        sizes = np.sort(np.abs(errors))
        n_beyond = int(np.count_nonzero(sizes > DEFAULT_TOLERANCE))
        bound = sigma_bound(sigma, n, honest_kurtosis)
        honest_sigma = max(MIN_SIGMA, _rounded_up(bound, 4))
        # So many may lie beyond it that their share is still p0.
        beyond_allowed = math.floor(PROBABILITY_MISMATCH * n)
        least_tolerance = max(MIN_TOLERANCE * honest_sigma, float(sizes[n - 1 - beyond_allowed]))
        return cls(
            n=n,
            sigma=sigma,
            sigma_bound=bound,
            kurtosis=kurtosis,
            mean=float(np.mean(errors)),
            largest=float(sizes[-1]),
            n_beyond=n_beyond,
            beyond_bound=float(betaincinv(n_beyond + 1, n - n_beyond, _BEYOND_CONFIDENCE)),
            honest_sigma=honest_sigma,
            honest_kurtosis=_rounded_up(honest_kurtosis, 2),
            distance_tolerance=max(DEFAULT_TOLERANCE, _rounded_up(least_tolerance, 2)),
        )

    @property
    def holds(self) -> bool:
        """Whether it is shown that an honest claim is invalid with probability p0 at most.

        Only for the default tolerance: a larger one was chosen by looking at these errors.
        """
        return self.beyond_bound <= PROBABILITY_MISMATCH


def sigma_bound(sigma: float, n: int, kurtosis: float) -> float:
    """What the RMS of errors is at most, with 99 % confidence.

    As ``Var(e²) = σ⁴(κ − 1)``, ``ν·mean(e²)/σ²`` is taken for χ² with ``ν = 2n/(κ − 1)`` degrees of freedom
    (Satterthwaite, Biometrics Bulletin 2 (1946)); exact for Gaussian errors, κ = 3.
    """
    from scipy.special import gammaincinv

    degrees = 2.0 * n / (kurtosis - 1.0)
    quantile = 2.0 * float(gammaincinv(degrees / 2, 1.0 - _SIGMA_CONFIDENCE))
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


def _checked(
    first: Sequence[float], second: Sequence[float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    left, right = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if left.shape != right.shape or left.ndim != 1 or not np.isfinite(left - right).all():
        raise ValueError("two sequences of as many finite distances are needed")
    if left.size < MIN_NONCES:
        raise FieldError(
            "nonces",
            left.size,
            f"at least {MIN_NONCES} that both platforms computed, better {ENOUGH_NONCES:,}",
        )
    return left, right


def _rounded_up(value: float, digits: int) -> float:
    return float(math.ceil(value * 10.0**digits) / 10.0**digits)
