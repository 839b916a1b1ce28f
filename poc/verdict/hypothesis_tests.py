"""The tests of a batch: each asks whether an honest prover would send it, and answers with a p-value.

A p-value is the probability that an honest batch looks at least as bad; that is at most what is stated for
every distribution that the null hypothesis allows. Errors e are those of `cosine_errors`, in units of s, the
standard deviation of the distance (`hallmark.poc.protocol.law.distance_std`).

**Selection.** Below rate 1 a batch holds only nonces with ``received < r_target``, so that an honest prover's
errors are not centred in it. Let ``computed = C ~ N(0, 1)`` and ``received = R = C + e``, with
``e ~ N(0, σ²)`` independent of C, in units of s around the median. Of e given R

    E[e | R] = ρ·R,  Var[e | R] = σ²/(1 + σ²),  ρ = σ²/(1 + σ²),

and with ``u = Φ⁻¹(rate)/√(1 + σ²)`` and ``λ(u) = φ(u)/Φ(u)``, by the moments of the truncated normal
distribution (Johnson, Kotz and Balakrishnan, Continuous Univariate Distributions 1, section 13.10.1),

    E[e  | R selected] = −σ²/√(1 + σ²) · λ(u)
    E[e² | R selected] = σ² · (1 − ρ·u·λ(u)).

That is the worst case: all noise is the prover's, and it widens the law of R. Distances of unit vectors keep
the law whatever their noise, (R, C) is exchangeable, and the mean is half of this, −σ²/2 · λ(Φ⁻¹(rate)).

**Limit.** Errors count up to ±`limit`, L = 3.5 σ: how many lie beyond it is the question of `beyond_test`.
Without a limit a single bit that flips, on either side, would convict a batch of ten thousand honest nonces
by its mean square.

**Several numbers.** A nonce gives k numbers, the errors of which share how noisy the nonce is: with
``e_j = √w · g_j``, g_j Gaussian and w ≥ 0 of the nonce, ``κ = 3·E[w²]/E[w]²``, and the mean square
``q = mean_j e_j²`` has ``Var(q) = V·E[q]²`` with ``V = (κ/3)(1 + 2/k) − 1``. So ``ν·q/E[q]`` is taken for χ²
with ``ν = 2/V`` degrees of freedom (Satterthwaite, Biometrics Bulletin 2, 1946); exact for κ = 3, where
ν = k, and of one number V is κ − 1.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hallmark.poc.core.checks import INTEGER_LIMIT, check_float, check_integer
from hallmark.poc.core.errors import FieldError

__all__ = [
    "LAW_MARGIN",
    "LIMIT_IN_SIGMAS",
    "PROBABILITY_MISMATCH",
    "NonceBound",
    "beyond_test",
    "binomial_test",
    "bonferroni",
    "cosine_errors",
    "counted_kurtosis",
    "degrees_of_freedom",
    "density_bounds",
    "density_test",
    "mean_squares",
    "nonce_bound",
    "number_errors",
    "probability_at_least",
    "probability_at_most",
    "rms_test",
    "selected_mean",
    "selected_mean_square",
    "signed_mean_test",
]

PROBABILITY_MISMATCH = 5e-4
"""p0: the probability that an honest claim is invalid, where its mean square or r_target decides."""

LIMIT_IN_SIGMAS = 3.5
"""L: how far errors count, in honest sigmas."""

_TAIL = 5e-5
"""Of χ², for a bound that honest nonces are beyond with p0 at most.

χ² has the first two moments of an honest mean square, not its tail: by simulation with scales of gamma and
lognormal distributions, κ 3 to 6 and k to 16, up to ten times as many nonces lie beyond this quantile.
"""

_LARGEST_BOUND = 3.4
"""In honest sigmas. Clipped errors keep a nonce's RMS below 3.5, so that a larger bound would find none."""

LAW_MARGIN = 0.011
"""How far the valid rate may be from the law's, relatively: what targets drawn from the table deviate by."""


def probability_at_least(k: int, n: int, p: float) -> float:
    """P[Binomial(n, p) ≥ k], exact, by the regularised incomplete beta function."""
    from scipy.special import betainc

    if k <= 0:
        return 1.0
    return float(betainc(k, n - k + 1, p)) if k <= n else 0.0


def probability_at_most(k: int, n: int, p: float) -> float:
    """P[Binomial(n, p) ≤ k], exact: as many failures at least as are left."""
    return probability_at_least(n - k, n, 1.0 - p)


def bonferroni(p_values: Iterable[float]) -> float:
    """Return the combined p-value of m tests, min(1, m·min p), valid however they depend on each other.

    Source: Dunn, Multiple comparisons among means, JASA 56 (1961). 1 where there is no test.
    """
    values = [*p_values]
    return min(1.0, len(values) * min(values)) if values else 1.0


