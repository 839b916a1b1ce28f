"""What does a prover gain below rate 1 that predicts the outputs and runs only the promising nonces?

Below rate 1 a nonce counts only if its distance is small, and its target is known without a forward. A prover
that predicts the output cheaply (`_predictors.py`) knows which nonces are likely to count, runs these and
skips the others. The predictions of real models' outputs give cosines, nonce by nonce; the formula of
`_grinding.py` turns these into gains at every valid rate and share of nonces run. It is checked in each run
against the protocol's own targets, and the density test's power is that of the product's own p-values.

- `rows`: each setting and predictor: what the prediction costs as a share of a forward (`cost`), its cosine
  with the truth over the nonces (mean, standard deviation), and at rate 0.1 how many valid nonces come of one
  forward, relative to an honest prover, where the best tenth, quarter, half or nine tenths are run
  (`gain_10` to `gain_90`); `per_operation`: the largest gain with the prediction's cost counted in, and the
  share run for it.
- `rates`: the same gains in the base setting at other valid rates.
- `checks`: κ, the part of the valid nonces found, by the formula and counted with the protocol's targets.
- `density`: covered and valid nonces it takes to convict with 99 % power by the density test alone, in a
  verdict of four tests, at the thresholds 0.01 and 1e-7. The grinder declares 1 % as failed.
- `hidden`: the gain left to a grinder that skips only so many that, where so many covered nonces are judged
  together, it is convicted in one case of two (`half`) or of ten (`tenth`).
- `unseen`: the gain left to one that skips no more than the test must allow an honest prover, and that is as
  seldom convicted as that one, however many nonces are judged.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

import numpy as np
from _experiment import new_figure, options, write
from _forward import Prover
from _grinding import (
    SIGMA,
    best_share,
    covered_to_convict,
    found_share,
    gain_per_operation,
    least_density,
    reported_density,
    smallest_share,
)
from _predictors import (
    SETTINGS,
    SMALL,
    SMALL_SETTINGS,
    TESTED_BLOCK,
    Effort,
    Predictions,
    Setting,
    predictions,
)
from matplotlib.figure import Figure

from hallmark.poc.protocol.law import r_target_for
from hallmark.poc.verdict.hypothesis_tests import density_bounds
from hallmark.poc.verdict.judge import MAX_FAILED

RATE = 0.1
RATES = (0.01, 0.05, 0.1, 0.3, 0.5, 1.0)
SHARES = (0.1, 0.25, 0.5, 0.9)
THRESHOLDS = (0.01, 1e-7)
COVERED = (10**3, 10**4, 10**5, 10**6)
POWERS = {"half": 0.5, "tenth": 0.1}

Row = dict[str, Any]


def gains(rate: float, cosines: Any) -> Row:
    """Valid nonces a forward, relative to an honest prover's, by the share of the nonces that is run."""
    return {
        f"gain_{share * 100:.0f}": round(found_share(rate, share, cosines) / share, 3) for share in SHARES
    }


def setting_rows(setting: Setting, found: Predictions) -> Iterator[Row]:
    """A row for each predictor of a setting."""
    for predictor, cost in found.costs.items():
        cosines = found.cosines[predictor].numpy()
        share, gain = best_share(RATE, cosines, cost.share, cost.reused)
        yield {
            "factor": setting.factor,
            "value": setting.value,
            "predictor": predictor,
            "cost": round(cost.share, 5),
            "cosine": round(float(cosines.mean()), 4),
            "cosine_std": round(float(cosines.std()), 4),
            **gains(RATE, cosines),
            "per_operation": round(gain, 3),
            "per_operation_share": round(share, 3),
        }


def rate_rows(found: Predictions) -> Iterator[Row]:
    """The gains at each valid rate."""
    for predictor in found.costs:
        for rate in RATES:
            yield {"predictor": predictor, "rate": rate, **gains(rate, found.cosines[predictor].numpy())}


