"""What does a prover gain below rate 1 that predicts number 0 and runs only the promising nonces?

Below rate 1 a nonce counts only if its number 0 is large, and its target is known without a forward. Who
predicts what is read with some cosine knows which nonces are likely to count, runs these and skips the
others. No model runs here: the formulas of `_grinding.py` say what each cosine is worth, the cost of the
prediction left out, and the density test's power is that of the product's own p-values. How good a cosine can
be had, and for what, depends on the model.

- `rows`: for each cosine and valid rate, how many valid nonces come of one forward, relative to an honest
  prover, where the best tenth, quarter, half or nine tenths are run (`gain_10` to `gain_90`), and
  `counted_10`, the first of them counted with numbers drawn by the law.
- `density`: covered and valid nonces it takes to convict with 99 % power by the density test alone, in a
  verdict of four tests, at the thresholds 0.01 and 1e-7. The grinder declares 1 % as failed.
- `hidden`: the gain left to a grinder that skips only so many that, where so many covered nonces are judged
  together, it is convicted in one case of two (`half`) or of ten (`tenth`).
"""

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

import numpy as np
from _experiment import new_figure, options, write
from _grinding import covered_to_convict, found_share, least_density, reported_density, smallest_share
from matplotlib.figure import Figure
from scipy.special import betaincinv

from hallmark.poc.verdict.judge import MAX_FAILED

WIDTH = 576
RATE = 0.1
RATES = (0.01, 0.1, 0.5, 1.0)
COSINES = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98)
SHARES = (0.1, 0.25, 0.5, 0.9)
THRESHOLDS = (0.01, 1e-7)
COVERED = (10**3, 10**4, 10**5, 10**6)
POWERS = {"half": 0.5, "tenth": 0.1}

Row = dict[str, Any]


def gain_rows(count: int) -> Iterator[Row]:
    """Yield the gain of each cosine at each rate.

    Args:
        count: Nonces of the check of the formula.
    """
    for cosine in COSINES:
        for rate in RATES:
            row: Row = {"cosine": cosine, "rate": rate}
            for share in SHARES:
                row[f"gain_{share * 100:.0f}"] = round(found_share(rate, share, [cosine]) / share, 3)
            row["counted_10"] = round(counted_gain(cosine, rate, SHARES[0], count), 3)
            n_found = count * rate * SHARES[0] * row["gain_10"]
            error = row["gain_10"] / math.sqrt(n_found)
            assert abs(row["counted_10"] - row["gain_10"]) < 5 * error + 0.02 * row["gain_10"], row
            yield row


def counted_gain(cosine: float, rate: float, share: float, count: int) -> float:
    """Return the gain counted.

    Targets are uniform, and the true output has the cosine with the predicted one.
    """
    if rate == 1.0:
        return 1.0
    draw = np.random.default_rng(round(1e4 * cosine))
    # A uniform target's parts along the prediction, and along what is left of the output.
    first, second = draw.standard_normal((2, count))
    length = np.sqrt(first**2 + second**2 + draw.chisquare(WIDTH - 2, count))
    predicted, true = first / length, (cosine * first + math.sqrt(1 - cosine**2) * second) / length
    half = (WIDTH - 1) / 2
    valid = true > 1 - 2 * betaincinv(half, half, rate)
    run = predicted >= np.quantile(predicted, 1 - share)
    return float((valid & run).sum() / run.sum() / rate)


def density_rows() -> Iterator[Row]:
    """Yield how many nonces convict a grinder by what it covers and does not find."""
    for cosine in COSINES:
        for share in SHARES:
            part = found_share(RATE, share, [cosine])
            density = reported_density(RATE, part)
            row: Row = {"cosine": cosine, "rate": RATE, "share": share, "found": round(part, 4)}
            for threshold in THRESHOLDS:
                covered = covered_to_convict(RATE, density, threshold)
                row[f"covered_{threshold:g}"] = covered
                row[f"valid_{threshold:g}"] = None if covered is None else round(covered * density)
            yield row


def hidden_rows() -> Iterator[Row]:
    """Yield what a grinder gains that stays below detection."""
    for cosine in COSINES:
        for threshold in THRESHOLDS:
            for covered in COVERED:
                row: Row = {"cosine": cosine, "rate": RATE, "threshold": threshold, "covered": covered}
                for name, power in POWERS.items():
                    density = least_density(covered, RATE, threshold, power)
                    part = min(1.0, density * (1 - MAX_FAILED) / RATE)
                    share = smallest_share(RATE, [cosine], part)
                    row[f"share_{name}"] = round(share, 4)
                    row[f"gain_{name}"] = round(found_share(RATE, share, [cosine]) / share, 3)
                yield row


