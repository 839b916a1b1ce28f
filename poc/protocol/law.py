"""The law of the distance: exact, for every model and every block.

For a unit vector y that does not depend on the target t, and t uniform on the unit sphere of dimension D,
``d²/4 ~ Beta(a, a)`` with ``a = (D − 1)/2``, where ``d = ‖y − t‖``.
"""

import math

import numpy as np
import numpy.typing as npt

from hallmark.poc.core.checks import check_float, check_integer

__all__ = ["distance_cdf", "distance_of", "distance_std", "number_of", "r_target_for", "valid_rate"]


def _shape(hidden_size: int) -> float:
    return (check_integer("hidden_size", hidden_size, least=2) - 1) / 2


def distance_of(number: float, hidden_size: int) -> float:
    """Return the distance of a number c, ``√(2 − 2·c/√D)``; NaN stays NaN."""
    if math.isnan(number):
        return math.nan
    return math.sqrt(max(0.0, 2.0 - 2.0 * number / math.sqrt(hidden_size)))


def number_of(distance: float, hidden_size: int) -> float:
    """Return the number c of a distance, ``√D·(1 − d²/2)``: the inverse of `distance_of`."""
    return math.sqrt(hidden_size) * (1.0 - distance**2 / 2.0)


def distance_cdf(distance: npt.ArrayLike, hidden_size: int) -> npt.NDArray[np.float64]:
    """Return the probability of a distance below the given ones, element by element; any shape, float64."""
    from scipy.special import betainc

    shape = _shape(hidden_size)
    quarter_square = np.square(np.clip(np.asarray(distance, dtype=np.float64), 0.0, 2.0)) / 4
    return np.asarray(betainc(shape, shape, quarter_square), dtype=np.float64)


def valid_rate(r_target: float, hidden_size: int) -> float:
    """Return the share of nonces whose distance is below `r_target`; exactly 1 from 2 on."""
    return float(distance_cdf(r_target, hidden_size))


def r_target_for(valid_rate: float, hidden_size: int) -> float:
    """Return the `r_target` that gives `valid_rate`; exactly 2 for rate 1.

    Raises:
        FieldError: `valid_rate` is not above 0 and at most 1.
    """
    from scipy.special import betaincinv

    rate = check_float(
        "valid_rate", valid_rate, least=math.ulp(0.0), most=1.0, allowed="a number above 0, at most 1"
    )
    shape = _shape(hidden_size)
    return 2.0 if rate == 1.0 else 2.0 * math.sqrt(float(betaincinv(shape, shape, rate)))


def distance_std(hidden_size: int) -> float:
    """Return the standard deviation of the distance under the law, s = 1/√(2·D); the unit of every error.

    It is the leading term; the exact one is up to 1 % larger from width 64 on.
    """
    return 1.0 / math.sqrt(2 * check_integer("hidden_size", hidden_size, least=2))