def check_rows(prover: Prover, found: Predictions, repeats: int) -> Iterator[Row]:
    """κ by the formula, and counted: which nonces are predicted to be near, and which are.

    Any target is as good as a nonce's own, since outputs do not depend on it: those of `repeats` times as
    many nonces are used. Besides chance, two hundredths of κ are left to the formula, which takes for normal
    what is nearly so.
    """
    n = len(found.nonces)
    stretches = [range(start * n, (start + 1) * n) for start in range(repeats)]
    true = np.concatenate([prover.distances(found.truth, nonces) for nonces in stretches])
    valid = true < r_target_for(RATE, prover.spec.hidden_size)
    n_valid = int(valid.sum())
    for predictor, states in found.predicted.items():
        guessed = np.concatenate([prover.distances(states, nonces) for nonces in stretches])
        for share in SHARES:
            run = guessed <= np.quantile(guessed, share)
            counted = float((valid & run).sum()) / n_valid
            formula = found_share(RATE, share, found.cosines[predictor].numpy())
            error = math.sqrt(formula * (1 - formula) / n_valid)
            row = {"predictor": predictor, "share": share, "formula": formula, "counted": counted}
            yield {**row, "standard_error": error}
            assert abs(counted - formula) < 5 * error + 0.02 * formula, (predictor, share, counted, formula)


def density_rows(found: Predictions) -> Iterator[Row]:
    """How many nonces convict a grinder by what it covers and does not find."""
    for predictor in found.costs:
        for rate in (RATE, 0.5):
            for share in SHARES:
                part = found_share(rate, share, found.cosines[predictor].numpy())
                density = reported_density(rate, part)
                row: Row = {"predictor": predictor, "rate": rate, "share": share, "found": round(part, 4)}
                for threshold in THRESHOLDS:
                    covered = covered_to_convict(rate, density, threshold)
                    row[f"covered_{threshold:g}"] = covered
                    row[f"valid_{threshold:g}"] = None if covered is None else round(covered * density)
                yield row


def hidden_rows(found: Predictions, rate: float) -> Iterator[Row]:
    """What a grinder gains that stays below detection."""
    for predictor, cost in found.costs.items():
        cosines = found.cosines[predictor].numpy()
        for threshold in THRESHOLDS:
            for covered in COVERED:
                row: Row = {"predictor": predictor, "rate": rate, "threshold": threshold, "covered": covered}
                for name, power in POWERS.items():
                    density = least_density(covered, rate, threshold, power)
                    part = min(1.0, density * (1 - MAX_FAILED) / rate)
                    share = smallest_share(rate, cosines, part)
                    part = found_share(rate, share, cosines)
                    row[f"share_{name}"] = round(share, 4)
                    row[f"gain_{name}"] = round(part / share, 3)
                    row[f"per_operation_{name}"] = round(
                        gain_per_operation(part, share, cost.share, cost.reused), 3
                    )
                yield row


def unseen_rows(found: Predictions, rate: float) -> Iterator[Row]:
    """What a grinder gains whose density is the lowest that an honest prover may have."""
    part = density_bounds(rate, SIGMA)[0] * (1 - MAX_FAILED) / rate
    for predictor, cost in found.costs.items():
        share = smallest_share(rate, found.cosines[predictor].numpy(), part)
        yield {
            "predictor": predictor,
            "rate": rate,
            "found": round(part, 4),
            "share": round(share, 4),
            "gain": round(part / share, 3),
            "per_operation": round(gain_per_operation(part, share, cost.share, cost.reused), 3),
        }


