"""A verdict over time beside those of batches: how often it ever convicts an honest prover, and its power.

By the product's own tests, with the noise of `verdict_power.py`, at rate 1 and in units of the honest sigma.
The numbers of nonces are those with which 99 % of provers are convicted: over time by the first nonce that
brings it, of one batch by its size, of batches of 32 by the first of them that is fraud.

Run by `python bench/verdict_over_time.py`; it takes two minutes on one core.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

import numpy as np
from _report import print_table, write_results
from verdict_power import THRESHOLDS, Floats, Settings, honest_errors, p_values

from hallmark.poc.verdict.hypothesis_tests import bonferroni
from hallmark.poc.verdict.sequential_test import log_wealths, mean_square_ratios

NUMBERS: Final = (1, 16)
BATCH: Final = 32
BATCHES: Final = 200
ERRORS: Final = {"1.2 σ": 1.2, "1.5 σ": 1.5, "2 σ": 2.0, "forger": math.sqrt(2.0) / 0.05}
"""What larger noise is, in sigmas; a forger's at a sigma of 0.05 s."""
HONEST_BEFORE: Final = 10_000
HONEST_NOISE: Final = 0.9
"""Of a prover with a good record: below what is stated, as a calibrated bound is above what it bounds."""
_POWER: Final = 0.99
_SIZES: Final = tuple(sorted({round(1.2**step) for step in range(49)}))
"""Of one batch: each about a fifth larger, to 6,300 nonces."""


def ever_convicted(
    rng: np.random.Generator,
    *,
    numbers: int,
    kurtosis: float,
    calibrated_on: int | None,
    provers: int,
    judged_alone: int,
    batches: int = BATCHES,
) -> dict[str, float]:
    """Share of honest provers that are convicted at 0.01 by the end of `batches` batches of 32 nonces.

    Args:
        rng: What is drawn from.
        numbers: Of a nonce, k.
        kurtosis: Of honest errors.
        calibrated_on: Nonces that each prover's settings are calibrated on; None: sigma and kurtosis are the
            true ones.
        provers: How many.
        judged_alone: For how many of them each batch is judged alone as well.
        batches: How many each sends.
    """
    threshold = THRESHOLDS[0]
    over_time = alone = 0
    for prover in range(provers):
        settings = Settings(1.0, kurtosis)
        if calibrated_on is not None:
            # In units of s, of which sigma is a twentieth.
            found = Settings.calibrated(honest_errors(rng, calibrated_on, numbers, kurtosis, 0.05))
            settings = found._replace(sigma=found.sigma / 0.05)
        errors = honest_errors(rng, batches * BATCH, numbers, kurtosis, 1.0)
        wealths = log_wealths(mean_square_ratios(errors, settings.sigma))
        over_time += bool(wealths.max() > -math.log(threshold))
        if prover < judged_alone:
            alone += any(_combined(batch, settings) < threshold for batch in np.split(errors, batches))
    return {"over time": over_time / provers, "a batch alone": alone / judged_alone}


def nonces_over_time(
    rng: np.random.Generator,
    settings: Settings,
    *,
    numbers: int,
    noise: float,
    trials: int,
    most: int,
    honest_before: int = 0,
) -> dict[float, int | None]:
    """Return nonces of larger noise until 99 % of provers are convicted, by threshold.

    None: more than `most`.
    """
    kurtosis = settings.kurtosis
    record = honest_errors(rng, honest_before, numbers, kurtosis, HONEST_NOISE)
    passages: dict[float, list[int]] = {threshold: [] for threshold in THRESHOLDS}
    for _ in range(trials):
        errors = np.concatenate([record, honest_errors(rng, most, numbers, kurtosis, noise)])
        wealths = log_wealths(mean_square_ratios(errors, settings.sigma))
        for threshold, passed in passages.items():
            [convicted] = np.nonzero(wealths > -math.log(threshold))
            if convicted.size:
                passed.append(max(0, int(convicted[0]) + 1 - honest_before))
    last = math.ceil(_POWER * trials)
    return {
        threshold: sorted(passed)[last - 1] if len(passed) >= last else None
        for threshold, passed in passages.items()
    }