def binomial_test(n_invalid: int, n_judged: int, probability: float = PROBABILITY_MISMATCH) -> float:
    """P[Binomial(n_judged, p0) ≥ n_invalid]: an honest claim is invalid with probability p0 at most."""
    return probability_at_least(n_invalid, n_judged, probability)


class NonceBound(NamedTuple):
    """When a nonce's claim is invalid.

    Attributes:
        size: The largest valid RMS of its errors, in honest sigmas.
        probability: That of an honest nonce to be beyond it, p0.
    """

    size: float
    probability: float


def counted_kurtosis(kurtosis: float) -> float:
    """Return what a kurtosis counts as.

    From that of Gaussian errors to that of errors all at the limit, 12.25.
    """
    return min(max(kurtosis, 3.0), LIMIT_IN_SIGMAS**2)


def degrees_of_freedom(kurtosis: float, numbers: int) -> float:
    """ν of one nonce's mean square: 2/V; k for Gaussian errors. See the module's docstring."""
    return 2.0 / _relative_variance(counted_kurtosis(kurtosis), numbers)


def _relative_variance(kurtosis: float, numbers: int) -> float:
    """V, the variance of a nonce's mean square over the square of its mean; κ − 1 for one number."""
    return (kurtosis / 3.0) * (1.0 + 2.0 / numbers) - 1.0


def nonce_bound(numbers: int, kurtosis: float, beyond: float) -> NonceBound:
    """Bound the RMS of an honest nonce's errors.

    A single number is invalid beyond the limit. Of several, the bound on the RMS of clipped errors is
    ``t = √(χ²⁻¹_ν(1 − 5e-5)/ν)``, and where that is above 3.4 σ, 3.4 σ: few honest nonces have nearly all of
    their numbers at the limit, at most as many as have one beyond it.

    Args:
        numbers: How many a nonce gives, k.
        kurtosis: Of honest errors.
        beyond: The share of honest errors beyond the limit, at most.
    """
    from scipy.special import gammainccinv

    if numbers == 1:
        return NonceBound(LIMIT_IN_SIGMAS, beyond)
    half = degrees_of_freedom(kurtosis, numbers) / 2
    size = math.sqrt(float(gammainccinv(half, _TAIL)) / half)
    if size > _LARGEST_BOUND:
        return NonceBound(_LARGEST_BOUND, beyond)
    return NonceBound(size, PROBABILITY_MISMATCH)


def mean_squares(errors: npt.NDArray[np.float64], limit: float = math.inf) -> npt.NDArray[np.float64]:
    """Return the mean square of each nonce's errors, [n] of [n, k], each error counting up to ±limit."""
    return np.asarray(np.mean(np.square(np.clip(errors, -limit, limit)), axis=-1))


def beyond_test(errors: npt.ArrayLike, limit: float, probability: float, design_effect: float = 1.0) -> float:
    """Are more errors beyond the limit than honest ones are? Else clipping would let garbage pass.

    H0: an error is beyond ±limit with `probability` at most. The errors of a nonce are not independent: m of
    them are worth ``⌈m/δ⌉`` independent ones, and as many beyond it as there are ``⌊count/δ⌋``,
    ``p = P[Bin(⌈m/δ⌉, p) ≥ ⌊count/δ⌋]`` (Kish, Survey Sampling (1965), section 8.2).

    Args:
        errors: In units of s, at least one; any shape.
        limit: In units of s.
        probability: Of an honest error to be beyond it.
        design_effect: δ: how many errors are worth one, from 1 on.

    Raises:
        FieldError: There is no error, one is not finite, or a parameter is out of its range.
    """
    check_float("probability", probability, least=0.0, most=1.0, allowed="a number from 0 to 1")
    check_float("design_effect", design_effect, least=1.0, most=math.inf, allowed="a finite number from 1 on")
    found = _finite(errors)
    count = int(np.count_nonzero(np.abs(found) > limit))
    worth = math.ceil(found.size / design_effect)
    return probability_at_least(math.floor(count / design_effect), worth, probability)


def cosine_errors(
    received: npt.ArrayLike, computed: npt.ArrayLike, distance_std: float
) -> npt.NDArray[np.float64]:
    """Return how far received distances are off, ``(received² − computed²) / (2√2·s)``; as long as both.

    As ``d² = 2 − 2·y·t``, that is the error of the cosine y·t in units of its standard deviation 1/√D, and
    (received − computed)/s times the mean of the two distances over √2. Noise moves cosines alike wherever
    they are, but distances by √2/d as much: an honest batch of small distances would look noisier than it is,
    at width 1,024 and rate 0.1 by 6 % of the mean square, at width 256 and rate 0.01 by 19 %.
    """
    difference = np.square(np.asarray(received, np.float64)) - np.square(np.asarray(computed, np.float64))
    return np.asarray(difference / (2.0 * math.sqrt(2.0) * distance_std))


