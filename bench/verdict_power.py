"""False alarms and power of each test of a verdict, by the product's own tests and calibration.

Honest noise is Gaussian with a scale of each nonce: errors of a nonce are √w times normal ones, w of a gamma
distribution by which they have the kurtosis asked for. Everything is in units of the honest sigma, which
cancels: at rate 1 each p-value depends on errors/σ alone. Only a total forger, who is √2 off, has to be told
σ. Rows of several numbers a nonce share the noise of the nonce.

Run by `python bench/verdict_power.py`; it takes minutes on one core.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

import numpy as np
import numpy.typing as npt
from _report import print_table, write_results

from hallmark.poc.protocol.config import DEFAULT_BEYOND, DEFAULT_DESIGN_EFFECT, DEFAULT_KURTOSIS
from hallmark.poc.verdict.calibration import Calibration
from hallmark.poc.verdict.hypothesis_tests import (
    LIMIT_IN_SIGMAS,
    beyond_test,
    binomial_test,
    bonferroni,
    mean_squares,
    nonce_bound,
    rms_test,
    signed_mean_test,
)

Floats = npt.NDArray[np.float64]

NUMBERS: Final = (1, 2, 3, 4, 16)
KURTOSES: Final = (3.0, 4.0, 6.0)
CALIBRATED_ON: Final = (64, 256, 6_000)
SIGMAS: Final = (0.05, 0.10)
THRESHOLDS: Final = (0.01, 1e-7)
BATCH: Final = 500
_SIZES: Final = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 320, 640)
_POWER: Final = 0.99


class Settings(NamedTuple):
    """What a round allows for; sigma in units of the true one, or of s."""

    sigma: float
    kurtosis: float = DEFAULT_KURTOSIS
    beyond: float = DEFAULT_BEYOND
    design_effect: float = DEFAULT_DESIGN_EFFECT

    @classmethod
    def calibrated(cls, errors: Floats) -> "Settings":
        """Take what calibration states for errors, [n, k]."""
        found = Calibration.measure(errors)
        return cls(found.honest_sigma, found.honest_kurtosis, found.honest_beyond, found.honest_design_effect)


def honest_errors(rng: np.random.Generator, n: int, numbers: int, kurtosis: float, sigma: float) -> Floats:
    """Draw the errors of n nonces, [n, numbers]."""
    errors = rng.normal(0.0, sigma, (n, numbers))
    if kurtosis > 3.0:
        shape = 3.0 / (kurtosis - 3.0)
        errors *= np.sqrt(rng.gamma(shape, 1.0 / shape, (n, 1)))
    return errors


def p_values(errors: Floats, settings: Settings) -> dict[str, float]:
    """Return the p-value of each test that a round at rate 1 asks of errors, [n, k]."""
    sigma, kurtosis, beyond, design_effect = settings
    n, numbers = errors.shape
    limit = LIMIT_IN_SIGMAS * sigma
    bound = nonce_bound(numbers, kurtosis, beyond)
    sizes = np.sqrt(mean_squares(errors, math.inf if numbers == 1 else limit))
    invalid = int(np.count_nonzero(sizes > bound.size * sigma))
    found = {
        "nonces": binomial_test(invalid, n, bound.probability),
        "rms": rms_test(errors, sigma, kurtosis, limit=limit),
        "signed_mean": signed_mean_test(errors[:, 0], sigma, kurtosis, limit=limit),
    }
    if numbers > 1:
        found["beyond"] = beyond_test(errors, limit, beyond, design_effect)
    return found


def false_alarms(
    rng: np.random.Generator,
    *,
    numbers: int,
    kurtosis: float,
    calibrated_on: int,
    calibrations: int,
    batches: int,
    n: int = BATCH,
    sigma: float = 0.05,
) -> dict[str, float]:
    """Share of honest batches of n nonces that each test alone rejects, and all of them together.

    Of `calibrations` calibrations on as many nonces, each followed by `batches` batches. A test alone speaks
    at 0.01 divided by the number of tests.
    """
    rejected: Counter[str] = Counter()
    for _ in range(calibrations):
        settings = Settings.calibrated(honest_errors(rng, calibrated_on, numbers, kurtosis, sigma))
        for _ in range(batches):
            found = p_values(honest_errors(rng, n, numbers, kurtosis, sigma), settings)
            rejected.update(name for name, p in found.items() if p * len(found) < THRESHOLDS[0])
            for threshold in THRESHOLDS:
                rejected[f"fraud at {threshold:g}"] += bonferroni(found.values()) < threshold
    trials = calibrations * batches
    names = ("nonces", "rms", "beyond", "signed_mean", *(f"fraud at {each:g}" for each in THRESHOLDS))
    return {name: rejected[name] / trials for name in names if numbers > 1 or name != "beyond"}


def nonces_to_convict(
    settings: Settings,
    errors_of: Callable[[int], Floats],
    *,
    threshold: float,
    trials: int,
    sizes: Sequence[int] = _SIZES,
    power: float = _POWER,
) -> int | None:
    """Return the fewest nonces with which errors are fraud in enough batches.

    None: all that are tried are too few.

    Args:
        settings: What the round allows for.
        errors_of: Draws the errors of n nonces, [n, k].
        threshold: For the combined p-value.
        trials: Batches of each size.
        sizes: Which numbers of nonces are tried, ascending.
        power: The share of the batches that are to be convicted.
    """
    allowed = trials * (1 - power) + 1e-9
    for n in sizes:
        acquitted = 0
        for _ in range(trials):
            acquitted += bonferroni(p_values(errors_of(n), settings).values()) >= threshold
            if acquitted > allowed:
                break
        else:
            return n
    return None


def _false_alarm_rows(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for numbers in NUMBERS:
        for kurtosis in KURTOSES:
            for count in CALIBRATED_ON:
                found = false_alarms(
                    rng,
                    numbers=numbers,
                    kurtosis=kurtosis,
                    calibrated_on=count,
                    calibrations=100,
                    batches=50,
                )
                yield {
                    "what": "false alarms",
                    "numbers": numbers,
                    "kurtosis": kurtosis,
                    "calibrated_on": count,
                    **found,
                }


def _power_rows(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for numbers in NUMBERS:
        for kurtosis in (3.0, 4.0, 5.0):
            for sigma in SIGMAS:
                found: Mapping[str, float] = {
                    "forger": math.sqrt(2.0),
                    "1.5 sigma": 1.5 * sigma,
                    "2 sigma": 2 * sigma,
                }
                row: dict[str, Any] = {
                    "what": "nonces to convict",
                    "numbers": numbers,
                    "kurtosis": kurtosis,
                    "sigma": sigma,
                }
                for name, size in found.items():
                    for threshold in THRESHOLDS:
                        row[f"{name} at {threshold:g}"] = nonces_to_convict(
                            Settings(sigma, kurtosis),
                            partial(honest_errors, rng, numbers=numbers, kurtosis=3.0, sigma=size),
                            threshold=threshold,
                            trials=200,
                        )
                yield row


def main() -> None:
    """Simulate, print and write."""
    rng = np.random.default_rng(2)
    alarms = [*_false_alarm_rows(rng)]
    print_table(alarms)
    powers = [*_power_rows(rng)]
    print_table(powers)
    rows: Sequence[Mapping[str, Any]] = [*alarms, *powers]
    write_results(
        "verdict_power",
        "cpu",
        about=(
            f"Shares of honest batches of {BATCH} nonces rejected, by calibrations on as many as said; "
            "and how many nonces convict a prover with larger noise with a power of 99 %. Units: s."
        ),
        rows=rows,
        packages=("numpy", "scipy", "hallmark-poc"),
    )


if __name__ == "__main__":
    main()
