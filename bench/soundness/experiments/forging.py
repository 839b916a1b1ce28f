"""Can distances be forged from a prediction of the output, without running the model?

The predictors of `_predictors.py` say where a nonce's output points. A forger claims the distances that
follow (`_forging.py`), at rate 1 for every nonce, below it for those predicted to be nearest. Its errors are
taken with the protocol's own targets; how soon it is convicted is simulated with the product's tests,
combined as in a verdict. Nothing is run honestly: batches that mix honest and forged nonces are another
experiment.

- `rows`: each setting, predictor and valid rate: the prediction's cost as a share of a forward (`cost`), its
  mean cosine with the truth, the claims' error as RMS and mean in units of s, the share of them beyond the
  tolerance (`beyond`), and the nonces it takes to convict with 99 % power at the thresholds 0.01 and 1e-7,
  with the test that alone speaks most often (`spoke_...`). No number: `most` are not enough.
- `ladder`: the same for predictions of a given cosine, made from the truth: how good a predictor has to be.
- `samples`: the cosines of what is fitted, by the number of samples it is fitted on, in the base setting; of
  the distilled layer, the outputs it was shown, the same ones again counted again.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

import numpy as np
import torch
from _experiment import new_figure, options, write
from _forging import SIGMA, TOLERANCE, Array, forged_errors, nonces_to_convict
from _forward import Prover
from _predictors import (
    SETTINGS,
    SMALL,
    SMALL_SETTINGS,
    TESTED_BLOCK,
    Effort,
    Predictions,
    Setting,
    by_samples,
    predictions,
)
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

RATES = (1.0, 0.1)
THRESHOLDS = (0.01, 1e-7)
LADDER = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998)
REPEATS = 4
"""Targets for each output. Outputs depend on no target, so that those of further nonces serve as well."""

Row = dict[str, Any]


def distances(prover: Prover, states: Tensor, nonces: range) -> Array:
    """Distances of hidden states [n, D] from REPEATS times as many nonces' targets."""
    n = len(nonces)
    return np.concatenate(
        [prover.distances(states, range(start * n, (start + 1) * n)) for start in range(REPEATS)]
    )


def outcomes(true: Array, guessed: Array, cosine: float, hidden_size: int, most: int) -> Iterator[Row]:
    """What comes of claims by a prediction, at each valid rate."""
    for rate in RATES:
        forged = forged_errors(true, guessed, cosine, rate, hidden_size)
        errors = forged.distances
        row: Row = {
            "cosine": round(cosine, 4),
            "rate": rate,
            "error_rms": round(float(np.sqrt(np.mean(errors**2))), 4),
            "error_mean": round(float(errors.mean()), 4),
            "beyond": round(float((np.abs(errors) > TOLERANCE).mean()), 4),
        }
        for threshold in THRESHOLDS:
            conviction = nonces_to_convict(forged, rate, threshold, most=most)
            row[f"nonces_{threshold:g}"] = conviction.nonces
            row[f"spoke_{threshold:g}"] = conviction.spoke
        yield row


def setting_rows(setting: Setting, found: Predictions, most: int) -> Iterator[Row]:
    """A row for each predictor and rate of a setting."""
    prover = setting.prover(TESTED_BLOCK, len(found.nonces))
    true = distances(prover, found.truth, found.nonces)
    for predictor, states in found.predicted.items():
        guessed = distances(prover, states, found.nonces)
        cosine = float(found.cosines[predictor].mean())
        named = {
            "factor": setting.factor,
            "value": setting.value,
            "predictor": predictor,
            "cost": round(found.costs[predictor].share, 5),
        }
        for row in outcomes(true, guessed, cosine, prover.spec.hidden_size, most):
            yield named | row
            if row["rate"] == 1.0:
                # The claims' error is what the cosine says, but for its spread over the nonces.
                spread = float(found.cosines[predictor].std())
                expected = math.sqrt(1 - max(0.0, cosine) ** 2 + spread**2)
                assert abs(row["error_rms"] / expected - 1) < 0.1, (named, row, expected)