def number_errors(
    received: npt.ArrayLike,
    computed: npt.ArrayLike,
    distance_std: float,
    received_numbers: npt.NDArray[np.float64] | None = None,
    computed_numbers: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """Return how far numbers are off, in units of s; the first of each nonce by its distance.

    Args:
        received: Distances, [n].
        computed: Distances, [n].
        distance_std: s.
        received_numbers: [n, k]; without them the distances are all that there is.
        computed_numbers: [n, k].

    Returns:
        [n, k], or [n, 1].
    """
    errors = cosine_errors(received, computed, distance_std)[:, None]
    if received_numbers is None or computed_numbers is None:
        return errors
    # A number falls where the distance grows.
    return np.concatenate([errors, computed_numbers[:, 1:] - received_numbers[:, 1:]], axis=1)


def selected_mean(rate: float, sigma: float) -> float:
    """Return the lowest mean error that selection alone gives an honest prover: E[e | selected], 0 at rate 1.

    Args:
        rate: The round's valid rate.
        sigma: RMS of honest errors before the selection, in units of s.

    Returns:
        −σ²/√(1 + σ²) · λ(u) in units of s, never above 0; see the module's docstring.
    """
    from scipy.special import ndtri

    if rate >= 1.0:
        return 0.0
    spread = math.hypot(1.0, sigma)
    return -(sigma**2) / spread * _inverse_mills(float(ndtri(rate)) / spread)


def selected_mean_square(rate: float, sigma: float) -> float:
    """Return the largest mean square error of an honest prover: σ² at rate 1, below it E[e² | selected].

    Where the selection lowers the mean square, from rate 1/2 on, it is σ²: the noise may be the verifier's.

    Args:
        rate: The round's valid rate.
        sigma: RMS of honest errors before the selection, in units of s.

    Returns:
        σ² · max(1, 1 − ρ·u·λ(u)) in units of s²; see the module's docstring.
    """
    from scipy.special import ndtri

    if rate >= 1.0:
        return sigma**2
    spread = math.hypot(1.0, sigma)
    u = float(ndtri(rate)) / spread
    return sigma**2 * max(1.0, 1.0 - (sigma / spread) ** 2 * u * _inverse_mills(u))


def rms_test(
    errors: npt.ArrayLike,
    sigma: float,
    kurtosis: float = 3.0,
    *,
    rate: float = 1.0,
    limit: float = math.inf,
) -> float:
    """Is the mean square of the errors too large for honest noise? One-sided.

    H0: ``E[e²] ≤ M``. With ``V = (κ/3)(1 + 2/k) − 1`` of the module's docstring, ``nν·mean(e²)/M`` is taken
    for χ² with ``nν`` degrees of freedom, ``ν = 2/V``; exact for Gaussian noise. Of one number a nonce
    ``M = selected_mean_square(rate, sigma)``. Of several ``M = σ²``, and below rate 1 number 0, by which
    nonces are selected, is left out.

    Args:
        errors: In units of s, [n] or [n, k], n at least 1.
        sigma: RMS of honest errors, in units of s.
        kurtosis: Of honest errors, κ = E[e⁴]/E[e²]²; of several numbers 3 at least. With a limit it counts up
            to limit²/M, which errors within the limit cannot exceed.
        rate: The round's valid rate.
        limit: Larger errors count as this, in units of s.

    Raises:
        FieldError: There is no error, one is not finite, or a parameter is out of its range.
    """
    from scipy.special import gammaincc

    found = _checked(errors, sigma, kurtosis, rate, limit)
    found = found.reshape(len(found), -1)
    n, numbers = found.shape
    if numbers > 1 and rate < 1.0:
        found, numbers = found[:, 1:], numbers - 1
        most = sigma**2
    else:
        most = selected_mean_square(rate, sigma) if numbers == 1 else sigma**2
    if most >= limit**2:
        return 1.0  # no errors within the limit are too large
    tails = min(kurtosis, limit**2 / most)
    degrees = 2.0 * n / _relative_variance(tails if numbers == 1 else max(tails, 3.0), numbers)
    return float(gammaincc(degrees / 2, degrees * float(np.mean(np.square(found))) / most / 2))


def signed_mean_test(
    errors: npt.ArrayLike,
    sigma: float,
    kurtosis: float = 3.0,
    *,
    rate: float = 1.0,
    limit: float = math.inf,
) -> float:
    """Are the received distances lower than the computed ones on the whole? One-sided: only that pays.

    H0: ``E[e] ≥ selected_mean(rate, sigma)``. With ``z = (mean(e) − selected_mean)·√n/σ``, ``p = Φ(z)`` for
    κ ≤ 3. For heavier tails, as the excess kurtosis of a mean is (κ − 3)/n, it is the distribution function
    at z of the Student's t that has this excess and variance 1: of ``ν = 4 + 6n/(κ − 3)`` degrees of freedom.
    (Laplace noise, taken for Gaussian, gives six times the false alarms at 0.001 with n = 1, twice with
    n = 3.) Selection narrows the errors, so that σ bounds their standard deviation in it. At rate 1 the mean
    is 0 for every pair of platforms and even of models, since every unit vector has the same law against a
    uniform target.

    Args:
        errors: In units of s, at least one; any shape.
        sigma: RMS of honest errors, in units of s.
        kurtosis: Of honest errors; counts up to (limit/σ)².
        rate: The round's valid rate.
        limit: Larger errors count as this, in units of s.

    Raises:
        FieldError: There is no error, one is not finite, or a parameter is out of its range.
    """
    from scipy.special import ndtr, stdtr

    found = _checked(errors, sigma, kurtosis, rate, limit)
    excess = float(np.mean(found)) - selected_mean(rate, sigma)
    z = excess * math.sqrt(found.size) / sigma
    tails = min(kurtosis, (limit / sigma) ** 2) - 3.0
    if tails <= 0.0:
        return float(ndtr(z))
    degrees = 4.0 + 6.0 * found.size / tails
    return float(stdtr(degrees, z * math.sqrt(degrees / (degrees - 2.0))))


def density_bounds(rate: float, sigma: float) -> tuple[float, float]:
    """Return the lowest and the highest share of valid nonces that an honest prover may have.

    Noise of the prover's own widens the law by √(1 + σ²) at most, which moves the rate to
    Φ(Φ⁻¹(rate)/√(1 + σ²)); to that comes `LAW_MARGIN` on either side.
    """
    from scipy.special import ndtr, ndtri

    widened = float(ndtr(ndtri(rate) / math.hypot(1.0, sigma)))
    return min(rate, widened) * (1.0 - LAW_MARGIN), min(1.0, max(rate, widened) * (1.0 + LAW_MARGIN))


def density_test(n_valid: int, n_covered: int, rate: float, sigma: float) -> float:
    """Are there as many valid nonces as there should be in what is covered? Two-sided binomial test.

    H0: each covered nonce is valid with a probability from ``low`` to ``high`` of `density_bounds`.
    ``p = min(1, 2·min(P[B(n, low) ≤ k], P[B(n, high) ≥ k]))``.

    Args:
        n_valid: Valid nonces in the span, k.
        n_covered: Nonces of the span that count, n.
        rate: The round's valid rate, below 1.
        sigma: RMS of honest errors in units of s; may be 0.

    Raises:
        FieldError: A parameter is out of its range.
    """
    # All of a walk, the indices 0 to 2^63 − 1, are 2^63 nonces.
    check_integer("n_covered", n_covered, least=1, most=INTEGER_LIMIT)
    check_integer("n_valid", n_valid)
    _check_rate(rate, most=math.nextafter(1.0, 0.0), allowed="a number between 0 and 1, both excluded")
    check_float("sigma", sigma, least=0.0, most=math.inf, allowed="a finite number from 0 on")
    low, high = density_bounds(rate, sigma)
    too_few = probability_at_most(n_valid, n_covered, low)
    too_many = probability_at_least(n_valid, n_covered, high)
    return min(1.0, 2.0 * min(too_few, too_many))


def _inverse_mills(u: float) -> float:
    """λ(u) = φ(u)/Φ(u), by logarithms, as both are 0 in floating point far below 0."""
    from scipy.special import log_ndtr

    return math.exp(-u * u / 2 - math.log(2 * math.pi) / 2 - float(log_ndtr(u)))


def _checked(
    errors: npt.ArrayLike, sigma: float, kurtosis: float, rate: float, limit: float
) -> npt.NDArray[np.float64]:
    """Return errors that count up to the limit, after a check of everything."""
    check_float("sigma", sigma, least=math.ulp(0.0), most=math.inf, allowed="a finite number above 0")
    allowed = "a finite number above 1"
    check_float("kurtosis", kurtosis, least=math.nextafter(1.0, 2.0), most=math.inf, allowed=allowed)
    _check_rate(rate)
    if not limit > 0.0:
        raise FieldError("limit", limit, "a number above 0")
    return np.clip(_finite(errors), -limit, limit)


def _finite(errors: npt.ArrayLike) -> npt.NDArray[np.float64]:
    found = np.asarray(errors, dtype=np.float64)
    if not found.size or not np.isfinite(found).all():
        raise FieldError("errors", errors, "at least one number, all finite")
    return found


def _check_rate(rate: float, *, most: float = 1.0, allowed: str = "a number above 0, at most 1") -> None:
    check_float("rate", rate, least=math.ulp(0.0), most=most, allowed=allowed)