def findings(rows: Sequence[Row], rates: Sequence[Row], checks: Sequence[Row], more: Row) -> list[str]:
    """What the numbers say."""
    base = {row["predictor"]: row for row in rows if row["factor"] == "base"}
    cheap = max((row for row in base.values() if row["cost"] < 0.05), key=_cosine)
    closest = max(base.values(), key=_cosine)
    paying = max(base.values(), key=lambda row: float(row["per_operation"]))
    deviations = [abs(row["counted"] - row["formula"]) / row["formula"] for row in checks]
    chance = sum(row["standard_error"] / row["formula"] for row in checks) / len(checks)
    at = {row["rate"]: row for row in rates if row["predictor"] == cheap["predictor"]}
    found = [
        f"A prover that may choose which nonces to run gains at a valid rate of {RATE:g}: in the base "
        f"setting `{cheap['predictor']}`, which costs {cheap['cost']:.2%} of a forward, predicts the "
        f"output with a cosine of {cheap['cosine']:.2f}; running the best tenth of the nonces gives "
        f"{cheap['gain_10']:.1f} times the valid nonces per forward, the best quarter "
        f"{cheap['gain_25']:.1f} times and the best half {cheap['gain_50']:.2f} times. With the "
        "prediction's own cost counted in, the most that any predictor gains is "
        f"{paying['per_operation']:.1f} times the valid nonces per operation (`{paying['predictor']}`). "
        f"The closest one, `{closest['predictor']}`, has a cosine of {closest['cosine']:.2f} and costs "
        f"{closest['cost']:.0%} of a forward. The mean direction of earlier outputs, which costs nothing, "
        f"has {base['mean direction']['cosine']:.2f}, and gains {base['mean direction']['gain_10']:.1f} "
        "times from the best tenth.",
        f"The gain is larger the rarer valid nonces are: of the best tenth by `{cheap['predictor']}` "
        + ", ".join(f"{at[rate]['gain_10']:.2f} at rate {rate:g}" for rate in RATES)
        + ". At rate 1 every nonce counts, and nothing can be gained by choosing.",
        f"These gains come from a formula in the cosines. {len(checks)} counts with the protocol's own "
        f"targets differ from it by {sum(deviations) / len(checks):.1%} on average and {max(deviations):.1%} "
        f"at most, where the counts' own standard error is {chance:.1%} on average.",
        *_factor_findings(rows),
    ]
    density = {(row["predictor"], row["rate"], row["share"]): row for row in more["density"]}
    tenth, half = (density[cheap["predictor"], RATE, share] for share in (0.1, 0.5))
    found.append(
        "Nothing that a grinder reports is false, and only the density test can convict it. At rate "
        f"{RATE:g} the one by `{cheap['predictor']}`, if it runs the best tenth, {_convicted(tenth)}; if it "
        f"runs the better half, it finds {half['found']:.1%} of the valid nonces and {_convicted(half)}."
    )
    hidden = [
        row
        for row in more["hidden"]
        if row["predictor"] == cheap["predictor"] and row["rate"] == RATE and row["threshold"] == 0.01
    ]
    unseen = [row for row in more["unseen"] if row["rate"] == RATE]
    of_it = next(row for row in unseen if row["predictor"] == cheap["predictor"])
    most = max(unseen, key=lambda row: float(row["per_operation"]))
    found.append(
        "A grinder that knows the density test skips only as much as it may. With "
        f"`{cheap['predictor']}` at rate {RATE:g}, convicted at the threshold 0.01 in one case of two at "
        "most, its gain per forward is "
        + ", ".join(
            f"{row['gain_half']:.2f} times where {row['covered']:,} are judged together" for row in hidden
        )
        + f". If it skips no more than leaves {of_it['found']:.1%} of the valid nonces, which the test must "
        "allow for noise, for the law's margin and for nonces declared as failed, no number of nonces "
        f"convicts it: {of_it['gain']:.2f} times per forward, and over all predictors up to "
        f"{most['per_operation']:.2f} times per operation, predictions included (`{most['predictor']}`). "
        + (
            "A valid rate below 1 cannot be made safe by the density test; rate 1 can not be ground at all."
            if most["per_operation"] > 1.05
            else "That is next to nothing."
        )
    )
    return found


def _factor_findings(rows: Sequence[Row]) -> Iterator[str]:
    """How the best cheap predictor's cosine changes with each factor."""
    settings: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row["factor"], row["value"])
        if row["cost"] < 0.1 and (key not in settings or _cosine(row) > _cosine(settings[key])):
            settings[key] = row
    base = settings["base", "base"]
    parts = [
        f"{factor} {value}: {row['cosine']:.2f} and {row['gain_10']:.1f} times"
        for (factor, value), row in settings.items()
        if factor != "base"
    ]
    weakest, strongest = min(settings.values(), key=_cosine), max(settings.values(), key=_cosine)
    yield (
        "The best prediction for less than a tenth of a forward has in the base setting a cosine of "
        f"{base['cosine']:.2f} with the truth, and gains {base['gain_10']:.1f} times from the best tenth. "
        f"Changed one at a time: {'; '.join(parts)}. It lies between {weakest['cosine']:.2f} "
        f"({weakest['factor']} {weakest['value']}) and {strongest['cosine']:.2f} ({strongest['factor']} "
        f"{strongest['value']}), so that "
        + (
            "no model or setting tried here is safe from grinding."
            if weakest["gain_10"] > 1.5
            else "it depends on the model whether grinding pays."
        )
    )


