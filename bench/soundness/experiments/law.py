"""The law of a nonce's numbers: do they follow the closed form, independently, whatever the outputs are?

The law is a theorem on targets that do not depend on the output. So no model runs here: final hidden states
of several kinds, benign and hostile, go through the product's own steps behind a model (groups and signs of
the rows, sums, projection, targets, numbers). What is tested is that groups, targets, projection and
arithmetic are what the theorem asks for.

- `independent`: rows of normal numbers, new for each nonce.
- `clustered`: the same plus a direction that all rows share, so that two rows have a cosine of about 0.8.
- `one huge row`: as independent, and one row of each nonce is a fixed direction 100 times as long.
- `all nonces alike`: every nonce has the same hidden states, which is the most that outputs can cluster.
- `last row alike`: the readout `last`, whose one number is read of the same row in every nonce.

A row is a kind at a width, with or without the projection:

- p_law: Kolmogorov-Smirnov p-value of all numbers against the law.
- p_pairs, p_sizes: p-values of the correlations between the numbers of a nonce, and between their sizes.
- variance: mean square of the numbers; the law says 1.
- ratio_0.1: the share of the numbers whose distance is valid at rate 0.1, over 0.1.

`rates` counts valid distances against the closed form, over all rows with or without the projection.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

import numpy as np
import numpy.typing as npt
import torch
from _experiment import new_figure, options, write
from _judging import round_for
from matplotlib.figure import Figure
from scipy.stats import binomtest, chi2, kstest
from torch import Tensor

from hallmark.poc.protocol.law import distance_cdf, r_target_for
from hallmark.poc.protocol.round_tensors import RoundTensors

Numbers = npt.NDArray[np.float64]
Row = dict[str, Any]

KINDS = ("independent", "clustered", "one huge row", "all nonces alike", "last row alike")
RATES = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5)
COMMON_RATE = 0.01
"""From here on there are enough valid distances to speak of a deviation in percent."""
MIN_P_VALUE = 1e-6
"""Below it the law would be refuted; every p-value that is held against it is of a whole test, not picked."""
SEQ_LEN = 72


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed.

    Attributes:
        widths: Of the hidden states.
        blocks: Of each kind, width and setting of the projection.
        nonces: Of each block.
    """

    widths: tuple[int, ...]
    blocks: int
    nonces: int


def hidden_states(kind: str, nonces: int, width: int, draw: torch.Generator) -> Tensor:
    """Final hidden states of a kind, bf16 [nonces · SEQ_LEN, width]."""
    alike = kind in ("all nonces alike", "last row alike")
    rows = torch.randn(1 if alike else nonces, SEQ_LEN, width, generator=draw)
    if kind == "clustered":
        rows += 2 * torch.randn(width, generator=draw)
    if kind == "one huge row":
        rows[:, 20] = 100 * torch.randn(width, generator=draw)
    return rows.bfloat16().expand(nonces, -1, -1).reshape(-1, width)


def numbers_of_kind(kind: str, width: int, size: Size, *, projection: bool) -> Numbers:
    """Return the numbers of all blocks, [nonces, k], as the product makes them."""
    draw = torch.Generator().manual_seed(width)
    found = []
    for block in range(size.blocks):
        spec = round_for(
            width,
            block_hash=f"law {kind} {block}",
            seq_len=SEQ_LEN,
            batch_size=size.nonces,
            use_random_projection=projection,
            inputs="tokens",
            readout="last" if kind == "last row alike" else "rows",
        ).spec()
        tensors = RoundTensors(spec, torch.bfloat16, "cpu")
        keys = [("prover", nonce) for nonce in range(size.nonces)]
        hidden = hidden_states(kind, size.nonces, width, draw)
        found.append(tensors.numbers(hidden, keys, tensors.order(keys)))
    return torch.cat(found).numpy()


def distances_of(numbers: Numbers, width: int) -> Numbers:
    """Return the distance of each number."""
    return np.asarray(np.sqrt(np.maximum(0.0, 2 - 2 * numbers / math.sqrt(width))))


def p_value_of_law(numbers: Numbers, width: int) -> float:
    """Two-sided Kolmogorov-Smirnov p-value of numbers, any shape, against the law."""
    return float(kstest(distances_of(numbers, width).ravel(), lambda d: distance_cdf(d, width)).pvalue)


def p_value_of_pairs(values: Numbers) -> float:
    """Of the hypothesis that the columns of [n, k] values of mean 0 and variance 1 are uncorrelated.

    Σ of the squared n · r² over all pairs is chi-squared, one degree a pair.
    """
    count, columns = values.shape
    products = values.T @ values / math.sqrt(count)
    above = np.triu_indices(columns, 1)
    return float(chi2.sf(np.square(products[above]).sum(), len(above[0])))


def standard_sizes(numbers: Numbers, width: int) -> Numbers:
    """Return how far numbers are from 0, as ranks by the law: uniform, of mean 0 and variance 1."""
    ranks = np.abs(2 * distance_cdf(distances_of(numbers, width), width) - 1)
    return np.asarray((ranks - 0.5) * math.sqrt(12))


def describe(numbers: Numbers, width: int) -> Row:
    """Return the figures of a row."""
    row: Row = {
        "nonces": len(numbers),
        "k": numbers.shape[1],
        "samples": numbers.size,
        "p_law": p_value_of_law(numbers, width),
        "variance": float(np.mean(numbers**2)),
        "ratio_0.1": float(np.mean(distances_of(numbers, width) < r_target_for(0.1, width))) / 0.1,
    }
    if numbers.shape[1] > 1:
        row["p_pairs"] = p_value_of_pairs(numbers)
        row["p_sizes"] = p_value_of_pairs(standard_sizes(numbers, width))
    return row