def ladder_rows(setting: Setting, found: Predictions, most: int) -> Iterator[Row]:
    """What comes of predictions of a given cosine: the output, turned by its angle in a random direction."""
    prover = setting.prover(TESTED_BLOCK, len(found.nonces))
    true = distances(prover, found.truth, found.nonces)
    truth = functional.normalize(found.truth, dim=-1)
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(truth.shape, generator=draw)
    noise = functional.normalize(noise - (noise * truth).sum(-1, keepdim=True) * truth, dim=-1)
    for cosine in LADDER:
        guessed = distances(prover, cosine * truth + math.sqrt(1 - cosine**2) * noise, found.nonces)
        yield from outcomes(true, guessed, cosine, prover.spec.hidden_size, most)


def findings(rows: Sequence[Row], ladder: Sequence[Row], samples: Sequence[Row], most: int) -> list[str]:
    """What the numbers say."""
    everywhere = [row for row in rows if row["rate"] == 1.0]
    base = [row for row in everywhere if row["factor"] == "base"]
    closest = max(base, key=_cosine)
    cheap = max((row for row in base if row["cost"] < 0.1), key=_cosine)
    least = min(everywhere, key=_error)
    missed = [row for row in rows if row["nonces_1e-07"] is None]
    needed = math.sqrt(1 - SIGMA**2)
    hardest = max(
        (row for row in rows if row["nonces_1e-07"] is not None), key=lambda row: int(row["nonces_1e-07"])
    )
    spoke = sorted({row["spoke_1e-07"] for row in rows if row["spoke_1e-07"]})
    return [
        "Forging every distance from a prediction of the output, without running the model, at rate 1: in "
        f"the base setting the best prediction for less than a tenth of a forward (`{cheap['predictor']}`, "
        f"cosine {cheap['cosine']:.2f}) misses by {cheap['error_rms']:.2f} s, {cheap['beyond']:.0%} of its "
        f"claims by more than the tolerance of {TOLERANCE:g} s, and is convicted with 99 % power by "
        f"{_count(cheap['nonces_0.01'], most)} nonces at the threshold 0.01 and by "
        f"{_count(cheap['nonces_1e-07'], most)} at 1e-7. The closest of all (`{closest['predictor']}`, "
        f"{closest['cost']:.0%} of a forward, cosine {closest['cosine']:.2f}) misses by "
        f"{closest['error_rms']:.2f} s and takes {_count(closest['nonces_0.01'], most)} and "
        f"{_count(closest['nonces_1e-07'], most)} nonces.",
        f"Over all {len({(row['factor'], row['value']) for row in rows})} settings the smallest error of a "
        f"forger is {least['error_rms']:.2f} s ({least['factor']} {least['value']}, `{least['predictor']}`, "
        f"{least['cost']:.0%} of a forward), which is "
        + (
            f"{least['error_rms'] / SIGMA:.1f} times the {SIGMA:.2f} s that honest nonces are allowed."
            if least["error_rms"] > SIGMA
            else f"within the {SIGMA:.2f} s that honest nonces are allowed: there the forger is not found."
        ),
        (
            f"Every forger of the {len(rows)} is convicted at the threshold 1e-7, at the latest after "
            f"{_count(hardest['nonces_1e-07'], most)} nonces ({hardest['factor']} {hardest['value']}, "
            f"`{hardest['predictor']}`, rate {hardest['rate']:g}); the tests that speak are "
            f"{' and '.join(spoke)}."
            if not missed
            else f"{len(missed)} of the {len(rows)} forgers are not convicted by {most:,} nonces at the "
            f"threshold 1e-7, the first of them {missed[0]['predictor']} with {missed[0]['factor']} "
            f"{missed[0]['value']} at rate {missed[0]['rate']:g}."
        ),
        *_selected_finding(rows, most),
        f"To stay within the {SIGMA:.2f} s of honest noise, a prediction needs a cosine of {needed:.3f}. "
        "Made from the truth, at rate 1, predictions of cosine "
        + ", ".join(
            f"{row['cosine']:g} are convicted by {_count(row['nonces_1e-07'], most)} nonces"
            for row in ladder
            if row["rate"] == 1.0 and row["cosine"] >= 0.9
        )
        + " at 1e-7: who predicts better than that forges unseen, and has in effect run the model.",
        *_factor_finding(everywhere),
        *_samples_finding(samples),
    ]


