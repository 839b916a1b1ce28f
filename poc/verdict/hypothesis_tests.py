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

**Limit.** Errors count up to ±`limit`, the round's tolerance: how many lie beyond it is the binomial test's
question, which allows an honest prover one in 2,000. Without a limit a single bit that flips, on either side,
would convict a batch of ten thousand honest nonces by its mean square.
"""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from hallmark.poc.core.checks import check_float, check_integer
from hallmark.poc.core.errors import FieldError

__all__ = [
    "LAW_MARGIN",
    "PROBABILITY_MISMATCH",
    "binomial_test",
    "bonferroni",
    "cosine_errors",
    "density_bounds",
    "density_test",
    "probability_at_least",
    "probability_at_most",
    "rms_test",
    "selected_mean",
    "selected_mean_square",
    "signed_mean_test",
]

PROBABILITY_MISMATCH = 5e-4
"""p0: the probability that an honest claim is invalid."""

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
    """The combined p-value of m tests, min(1, m·min p), valid however they depend on each other.

    Source: Dunn, Multiple comparisons among means, JASA 56 (1961). 1 where there is no test.
    """
    values = [*p_values]
    return min(1.0, len(values) * min(values)) if values else 1.0


def binomial_test(n_invalid: int, n_judged: int) -> float:
    """P[Binomial(n_judged, p0) ≥ n_invalid]: an honest claim is invalid with probability p0 at most."""
    return probability_at_least(n_invalid, n_judged, PROBABILITY_MISMATCH)


def cosine_errors(
    received: npt.ArrayLike, computed: npt.ArrayLike, distance_std: float
) -> npt.NDArray[np.float64]:
    """How far received distances are off, ``(received² − computed²) / (2√2·s)``; as long as both.

    As ``d² = 2 − 2·y·t``, that is the error of the cosine y·t in units of its standard deviation 1/√D, and
    (received − computed)/s times the mean of the two distances over √2. Noise moves cosines alike wherever
    they are, but distances by √2/d as much: an honest batch of small distances would look noisier than it is,
    at width 1,024 and rate 0.1 by 6 % of the mean square, at width 256 and rate 0.01 by 19 %.
    """
    difference = np.square(np.asarray(received, np.float64)) - np.square(np.asarray(computed, np.float64))
    return np.asarray(difference / (2.0 * math.sqrt(2.0) * distance_std))


def selected_mean(rate: float, sigma: float) -> float:
    """The lowest mean error that selection alone gives an honest prover: E[e | selected], 0 at rate 1.

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
    """The largest mean square error of an honest prover: σ² at rate 1, below it E[e² | selected].

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

    H0: ``E[e²] ≤ M = selected_mean_square(rate, sigma)``. As ``Var(e²) = M²(κ − 1)``, ``ν·mean(e²)/M`` is
    taken for χ² with ``ν = 2n/(κ − 1)`` degrees of freedom, which has the same first two moments
    (Satterthwaite, Biometrics Bulletin 2, 1946); for Gaussian noise, κ = 3 and ν = n, it is exact.

    Args:
        errors: In units of s, at least one; any shape.
        sigma: RMS of honest errors, in units of s.
        kurtosis: Of honest errors, κ = E[e⁴]/E[e²]². With a limit it counts up to limit²/M, which errors
            within the limit cannot exceed.
        rate: The round's valid rate.
        limit: Larger errors count as this, in units of s.

    Raises:
        FieldError: There is no error, one is not finite, or a parameter is out of its range.
    """
    from scipy.special import gammaincc

    found = _checked(errors, sigma, kurtosis, rate, limit)
    most = selected_mean_square(rate, sigma)
    if most >= limit**2:
        return 1.0  # no errors within the limit are too large
    degrees = 2.0 * found.size / (min(kurtosis, limit**2 / most) - 1.0)
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
    """The lowest and the highest share of valid nonces that an honest prover may have.

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
    check_integer("n_covered", n_covered, least=1)
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
    """Errors that count up to the limit, flat, after a check of everything."""
    check_float("sigma", sigma, least=math.ulp(0.0), most=math.inf, allowed="a finite number above 0")
    allowed = "a finite number above 1"
    check_float("kurtosis", kurtosis, least=math.nextafter(1.0, 2.0), most=math.inf, allowed=allowed)
    _check_rate(rate)
    if not limit > 0.0:
        raise FieldError("limit", limit, "a number above 0")
    found = np.asarray(errors, dtype=np.float64).ravel()
    if not found.size or not np.isfinite(found).all():
        raise FieldError("errors", errors, "at least one number, all finite")
    return np.clip(found, -limit, limit)


def _check_rate(rate: float, *, most: float = 1.0, allowed: str = "a number above 0, at most 1") -> None:
    check_float("rate", rate, least=math.ulp(0.0), most=most, allowed=allowed)