def _cosine(row: Row) -> float:
    return float(row["cosine"])


def _convicted(row: Row) -> str:
    """What convicts a grinder with 99 % power."""
    if row["covered_0.01"] is None:
        return "is never convicted, as that is within the test's margin"
    stricter = row["covered_1e-07"]
    return (
        f"is convicted with 99 % power once {row['covered_0.01']:,} covered nonces, {row['valid_0.01']:,} "
        "of them valid, are judged together at the threshold 0.01, and "
        + ("by no number" if stricter is None else f"{stricter:,}")
        + " at 1e-7"
    )


def draw(rows: Sequence[Row], base: Predictions, hidden: Sequence[Row]) -> Figure:
    """The gain by the share run, by setting, and what is left of it in hiding."""
    figure, (by_share, by_setting, in_hiding) = new_figure(3, width=5.0, height=4.6)
    shares = np.geomspace(0.01, 1.0, 60)
    for predictor in base.costs:
        cosines = base.cosines[predictor].numpy()
        curve = [found_share(RATE, float(share), cosines) / share for share in shares]
        by_share.plot(shares, curve, label=predictor)
    by_share.set(
        xscale="log", xlabel="share of the nonces that is run", ylabel="valid nonces per forward, relative"
    )
    by_share.set_title(f"base setting, rate {RATE:g}", loc="left", fontsize=10)
    by_share.legend(fontsize=7, frameon=False)

    values = list(dict.fromkeys(f"{row['factor']}: {row['value']}" for row in rows))
    shown = ("mean direction", "linear, pooled", "first layer, linear head", "distilled layer")
    for predictor in shown:
        of_it = [row for row in rows if row["predictor"] == predictor]
        places = [values.index(f"{row['factor']}: {row['value']}") for row in of_it]
        by_setting.plot([row["gain_10"] for row in of_it], places, "o", label=predictor, markersize=5)
    by_setting.set_yticks(range(len(values)), values, fontsize=8)
    by_setting.invert_yaxis()
    by_setting.set(
        xlabel=f"valid nonces per forward of the best tenth, relative, rate {RATE:g}", xlim=(0.5, 10.5)
    )
    by_setting.legend(fontsize=7, frameon=False)

    for predictor in shown:
        of_it = [
            row
            for row in hidden
            if row["predictor"] == predictor and row["rate"] == RATE and row["threshold"] == 0.01
        ]
        in_hiding.plot([r["covered"] for r in of_it], [r["gain_half"] for r in of_it], "o-", label=predictor)
    in_hiding.set(
        xscale="log", xlabel="covered nonces judged together", ylabel="valid nonces per forward, relative"
    )
    in_hiding.set_title("convicted in one case of two, threshold 0.01", loc="left", fontsize=10)
    return figure


def main() -> None:
    chosen = options(__doc__)
    settings, effort = (SMALL_SETTINGS, SMALL) if chosen.small else (SETTINGS, Effort())
    found = {}
    for setting in settings:
        found[setting] = predictions(setting, effort)
        print(f"{setting.factor}: {setting.value}", flush=True)
    base = found[settings[0]]
    rows = [row for setting, of_it in found.items() for row in setting_rows(setting, of_it)]
    rates = list(rate_rows(base))
    checks = list(
        check_rows(settings[0].prover(TESTED_BLOCK, effort.tested), base, repeats=16 if chosen.small else 64)
    )
    more = {
        "density": list(density_rows(base)),
        "unseen": [row for rate in (RATE, 0.5) for row in unseen_rows(base, rate)],
        "hidden": [row for rate in (RATE, 0.5) for row in hidden_rows(base, rate)],
    }
    write(
        "grinding",
        chosen,
        draw(rows, base, more["hidden"]),
        about=(
            f"Predictors of the final hidden state on {effort.tested} nonces of each setting: their cost "
            f"as a share of a forward, cosine with the truth, and at valid rate {RATE:g} the valid nonces "
            "per forward relative to an honest prover's, running the best tenth, quarter, half or nine "
            "tenths."
        ),
        rows=rows,
        rates=rates,
        checks=checks,
        findings=findings(rows, rates, checks, more),
        **more,
    )


if __name__ == "__main__":
    main()