def _selected_finding(rows: Sequence[Row], most: int) -> Iterator[str]:
    """Whether forging is easier or harder to find where only some nonces count."""
    pairs: dict[tuple[str, ...], dict[float, Row]] = {}
    for row in rows:
        pairs.setdefault((row["factor"], row["value"], row["predictor"]), {})[row["rate"]] = row
    more = [pair for pair in pairs.values() if _needed(pair[0.1]) > _needed(pair[1.0])]
    cheap = max(
        (pair for pair in pairs.values() if pair[1.0]["factor"] == "base"), key=lambda p: _cosine(p[1.0])
    )
    yield (
        "At rate 0.1 a forger claims only the nonces predicted to be nearest, and meets the density "
        f"test's rate. In the base setting the claims of `{cheap[1.0]['predictor']}` are then off by "
        f"{cheap[0.1]['error_rms']:.2f} s instead of {cheap[1.0]['error_rms']:.2f} s, and it takes "
        f"{_count(cheap[0.1]['nonces_1e-07'], most)} nonces instead of "
        f"{_count(cheap[1.0]['nonces_1e-07'], most)} to convict it at 1e-7; of {len(pairs)} forgers "
        f"{len(more)} need more nonces at rate 0.1 than at rate 1."
    )


def _factor_finding(rows: Sequence[Row]) -> Iterator[str]:
    """How the best cheap predictor's cosine changes with each factor."""
    best: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row["factor"], row["value"])
        if row["cost"] < 0.1 and (key not in best or _cosine(row) > _cosine(best[key])):
            best[key] = row
    parts = [
        f"{factor} {value} {row['cosine']:.2f} ({row['error_rms']:.2f} s)"
        for (factor, value), row in best.items()
        if factor != "base"
    ]
    base = best["base", "base"]
    yield (
        "The best prediction for less than a tenth of a forward has the cosine (and the error of its "
        f"claims at rate 1) {base['cosine']:.2f} ({base['error_rms']:.2f} s) in the base setting; one "
        f"factor changed at a time: {', '.join(parts)}."
    )


def _samples_finding(samples: Sequence[Row]) -> Iterator[str]:
    """Whether the fitted predictors have all the samples that they need."""
    by_predictor: dict[str, list[Row]] = {}
    for row in samples:
        by_predictor.setdefault(row["predictor"], []).append(row)
    parts = [
        f"`{name}` {', '.join(format(row['cosine'], '.3f') for row in of_it)}"
        for name, of_it in by_predictor.items()
        if name != "distilled layer"
    ]
    counts = sorted({row["samples"] for row in samples if row["predictor"] != "distilled layer"})
    growth = {name: of_it[-1]["cosine"] - of_it[-2]["cosine"] for name, of_it in by_predictor.items()}
    grows = max(growth, key=lambda name: growth[name])
    shown = by_predictor["distilled layer"]
    yield (
        f"Fitted on {', '.join(f'{count:,}' for count in counts)} samples, the linear maps reach cosines of: "
        f"{'; '.join(parts)}. The distilled layer reaches "
        f"{', '.join(format(row['cosine'], '.3f') for row in shown)} after "
        f"{', '.join(format(row['samples'], ',') for row in shown)} outputs shown. The last step of four "
        f"times as many brings {growth[grows]:+.3f} at most (`{grows}`): "
        + (
            "more samples will not bring these forms of predictor near the truth."
            if growth[grows] < 0.02
            else "that one is not at its end, and a forger with more time will do better than shown here."
        )
    )