def rates_of(results: Sequence[tuple[Row, Numbers]]) -> Iterator[Row]:
    """Valid distances against the closed form, over everything with or without the projection."""
    for projection in ("on", "off"):
        chosen = [each for each in results if each[0]["projection"] == projection]
        for rate in RATES:
            valid = sum(
                int((distances_of(numbers, row["width"]) < r_target_for(rate, row["width"])).sum())
                for row, numbers in chosen
            )
            samples = sum(numbers.size for _, numbers in chosen)
            test = binomtest(valid, samples, rate)
            interval = test.proportion_ci(0.99, "exact")
            yield {
                "projection": projection,
                "rate": rate,
                "samples": samples,
                "valid": valid,
                "ratio": valid / samples / rate,
                "low": interval.low / rate,
                "high": interval.high / rate,
                "p_value": float(test.pvalue),
            }


def p_values(rows: Sequence[Row]) -> list[float]:
    """Return all p-values of the rows."""
    return [row[name] for row in rows for name in ("p_law", "p_pairs", "p_sizes") if name in row]


def findings(rows: Sequence[Row], rates: Sequence[Row], combined: Row) -> list[str]:
    """Return what the numbers say, in words."""
    common = [row for row in rates if row["rate"] >= COMMON_RATE]
    worst = max(common, key=lambda row: abs(row["ratio"] - 1))
    outside = sum(not row["low"] <= 1 <= row["high"] for row in rates)
    samples = [row["samples"] for row in rows]
    variance = np.average([row["variance"] for row in rows], weights=samples)
    return [
        f"On {len(KINDS)} kinds of outputs at {len({row['width'] for row in rows})} widths, "
        f"{sum(samples):,} numbers in all, the closed form was not refuted: of "
        f"{combined['tests']} p-values the least, times their number, is {min(1.0, combined['least']):.2f}.",
        "The numbers of a nonce are independent as far as the tests see: the least p-value of their "
        f"correlations is {min(row['p_pairs'] for row in rows if 'p_pairs' in row):.2g}, that of their "
        f"sizes' {min(row['p_sizes'] for row in rows if 'p_sizes' in row):.2g}, over "
        f"{sum('p_pairs' in row for row in rows)} rows.",
        f"Their mean square is {variance:.4f}; the law says 1, with a standard error of "
        f"{math.sqrt(2 / sum(samples)):.4f}.",
        f"At rates from {COMMON_RATE} to {max(RATES)} the largest deviation from the closed form was "
        f"{abs(worst['ratio'] - 1):.1%} of the rate (rate {worst['rate']}, projection "
        f"{worst['projection']}); of {len(rates)} intervals of 99 %, {outside} exclude the law.",
    ]


def draw_figure(rates: Sequence[Row], rows: Sequence[Row]) -> Figure:
    """Rates over the law's, and all p-values against the uniform distribution."""
    figure, (ratio, uniform) = new_figure(2)
    for shift, projection in ((0.97, "on"), (1.03, "off")):
        chosen = [row for row in rates if row["projection"] == projection]
        ratios = np.array([row["ratio"] for row in chosen])
        below = ratios - [row["low"] for row in chosen]
        above = [row["high"] for row in chosen] - ratios
        x = [row["rate"] * shift for row in chosen]
        ratio.errorbar(x, ratios, [below, above], fmt="o", ms=4, capsize=2, label=f"projection {projection}")
    ratio.axhline(1, color="black", lw=0.8)
    ratio.set(xscale="log", xlabel="valid rate of the law", ylabel="measured rate / law, 99 % interval")
    ratio.legend(frameon=False)
    sorted_ = np.sort(p_values(rows))
    uniform.plot((np.arange(len(sorted_)) + 0.5) / len(sorted_), sorted_, ".", ms=4)
    uniform.plot([0, 1], [0, 1], color="black", lw=0.8)
    uniform.set(xlabel="quantile of the uniform distribution", ylabel="p-value of a test")
    return figure


def main() -> None:
    chosen = options(__doc__)
    size = Size((64,), 1, 64) if chosen.small else Size((256, 576, 1024), 16, 128)
    results: list[tuple[Row, Numbers]] = []
    for width in size.widths:
        for kind in KINDS:
            for projection in (True, False):
                numbers = numbers_of_kind(kind, width, size, projection=projection)
                label = {"outputs": kind, "width": width, "projection": "on" if projection else "off"}
                results.append(({**label, **describe(numbers, width)}, numbers))
    rows = [row for row, _ in results]
    rates = list(rates_of(results))
    tests = [*p_values(rows), *(row["p_value"] for row in rates)]
    combined = {"tests": len(tests), "least": min(tests) * len(tests)}
    assert combined["least"] > MIN_P_VALUE, f"the law is refuted: {combined}"
    write(
        "law",
        chosen,
        draw_figure(rates, rows),
        about=(
            f"Numbers of nonces of {SEQ_LEN} rows against the law: {size.blocks} blocks of {size.nonces} "
            "nonces for each kind of outputs, width and setting; p-values, and shares over the law's."
        ),
        rows=rows,
        rates=rates,
        combined=combined,
        findings=findings(rows, rates, combined),
    )


if __name__ == "__main__":
    main()
