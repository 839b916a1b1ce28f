"""Laws of large random matrices: singular values of P, entries independent with variance 1, and of I + P."""

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import gamma


def tracy_widom_p(largest: float, width: int) -> float:
    """Probability of a largest singular value above the given one, of a square matrix.

    Its square follows the Tracy-Widom law of real matrices: I. M. Johnstone, Annals of Statistics 29 (2001),
    centred as by Z. Ma, Bernoulli 18 (2012). The law itself is a shifted gamma distribution to about 1 %:
    M. Chiani, Journal of Multivariate Analysis 129 (2014).
    """
    root = math.sqrt(width - 0.5)
    centre, scale = 4 * width - 2, 2 * root * (2 / root) ** (1 / 3)
    return float(gamma.sf((largest**2 - centre) / scale + 9.84801, 46.446, scale=0.186054))


def smallest_singular_value_p(smallest: float, width: int) -> float:
    """Probability of a smallest singular value above the given one, of a square matrix.

    ``exp(−x²/2 − x)`` with ``x = √width · smallest``: A. Edelman, SIAM Journal on Matrix Analysis 9 (1988).
    """
    x = math.sqrt(width) * smallest
    return math.exp(-x * x / 2 - x)


def singular_value_density(x: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Density of the singular values over √width of a square matrix: a quarter of a circle, from 0 to 2."""
    return np.asarray(np.sqrt(np.maximum(0.0, 4 - np.square(x))) / math.pi)


def residual_singular_values(reach: float) -> tuple[float, float]:
    """Return the least and the largest singular value of ``I + P`` in the limit of large widths.

    Those of a square matrix of independent entries shifted by z: P. Bourgade, H.-T. Yau, J. Yin, Probability
    Theory and Related Fields 159 (2014).

    Args:
        reach: √width times the standard deviation of P's entries; from 1 on the least one is 0.
    """
    alpha = math.sqrt(1 + 8 / reach**2)
    largest = (alpha + 3) ** 3 / (8 * (alpha + 1))
    least = max(0.0, alpha - 3) ** 3 / (8 * (alpha - 1))
    return reach * math.sqrt(least), reach * math.sqrt(largest)
