"""The mirror of the sequential test: evidence that a prover is not a cheat that was stated, as a bet on it.

H1: whatever came before, a nonce's mean square error q is at least what the stated cheat's is on average,
``E[q_i | past] ≥ M₁``, each error counting up to L = 3.5 σ. With M, what honest noise may be, let
``y_i = q_i/M`` as in `sequential_test`, ``r = M₁/M`` and ``l = L²/M``, so that ``0 ≤ y_i ≤ l`` and
``r < l``. With a bet ``0 < b < 1/(l/r − 1)``

    W_t(b) = ∏ (1 + b·(1 − y_i/r))

is never negative, as each factor is at least ``1 − b·(l/r − 1)``, and does not grow in expectation: a
nonnegative supermartingale that begins at 1. So are averages of such wealths over bets. By Ville's inequality
(Étude critique de la notion de collectif, 1939) a cheat's wealth ever reaches 1/(1 − power) with a
probability of 1 − power at most, whenever the reader stops: who reaches it is cleared. Source of the test by
betting: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS B 86 (2024).

**What is assumed.** Nothing of the shape of the errors but what M₁ is computed by (`Cheat.mean_square`).
Nonces are drawn in an order that the prover could not know, and each is wrong by a chance of its own, of the
cheat's share, which may be larger given what came before. Where exactly so many of finitely many nonces are
wrong, those that are left hold a smaller share only after more than the share was found, which makes the
wealth small. At any number of nonces that does not depend on what was found, a cheat's expected wealth is
then still 1 at most: the mean of a product of draws without replacement is at most that of draws with it
(Maclaurin, Phil. Trans. 36 (1729)).

**Selection.** Below rate 1 nonces are selected by number 0, which is left out of q, and whose noise may be
the cheat's own. As in `hypothesis_tests` let ``R = C + e_0``, with C of N(0, 1), be what it sends, and
``R < t``, ``t = Φ⁻¹(rate)``, what is selected. Given the scale w of the nonce's errors, of RMS
``r = √w·error``, R has the variance 1 + r², so that

    P[selected | w] = Φ(t/√(1 + r²)),  M₁ = share · E[m(r)·Φ(t/√(1 + r²))] / E[Φ(t/√(1 + r²))],

with m(r) the mean square of Gaussian errors of RMS r that count up to L: the other numbers depend on R by w
alone. To first order in error², without the limit, and with u and λ(u) as in `sequential_test`, that is
``1 − error²·u·λ(u)/2 · Var(w)`` times M₁ at rate 1; it is computed in full, as a cheat's errors are not
small. Above rate 1/2, where t > 0, quieter nonces are selected oftener, and M₁ is less than at rate 1. This
is the worst case: noise that leaves the law of R as it is, as that of unit vectors does, selects no nonces by
their scale. Below rate 1/2 selection can only make M₁ larger, and it is taken to be what it is at rate 1. The
cheat's share is that of the nonces that it sends.

Unlike the test that convicts, this one stakes everything at once: a prover does not turn honest in the middle
of a random order.
"""

import math
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from hallmark.poc.core.checks import check_float
from hallmark.poc.core.errors import FieldError
from hallmark.poc.verdict.cheat import Allowance, Cheat

__all__ = ["BET_SHARES", "Clearing", "check_power", "log_clearing_wealths"]

BET_SHARES: Final = (0.1, 0.4, 0.95)
"""Bets as shares of the largest: for cheats that are hardly larger than honest noise, and for others."""

_Floats = npt.NDArray[np.float64]


def check_power(power: float) -> float:
    """Refuse a probability of finding a cheat that is none of use.

    Raises:
        FieldError: It is not from 0.5 to 0.999.
    """
    return check_float("power", power, least=0.5, most=0.999, allowed="a probability from 0.5 to 0.999")


def log_clearing_wealths(ratios: npt.ArrayLike, required: float, largest: float) -> _Floats:
    """Return the logarithm of the wealth after each nonce of a prover, [..., n] of ratios y of that shape.

    Args:
        ratios: Of `mean_square_ratios`.
        required: r, what they are on average for the stated cheat.
        largest: l, what they are at most.
    """
    values = np.asarray(ratios, dtype=np.float64)
    sums = np.cumsum(_log_factors(values, required, largest), axis=-2)
    return _log_mean(sums)


@dataclass(frozen=True, slots=True)
class Clearing:
    """What nonces have shown for a prover so far; it is continued with more of them.

    Attributes:
        required: r, what ratios are on average for the stated cheat, above 1.
        largest: l, what they are at most.
        nonces: How many there were, t.
        log_wealths: log W_t of each bet.
        log_largest_wealth: The largest log W that there has been, at least 0.
    """

    required: float
    largest: float
    nonces: int = 0
    log_wealths: tuple[float, ...] = (0.0,) * len(BET_SHARES)
    log_largest_wealth: float = 0.0

    @classmethod
    def of(cls, cheat: Cheat, allowance: Allowance) -> Self:
        """Begin for a cheat in a round; its errors are taken to have the kurtosis of honest ones.

        Raises:
            FieldError: The cheat's mean square is not above what honest noise may be.
        """
        most, limit = allowance.mean_square, allowance.limit
        required = cheat.mean_square(limit, allowance.kurtosis, allowance.rate) / most
        if required <= 1.0:
            size = math.sqrt(required * most)
            raise FieldError(
                "cheat",
                cheat.error,
                f"a cheat that can be told from honest noise: with a share of {cheat.share:g} its numbers "
                f"are off by {size:.3g} s on the whole, each up to 3.5 · honest_sigma, and honest ones may "
                f"be by {math.sqrt(most):.3g} s; calibrate a smaller sigma",
            )
        return cls(required, limit**2 / most)

    def after(self, ratios: npt.ArrayLike) -> Self:
        """Return the evidence after further nonces.

        Args:
            ratios: Their y, of `mean_square_ratios`, in the order in which they were drawn, [n].

        Raises:
            FieldError: One is not from 0 to the largest.
        """
        values = np.asarray(ratios, dtype=np.float64)
        if not ((values >= 0.0) & (values <= self.largest * (1.0 + 1e-9))).all():
            raise FieldError("ratios", values.tolist(), f"numbers from 0 to {self.largest:g}")
        if not values.size:
            return self
        sums = np.cumsum(_log_factors(values, self.required, self.largest), axis=0) + self.log_wealths
        return type(self)(
            self.required,
            self.largest,
            self.nonces + len(values),
            tuple(sums[-1].tolist()),
            max(self.log_largest_wealth, float(_log_mean(sums).max())),
        )

    @property
    def p_value(self) -> float:
        """Bound the probability that the stated cheat ever has this much for it."""
        return math.exp(-self.log_largest_wealth)

    def is_cleared(self, power: float) -> bool:
        """Return whether it is cleared; the stated cheat ever is with a probability of 1 − power at most."""
        return self.log_largest_wealth >= -math.log(1.0 - power)


def _log_factors(ratios: _Floats, required: float, largest: float) -> _Floats:
    """Log of the factor of each bet, [..., n, bets]."""
    bets = np.array(BET_SHARES) / (largest / required - 1.0)
    return np.asarray(np.log1p(bets * (1.0 - ratios[..., None] / required)))


def _log_mean(log_wealths: _Floats) -> _Floats:
    return np.asarray(np.logaddexp.reduce(log_wealths, axis=-1) - math.log(len(BET_SHARES)))
