"""What errors of an attack mean to a verdict: their size, and how many nonces convict.

A verdict sees an attack's errors plus honest noise. Errors are drawn nonce by nonce from those measured, and
noise of the calibrated size, normal with a scale of each nonce, is added; the product's own tests judge.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `python -P` leaves the benches' folder out

import numpy as np
from _altered import Floats
from _report import RESULTS
from verdict_power import Settings, honest_errors, nonces_to_convict, p_values

from hallmark.poc.protocol.config import DEFAULT_KURTOSIS, DEFAULT_TOLERANCE
from hallmark.poc.verdict.hypothesis_tests import LIMIT_IN_SIGMAS, bonferroni

THRESHOLDS: Final = (0.01, 1e-7)
MOST_NONCES: Final = 1_000
"""More are not asked for: an error that 1,000 nonces do not show is said to hide."""
SIZES: Final = (
    *(1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 250, 320, 400, 500),
    *(640, 800, MOST_NONCES),
)
POWER: Final = 0.9


@dataclass(frozen=True, slots=True)
class Honest:
    """Honest noise between two machines, and what a round may state of it.

    Attributes:
        source: The results file that it was measured in.
        sigma: RMS of the errors, clipped at 3.5 times itself, in s.
        kurtosis: Of the clipped errors.
    """

    source: str
    sigma: float
    kurtosis: float

    @property
    def settings(self) -> dict[str, Settings]:
        """What is judged by: `calibrated`, and the product's `default`."""
        return {
            "calibrated": Settings(self.sigma, self.kurtosis),
            "default": Settings(DEFAULT_TOLERANCE / LIMIT_IN_SIGMAS, DEFAULT_KURTOSIS),
        }


@cache
def measured_noise() -> Honest:
    """Read the honest noise of SmolLM2 in bf16, vLLM against transformers on a CPU, 64 rows, groups."""
    path = sorted(RESULTS.glob("noise_pairs-*.json"), key=lambda path: path.stem[-10:])[-1]
    pair = {"cpu vllm", "cpu transformers-sdpa"}
    wanted = ("tokens", 64, "groups")
    (row,) = (
        row
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]
        if {row["one"], row["other"]} == pair and (row["inputs"], row["rows"], row["readout"]) == wanted
    )
    return Honest(path.name, row["clipped"], row["clipped_kurtosis"])


def described(errors: Floats, *, trials: int, seed: int = 0) -> dict[str, Any]:
    """Say how large errors of an attack are and what convicts it.

    Args:
        errors: [nonces, k] in s.
        trials: Batches that are judged for each size.
        seed: Of the noise and the choice of nonces.
    """
    honest = measured_noise()
    limit = LIMIT_IN_SIGMAS * honest.sigma
    found: dict[str, Any] = {
        "nonces": len(errors),
        "error": rms(errors),
        "error_low": bootstrap(errors, 0.05),
        "error_high": bootstrap(errors, 0.95),
        "clipped": rms(np.clip(errors, -limit, limit)),
        "beyond": float(np.mean(np.abs(errors) > limit)),
    }
    for name, settings in honest.settings.items():
        found[f"ratio_{name}"] = found["error"] / settings.sigma
        for threshold in THRESHOLDS:
            found[f"{name}_{threshold:g}"] = nonces_to_convict(
                settings,
                noisy(errors, honest, np.random.default_rng(seed)),
                threshold=threshold,
                trials=trials,
                sizes=SIZES,
                power=POWER,
            )
    return found


def rms(errors: Floats) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(errors**2)))


def bootstrap(errors: Floats, quantile: float, repeats: int = 400) -> float:
    """Quantile of the RMS over resampled nonces, which share their errors' size."""
    squares = np.mean(errors**2, axis=1)
    chosen = np.random.default_rng(0).integers(len(errors), size=(repeats, len(errors)))
    return float(np.sqrt(np.quantile(squares[chosen].mean(axis=1), quantile)))


def noisy(errors: Floats, honest: Honest, draw: np.random.Generator) -> Callable[[int], Floats]:
    """Return what draws the errors that a verifier sees of n nonces: resampled ones plus honest noise.

    A target is as likely as its negative, so each error is as likely as its own. Without that the few nonces
    that were measured would have a mean error, which an attack has not.
    """

    def drawn(n: int) -> Floats:
        noise = honest_errors(draw, n, errors.shape[1], honest.kurtosis, honest.sigma)
        signs = draw.choice([-1.0, 1.0], size=noise.shape)
        seen: Floats = errors[draw.integers(len(errors), size=n)] * signs + noise
        return seen

    return drawn


def largest_that_hides(settings: Settings, numbers: int, *, trials: int) -> float:
    """Return the largest RMS of normal errors.

    In s, that `MOST_NONCES` nonces convict at 1e-7 with less than 90 %.

    By bisection, to a hundredth.
    """
    honest = measured_noise()
    low, high = 0.0, 1.0
    while high - low > 0.01 * high:
        size = (low + high) / 2
        draw = np.random.default_rng(0)
        convicted = 0
        for _ in range(trials):
            errors = honest_errors(draw, MOST_NONCES, numbers, honest.kurtosis, honest.sigma)
            errors += draw.normal(0.0, size, errors.shape)
            convicted += bonferroni(p_values(errors, settings).values()) < THRESHOLDS[1]
        low, high = (low, size) if convicted >= POWER * trials else (size, high)
    return low
