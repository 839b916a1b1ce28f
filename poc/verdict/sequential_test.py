"""A test that may be looked at after every nonce, for ever: evidence against a prover as a bettor's wealth.

H0: whatever came before, a nonce's mean square error is what is allowed at most, ``E[q_i | past] ≤ M_i``.
Then with ``y_i = q_i/M_i`` and a bet ``0 < b < 1``

    W_t(b) = ∏ (1 + b·(y_i − 1))

is never negative and does not grow in expectation, in any order and however nonces depend on each other: a
nonnegative supermartingale that begins at 1. By Ville's inequality (Étude critique de la notion de collectif,
1939) the probability that it ever reaches 1/α is α at most, and ``p = min(1, 1/max W)`` is valid whenever the
reader chooses to look. So are averages of such wealths over bets. That is the test by betting of Waudby-Smith
and Ramdas (Estimating means of bounded random variables by betting, JRSS B 86 (2024)), for ``x = q/L²`` in
[0, 1] and a mean of at most M/L². No kurtosis is needed, nor that nonces are independent, nor that rounds
have the same σ or as many numbers.

**Late starts.** Honest errors are below the bound on the whole, and each honest nonce then costs wealth: who
was honest for a year would have to lose it all back before it is convicted. So not all is staked at once: of
the first 1, ``π_s = 1/(s(s + 1))`` is staked from nonce s on, and the rest waits. (It is the average over the
time of a change, with π for its distribution.) With S_t(b) the stake in bet b that is at hand for nonce
t + 1,

    S_0 = π_1,  S_t = (1 + b·(y_t − 1))·S_{t−1} + π_{t+1},  W_t = mean_b S_t + 1/(t + 2).

Who turns after t honest nonces needs about t² times the usual wealth, and nonces by the logarithm of that.
"""

import math
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from hallmark.poc.core.errors import FieldError
from hallmark.poc.verdict.hypothesis_tests import LIMIT_IN_SIGMAS, mean_squares, selected_mean_square

__all__ = ["BETS", "Evidence", "log_wealths", "mean_square_ratios"]

BETS: Final = (0.03, 0.12, 0.4, 0.95)
"""From errors that are little too large, of single numbers, to forgeries: each is the best of a part."""

_Floats = npt.NDArray[np.float64]


def mean_square_ratios(errors: _Floats, sigma: float, rate: float = 1.0) -> _Floats:
    """Return each nonce's mean square error over what it may be expected to be, y, [n].

    Errors count up to 3.5 σ. At rate 1, ``M = σ²``. Below it nonces are selected by number 0, which is left
    out. The others stay centred but come from noisier nonces: with the scale w of a nonce's errors, and u and
    λ(u), as in `hypothesis_tests`, to first order in σ²,

        E[e_j² | selected] = σ²·(1 − σ²·u·λ(u)/2 · Var(w)),  Var(w) = κ/3 − 1.

    M is `selected_mean_square`, that of number 0 for Gaussian noise, which is more: by quadrature up to a
    kurtosis of 6 where w has a gamma distribution, for σ to 0.2 s and rates from 10⁻⁴ on.

    Args:
        errors: In units of s, [n, k].
        sigma: RMS of honest errors, in units of s.
        rate: The round's valid rate; below 1, k is at least 2.

    Raises:
        FieldError: Below rate 1 there is no number but the one that nonces are selected by. Its selected
            mean square depends on tails that nobody knows well enough for a test without an end.
    """
    if rate < 1.0:
        if errors.shape[1] < 2:
            raise FieldError(
                "errors", f"{errors.shape[1]} of a nonce", "at least 2 of each nonce below rate 1"
            )
        errors = errors[:, 1:]
    return mean_squares(errors, LIMIT_IN_SIGMAS * sigma) / selected_mean_square(rate, sigma)


def log_wealths(ratios: npt.ArrayLike) -> _Floats:
    """Return the logarithm of the wealth after each nonce of a prover, [..., n] of ratios y of that shape."""
    values = np.asarray(ratios, dtype=np.float64)
    return _log_wealths(_log_stakes(values, 0, _FIRST_STAKES), 0)


def _log_stake(step: npt.ArrayLike) -> _Floats:
    """Of π, what is staked from a step on; steps count from 1."""
    steps = np.asarray(step, dtype=np.float64)
    return np.asarray(-np.log(steps) - np.log1p(steps))


_FIRST_STAKES: Final = (float(_log_stake(1)),) * len(BETS)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What nonces have shown against a prover so far; it is continued with more of them.

    Attributes:
        nonces: How many, t.
        log_stakes: log S_t of each of `BETS`.
        log_largest_wealth: The largest log W that there has been, at least 0.
    """

    nonces: int = 0
    log_stakes: tuple[float, ...] = _FIRST_STAKES
    log_largest_wealth: float = 0.0

    def after(self, ratios: npt.ArrayLike) -> Self:
        """Return the evidence after further nonces.

        Args:
            ratios: Their y in the order in which they count, [n]; it must not depend on them.

        Raises:
            FieldError: One is negative or not finite.
        """
        values = np.asarray(ratios, dtype=np.float64)
        if not (np.isfinite(values) & (values >= 0.0)).all():
            raise FieldError("ratios", values.tolist(), "finite numbers from 0 on")
        if not values.size:
            return self
        stakes = _log_stakes(values, self.nonces, self.log_stakes)
        largest = float(_log_wealths(stakes, self.nonces).max())
        return type(self)(
            self.nonces + len(values), tuple(stakes[-1].tolist()), max(self.log_largest_wealth, largest)
        )

    @property
    def log_wealth(self) -> float:
        """Log W_t, as it is now."""
        stakes = np.asarray([self.log_stakes], dtype=np.float64)
        return float(_log_wealths(stakes, self.nonces - 1)[0])

    @property
    def p_value(self) -> float:
        """Bound the probability that an honest prover ever has this much against it."""
        return math.exp(-self.log_largest_wealth)


def _log_stakes(ratios: _Floats, before: int, log_stakes: tuple[float, ...]) -> _Floats:
    """Log S after each nonce, [..., n, bets], of ratios [..., n] that follow `before` others.

    ``S_t = P_t·(S_0 + Σ_{s ≤ t} π_{s+1}/P_s)`` with P the product of the factors, so that all are found at
    once.
    """
    bets = np.array(BETS)
    log_products = np.cumsum(np.log1p(bets * (ratios[..., None] - 1.0)), axis=-2)
    steps = before + 2 + np.arange(ratios.shape[-1])
    started = _log_stake(steps)[:, None] - log_products
    first = np.broadcast_to(np.array(log_stakes), (*ratios.shape[:-1], 1, len(bets)))
    sums = np.logaddexp.accumulate(np.concatenate([first, started], axis=-2), axis=-2)
    return np.asarray(log_products + sums[..., 1:, :])


def _log_wealths(log_stakes: _Floats, before: int) -> _Floats:
    """Log W, [..., n], of log S after each nonce, [..., n, bets], that follow `before` others."""
    waiting = -np.log(before + 3 + np.arange(log_stakes.shape[-2], dtype=np.float64))
    staked = np.logaddexp.reduce(log_stakes, axis=-1) - math.log(len(BETS))
    return np.asarray(np.logaddexp(staked, waiting))