def findings(rows: Sequence[Row], density: Sequence[Row], hidden: Sequence[Row]) -> list[str]:
    """Return what the numbers say."""
    at_rate = {row["cosine"]: row for row in rows if row["rate"] == RATE}
    low, high = min(at_rate), 0.9
    by_rate = {row["rate"]: row["gain_10"] for row in rows if row["cosine"] == high}
    tenth = {row["cosine"]: row for row in density if row["share"] == SHARES[0]}
    below = [row for row in hidden if row["cosine"] == high and row["threshold"] == THRESHOLDS[0]]
    off = [abs(row["counted_10"] / row["gain_10"] - 1) for row in rows]
    return [
        f"At a valid rate of {RATE:g} the best tenth of the nonces gives {at_rate[low]['gain_10']:.2f} times "
        f"the valid nonces per forward with a prediction of cosine {low:g}, and "
        f"{at_rate[high]['gain_10']:.2f} times with one of {high:g}.",
        f"The gain is larger the rarer valid nonces are: with a cosine of {high:g} it is "
        + ", ".join(f"{gain:.2f} at rate {rate:g}" for rate, gain in by_rate.items())
        + ". At rate 1 every nonce counts, and nothing is gained by choosing.",
        f"Counts with targets drawn by the law differ from the formula by {np.mean(off):.1%} on average and "
        f"{max(off):.1%} at most.",
        "Nothing that a grinder reports is false, and the density test alone can convict it: who runs the "
        f"best tenth with a cosine of {high:g} is convicted with 99 % power by {_covered(tenth[high])}, "
        f"and with one of {low:g} by {_covered(tenth[low])}.",
        f"One that knows the density test skips only as much as it may. With a cosine of {high:g}, convicted "
        f"at the threshold {THRESHOLDS[0]:g} in one case of two at most, its gain is "
        + ", ".join(f"{row['gain_half']:.2f} for {row['covered']:,}" for row in below)
        + " covered nonces judged together.",
    ]


def _covered(row: Row) -> str:
    covered = row["covered_1e-07"]
    return "more than can be covered" if covered is None else f"{covered:,} covered nonces at 1e-7"


def draw_figure(rows: Sequence[Row], hidden: Sequence[Row]) -> Figure:
    """Return the gain by the share run, by the rate, and what is left of it in hiding."""
    figure, (by_share, by_rate, in_hiding) = new_figure(3)
    shares = np.geomspace(0.01, 1.0, 60)
    for cosine in COSINES:
        label = f"cosine {cosine:g}"
        curve = [found_share(RATE, float(share), [cosine]) / share for share in shares]
        by_share.plot(shares, curve, label=label)
        of_it = [row for row in rows if row["cosine"] == cosine]
        by_rate.plot([row["rate"] for row in of_it], [row["gain_10"] for row in of_it], "o-", ms=3)
        of_it = [r for r in hidden if r["cosine"] == cosine and r["threshold"] == THRESHOLDS[0]]
        in_hiding.plot([r["covered"] for r in of_it], [r["gain_half"] for r in of_it], "o-", ms=3)
    by_share.set(xscale="log", xlabel="share of the nonces that is run", ylabel="valid nonces per forward")
    by_share.set_title(f"rate {RATE:g}", loc="left", fontsize=10)
    by_share.legend(fontsize=7, frameon=False)
    by_rate.set(xscale="log", xlabel="valid rate")
    by_rate.set_title("the best tenth is run", loc="left", fontsize=10)
    in_hiding.set(xscale="log", xlabel="covered nonces judged together")
    in_hiding.set_title("convicted in one case of two", loc="left", fontsize=10)
    return figure


def main() -> None:
    chosen = options(__doc__)
    rows = list(gain_rows(200_000 if chosen.small else 2_000_000))
    density, hidden = list(density_rows()), list(hidden_rows())
    write(
        "grinding",
        chosen,
        draw_figure(rows, hidden),
        about=(
            "The valid nonces per forward, relative to an honest prover's, of one that predicts what is read "
            "with a cosine and runs the best tenth, quarter, half or nine tenths of the nonces."
        ),
        rows=rows,
        density=density,
        hidden=hidden,
        findings=findings(rows, density, hidden),
    )


if __name__ == "__main__":
    main()