def nonces_in_one_batch(
    rng: np.random.Generator, settings: Settings, *, numbers: int, noise: float, trials: int
) -> dict[float, int | None]:
    """Return the smallest batch that is fraud in 99 % of trials, at each threshold; None: more than 6,300."""
    found: dict[float, int | None] = dict.fromkeys(THRESHOLDS)
    for size in _SIZES:
        open_ = [threshold for threshold, smallest in found.items() if smallest is None]
        if not open_:
            break
        combined = _trials(rng, settings, numbers, noise, size, trials)
        found |= {each: size for each in open_ if np.mean(combined < each) >= _POWER}
    return found


def nonces_in_batches(
    rng: np.random.Generator, settings: Settings, *, numbers: int, noise: float, trials: int
) -> dict[float, int | None]:
    """Return nonces in batches of 32 until 99 % of provers had one that is fraud.

    None: too rare to be seen.
    """
    combined = _trials(rng, settings, numbers, noise, BATCH, trials)
    found: dict[float, int | None] = {}
    for threshold in THRESHOLDS:
        share = float(np.mean(combined < threshold))
        if share >= _POWER:
            found[threshold] = BATCH
        elif share * trials < 10:
            found[threshold] = None
        else:
            found[threshold] = BATCH * math.ceil(math.log(1.0 - _POWER) / math.log1p(-share))
    return found


def _trials(
    rng: np.random.Generator, settings: Settings, numbers: int, noise: float, size: int, trials: int
) -> Floats:
    """Return the combined p-values of batches of larger noise."""
    return np.array(
        [
            _combined(honest_errors(rng, size, numbers, settings.kurtosis, noise), settings)
            for _ in range(trials)
        ]
    )


def _combined(errors: Floats, settings: Settings) -> float:
    return bonferroni(p_values(errors, settings).values())


def _alarm_rows(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for numbers in NUMBERS:
        for kurtosis in (3.0, 4.0, 6.0):
            for calibrated_on in (None, 6_000):
                yield {
                    "what": "ever convicted",
                    "numbers": numbers,
                    "kurtosis": kurtosis,
                    "calibrated_on": calibrated_on,
                    **ever_convicted(
                        rng,
                        numbers=numbers,
                        kurtosis=kurtosis,
                        calibrated_on=calibrated_on,
                        provers=1_000,
                        judged_alone=50,
                    ),
                }


def _power_rows(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for numbers in NUMBERS:
        for kurtosis in (3.0, 5.0):
            settings = Settings(1.0, kurtosis)
            for name, noise in ERRORS.items():
                most = 4_000 if noise < 1.5 else 1_000
                given: dict[str, Any] = {"numbers": numbers, "noise": noise}
                found = {
                    "over time": nonces_over_time(rng, settings, **given, trials=300, most=most),
                    "late": nonces_over_time(
                        rng, settings, **given, trials=100, most=most, honest_before=HONEST_BEFORE
                    ),
                    "one batch": nonces_in_one_batch(rng, settings, **given, trials=200),
                    "batches": nonces_in_batches(rng, settings, **given, trials=500),
                }
                yield {
                    "what": "nonces to convict",
                    "numbers": numbers,
                    "kurtosis": kurtosis,
                    "error": name,
                    **{
                        f"{way} at {threshold:g}": nonces
                        for way, of in found.items()
                        for threshold, nonces in of.items()
                    },
                }


def main() -> None:
    """Simulate, print and write."""
    rng = np.random.default_rng(3)
    alarms = [*_alarm_rows(rng)]
    print_table(alarms)
    powers = [*_power_rows(rng)]
    print_table(powers)
    rows: Sequence[dict[str, Any]] = [*alarms, *powers]
    write_results(
        "verdict_over_time",
        "cpu",
        about=(
            f"Shares of honest provers that are convicted at 0.01 by the end of {BATCHES} batches of {BATCH} "
            "nonces, over time or by any of the batches; and how many nonces convict a prover with larger "
            f"noise with a power of 99 %, at once or after {HONEST_BEFORE:,} honest nonces. Units: sigmas."
        ),
        rows=rows,
        packages=("numpy", "scipy", "hallmark-poc"),
    )


if __name__ == "__main__":
    main()