def _cosine(row: Row) -> float:
    return float(row["cosine"])


def _error(row: Row) -> float:
    return float(row["error_rms"])


def _needed(row: Row) -> float:
    return math.inf if row["nonces_1e-07"] is None else float(row["nonces_1e-07"])


def _count(number: int | None, most: int) -> str:
    return f"more than {most:,}" if number is None else f"{number:,}"


def draw(rows: Sequence[Row], samples: Sequence[Row]) -> Figure:
    """The error by setting, the nonces that convict by error, the cosine by samples."""
    figure, (by_setting, by_error, by_count) = new_figure(3, width=5.0, height=4.6)
    everywhere = [row for row in rows if row["rate"] == 1.0]
    values = list(dict.fromkeys(f"{row['factor']}: {row['value']}" for row in everywhere))
    for predictor in ("mean direction", "linear, pooled", "first layer, linear head", "distilled layer"):
        of_it = [row for row in everywhere if row["predictor"] == predictor]
        places = [values.index(f"{row['factor']}: {row['value']}") for row in of_it]
        by_setting.plot([row["error_rms"] for row in of_it], places, "o", label=predictor, markersize=5)
    by_setting.axvline(TOLERANCE, color="black", linestyle="--", linewidth=1, label="tolerance")
    by_setting.axvline(SIGMA, color="black", linestyle=":", linewidth=1, label="honest noise allowed")
    by_setting.set_yticks(range(len(values)), values, fontsize=8)
    by_setting.invert_yaxis()
    by_setting.set(xlabel="error of the forged distances, s RMS", xlim=(0, 1.15))
    by_setting.legend(fontsize=7, frameon=False)

    for threshold in THRESHOLDS:
        convicted = [row for row in everywhere if row[f"nonces_{threshold:g}"] is not None]
        by_error.plot(
            [row["error_rms"] for row in convicted],
            [row[f"nonces_{threshold:g}"] for row in convicted],
            ".",
            label=f"threshold {threshold:g}",
        )
    by_error.set(xlabel="error of the forged distances, s RMS", ylabel="nonces that convict, 99 % power")
    by_error.legend(fontsize=7, frameon=False)

    for predictor in dict.fromkeys(row["predictor"] for row in samples):
        of_it = [row for row in samples if row["predictor"] == predictor]
        by_count.plot([r["samples"] for r in of_it], [r["cosine"] for r in of_it], "o-", label=predictor)
    by_count.set(xscale="log", xlabel="outputs that it is fitted on", ylabel="cosine with the truth")
    by_count.legend(fontsize=7, frameon=False)
    return figure


def main() -> None:
    chosen = options(__doc__)
    settings, effort = (SMALL_SETTINGS, SMALL) if chosen.small else (SETTINGS, Effort())
    most = 1_000 if chosen.small else 20_000
    rows: list[Row] = []
    for setting in settings:
        rows += setting_rows(setting, predictions(setting, effort), most)
        print(f"{setting.factor}: {setting.value}", flush=True)
    ladder = list(ladder_rows(settings[0], predictions(settings[0], effort), most))
    samples = by_samples(settings[0], effort)
    write(
        "forging",
        chosen,
        draw(rows, samples),
        about=(
            f"Distances forged from predictions of the final hidden state, {REPEATS * effort.tested} in each "
            "setting: error in units of s (RMS, mean), the share beyond the tolerance of "
            f"{TOLERANCE:g} s, and the nonces that convict with 99 % power at the thresholds 0.01 and 1e-7."
        ),
        rows=rows,
        ladder=ladder,
        samples=samples,
        most=most,
        findings=findings(rows, ladder, samples, most),
    )


if __name__ == "__main__":
    main()
