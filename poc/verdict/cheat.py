"""The two sides of a question of power: a cheat that is to be found, and what a round allows honest provers.

A cheat is stated by how far its numbers are off. Its errors are taken to be as honest ones are in
`hypothesis_tests`: ``e_j = √w·g_j`` with g_j Gaussian and a scale w of the nonce, of a gamma distribution
with mean 1, by which their kurtosis is κ. Of INT8 weights more lie beyond 3.5 σ than of Gaussian errors of
the same size. To find errors with a shared scale takes more nonces than to find Gaussian ones, and those that
count up to a limit are smaller: both make what is said here the more careful.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from hallmark.poc.core.checks import check_float
from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.config import PoCConfig, sigma_of
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.hypothesis_tests import LIMIT_IN_SIGMAS, counted_kurtosis, selected_mean_square

__all__ = ["Allowance", "Cheat", "draw_scales"]

_LEAST: Final = 1e-9
_MAX_ERROR: Final = 1_000.0
_QUANTILES: Final = 4_096

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cheat:
    """A cheat that is to be found.

    Attributes:
        error: RMS of what the numbers of a wrong nonce are off by, in units of s.
        share: The share of its nonces that are wrong; the others are exact.

    Raises:
        FieldError: One is out of its range.
    """

    error: float
    share: float = 1.0

    def __post_init__(self) -> None:
        allowed = "an RMS error from 1e-9 to 1,000, in units of s"
        check_float("cheat", self.error, least=_LEAST, most=_MAX_ERROR, allowed=allowed)
        allowed = "a share of the nonces from 1e-9 to 1"
        check_float("cheat_share", self.share, least=_LEAST, most=1.0, allowed=allowed)

    def mean_square(self, limit: float, kurtosis: float = 3.0, rate: float = 1.0) -> float:
        """Return the mean square of its errors, each counting up to the limit: M₁.

        Of Gaussian errors of RMS r, with ``a = limit/r`` and ``Q = 1 − Φ``,

            E[min(e², limit²)] = r²·(1 − 2·a·φ(a) − 2·Q(a)) + 2·limit²·Q(a),

        and of ones that share a scale the mean of that over ``r = √w·error``. M₁ is `share` of it. Above rate
        1/2 and below 1 that is a weighted mean: how selection lowers M₁ is derived in `clearing`.

        Args:
            limit: In units of s.
            kurtosis: Of its errors; counts from 3 to 12.25.
            rate: The round's valid rate.
        """
        from scipy.special import ndtr, ndtri

        sizes = self.error * np.sqrt(_scale_quantiles(counted_kurtosis(kurtosis)))
        a = limit / np.maximum(sizes, 1e-300)
        beyond = ndtr(-a)
        density = np.exp(-np.square(np.minimum(a, 1e3)) / 2.0) / np.sqrt(2.0 * np.pi)
        within = np.square(sizes) * np.maximum(0.0, 1.0 - 2.0 * a * density - 2.0 * beyond)
        counted = within + 2.0 * limit**2 * beyond
        if not 0.5 < rate < 1.0:
            return self.share * float(np.mean(counted))
        selected = ndtr(ndtri(rate) / np.hypot(1.0, sizes))
        return self.share * float(np.average(counted, weights=selected))


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a round judges errors by.

    Attributes:
        sigma: RMS of honest errors in units of s.
        kurtosis: Of honest errors, as it counts: from 3 to 12.25.
        beyond: The share of honest errors beyond 3.5 σ.
        design_effect: How many of those count as one.
        threshold: For the combined p-value.
        numbers: How many numbers of a nonce are judged, k.
        rate: The round's valid rate.
    """

    sigma: float
    kurtosis: float
    beyond: float
    design_effect: float
    threshold: float
    numbers: int
    rate: float = 1.0

    @classmethod
    def of_round(cls, round_: Round, *, has_vectors: bool = True) -> Self:
        """Return what a round allows.

        Args:
            round_: The round.
            has_vectors: Whether batches bring all numbers; else each nonce is judged by its first.

        Raises:
            FieldError: As `of_config`.
        """
        numbers = round_.numbers if has_vectors else 1
        rate = 1.0 if round_.every_nonce_counts else round_.valid_rate
        return cls.of_config(round_.config, numbers, rate)

    @classmethod
    def of_config(cls, config: PoCConfig, numbers: int, rate: float) -> Self:
        """Return what the settings of a round allow.

        Args:
            config: The settings.
            numbers: How many numbers of a nonce are judged.
            rate: The round's valid rate.

        Raises:
            FieldError: The round has no sigma: the older rule says nothing of errors. Or it is below rate 1
                and a nonce has one number. That number selects the nonces: how far it is off in those that
                are delivered depends on more than the size of a cheat's errors.
        """
        tolerance = config.distance_tolerance
        if tolerance is None:
            raise FieldError(
                "distance_tolerance", None, "a number: by the older rule, none, errors are not looked at"
            )
        if rate < 1.0 and numbers < 2:
            raise FieldError(
                "numbers",
                numbers,
                "2 or more of each nonce below rate 1, with vectors: the first one selects the nonces",
            )
        return cls(
            sigma=sigma_of(tolerance) if config.honest_sigma is None else config.honest_sigma,
            kurtosis=counted_kurtosis(config.honest_kurtosis),
            beyond=config.honest_beyond,
            design_effect=config.honest_design_effect,
            threshold=config.fraud_threshold,
            numbers=numbers,
            rate=rate,
        )

    @property
    def limit(self) -> float:
        """How far errors count, in units of s."""
        return LIMIT_IN_SIGMAS * self.sigma

    @property
    def mean_square(self) -> float:
        """What a nonce's mean square error may be expected to be, M, in s²."""
        return selected_mean_square(self.rate, self.sigma)


def draw_scales(rng: np.random.Generator, count: int, kurtosis: float) -> _Floats:
    """Draw the scales w of nonces, [count]: 1 for Gaussian errors."""
    if kurtosis <= 3.0:
        return np.ones(count)
    shape = 3.0 / (kurtosis - 3.0)
    return rng.gamma(shape, 1.0 / shape, count)


def _scale_quantiles(kurtosis: float) -> _Floats:
    """Return the scales of as many equally probable parts of nonces, by the middle of each."""
    from scipy.special import gammaincinv

    if kurtosis <= 3.0:
        return np.ones(1)
    shape = 3.0 / (kurtosis - 3.0)
    found = gammaincinv(shape, (np.arange(_QUANTILES) + 0.5) / _QUANTILES) / shape
    return np.asarray(found, dtype=np.float64)
