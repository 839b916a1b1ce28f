"""The law of the distance on models: is the valid rate the closed form's, whatever the model and the block?

Nonces of several blocks run through models of several architectures and widths, with fresh, strong and
trained weights, with and without the projection. Their distances to their own targets are tested against the
law block by block (Kolmogorov-Smirnov; over many blocks the p-values must be uniform). The law says more: it
holds for any output, and any target that is independent of it. So the targets that other public keys have for
the same nonces are further samples, exact ones, against the same cached outputs; only they make rates of a
thousandth measurable. These samples share outputs but no target.

For contrast the same outputs meet one target fixed for the block, as an older design had it. Outputs of
nonces resemble each other, so that a lucky target makes many of them valid at once.

A row is a model with its weights, with or without the projection; without it, inputs have variance 1, as in
the plain PoC 2.0:

 - blocks, nonces: how many forwards' worth, all blocks together
 - outputs_cosine: mean cosine between the outputs of two nonces of a block
 - p_own, p_more: p-value of the distances to their own targets, and of `samples` to other keys' targets
 - ratio_0.1: share of samples valid at rate 0.1, divided by 0.1
 - own_low, own_high: the 10th and 90th percentile over blocks and keys of a block's valid share at rate 0.1,
   each nonce having its own target
 - own_spread: standard deviation between blocks and keys of the rate behind those shares, over the rate: what
   is left of their spread after subtracting the sampling of a block's nonces
 - fixed_low, fixed_high, fixed_spread: the same with one target for a whole block
 - fixed_ratio: fixed_high over fixed_low
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

import numpy as np
import numpy.typing as npt
import torch
from _architectures import LLAMA, MOE, QWEN3, TINY, Architecture, Weights, load
from _experiment import new_figure, options, write
from _forward import Prover, round_of
from scipy.stats import binomtest, kstest, spearmanr
from torch import Tensor

from hallmark.kernels.distance import distance_reference
from hallmark.kernels.draw_embeddings import draw_embeddings_reference
from hallmark.kernels.draw_normals import streams_tensor
from hallmark.kernels.normal_table import signed_table
from hallmark.poc.protocol.law import distance_cdf, r_target_for
from hallmark.poc.protocol.streams import target_stream

Samples = npt.NDArray[np.float64]

RATES = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5)
CONTRAST_RATE = 0.1
COMMON_RATE = 0.01
"""From here on there are enough valid distances to speak of a deviation in percent."""
MIN_P_VALUE = 1e-6
"""Below it the law would be refuted; every p-value that is held against it is of a whole test, not picked."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed.

    Attributes:
        blocks: Blocks for each model and setting.
        nonces: Of each block.
        keys: Other public keys whose targets are held against the same outputs.
        fixed: Targets that are fixed for a block, one after the other.
        seq_len: Rows of a nonce's input; the law does not know it.
    """

    blocks: int
    nonces: int
    keys: int
    fixed: int
    seq_len: int


@dataclass(slots=True)
class Measured:
    """The distances of one model, with or without the projection, in arrays of a block each.

    Attributes:
        hidden_size: Its width.
        own: [nonces], to the nonces' own targets.
        more: [keys, nonces], to the targets that other keys have for them.
        fixed: [targets, nonces], to targets fixed for the block.
        cosines: Mean cosine between two outputs of a block.
    """

    hidden_size: int
    own: list[Samples] = field(default_factory=list)
    more: list[Samples] = field(default_factory=list)
    fixed: list[Samples] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)


def measure(model: Any, label: str, size: Size, *, projection: bool) -> Measured:
    """Run the blocks of one model and one setting.

    Args:
        model: Of transformers.
        label: In the block hashes, so that no two models meet the same target.
        size: How much.
        projection: Whether the projections are on.
    """
    measured = Measured(int(model.config.hidden_size))
    for block in range(size.blocks):
        spec = round_of(
            model,
            block_hash=f"law {label} {projection} {block}",
            seq_len=size.seq_len,
            batch_size=size.nonces,
            projection=projection,
        )
        prover = Prover(model, spec)
        nonces = range(size.nonces)
        computed = prover.run(nonces)
        measured.own.append(computed.distances)
        measured.cosines.append(mean_cosine(computed.hidden_states))
        others = []
        for key in range(size.keys):
            prover.public_key = f"another {key}"
            others.append(prover.distances(computed.hidden_states, nonces))
        measured.more.append(np.stack(others))
        names = [target_stream(spec.digest, spec.block_hash, f"fixed {i}", 0) for i in range(size.fixed)]
        targets = draw_embeddings_reference(streams_tensor(names), 1, spec.hidden_size, signed_table(1.0))
        measured.fixed.append(to_fixed_targets(computed.hidden_states, targets.squeeze(1)))
    return measured


def to_fixed_targets(hidden_states: Tensor, targets: Tensor) -> Samples:
    """Distances [k, n] of outputs [n, D] to targets [k, D]; no projection, since it hardly moves them."""
    rows = [distance_reference(hidden_states, target.expand_as(hidden_states), None) for target in targets]
    return torch.stack(rows).numpy()


def mean_cosine(hidden_states: Tensor) -> float:
    """Mean cosine between two different rows of [n, D]."""
    units = torch.nn.functional.normalize(hidden_states.double(), dim=1)
    count = len(units)
    return float((units.sum(dim=0).square().sum() - count) / (count * (count - 1)))


def p_value_of_law(distances: Samples, hidden_size: int) -> float:
    """Two-sided Kolmogorov-Smirnov p-value of distances, any shape, against the law."""
    return float(kstest(distances.ravel(), lambda d: distance_cdf(d, hidden_size)).pvalue)


def valid_shares(distances: Sequence[Samples], hidden_size: int, rate: float) -> Samples:
    """The valid share of each row of arrays [rows, nonces], one after another."""
    return np.concatenate([(each < r_target_for(rate, hidden_size)).mean(axis=1) for each in distances])


def spread_between(shares: Samples, nonces: int) -> float:
    """Standard deviation of the rates behind shares of so many nonces, over their mean.

    A share s of n nonces has variance var(p) + E[p(1 − p)]/n; E[s(1 − s)]/(n − 1) estimates the second term.
    Where that alone explains the shares' variance the spread is 0.
    """
    beyond = float(shares.var(ddof=1) - (shares * (1 - shares)).mean() / (nonces - 1))
    spread: float = max(0.0, beyond) ** 0.5 / float(shares.mean())
    return spread


def spread_of_sampling(shares: int, nonces: int, rate: float = CONTRAST_RATE) -> float:
    """The spread that `spread_between` finds where there is none and chance goes two standard errors its way.

    Args:
        shares: How many shares there are.
        nonces: Of each.
        rate: That all have.
    """
    variance = rate * (1 - rate) / nonces
    return math.sqrt(2 * variance * math.sqrt(2 / (shares - 1))) / rate


def describe(measured: Measured) -> dict[str, Any]:
    """The numbers of a row."""
    width, nonces = measured.hidden_size, len(measured.own[0])
    more = np.concatenate([each.ravel() for each in measured.more])
    own = valid_shares(measured.more, width, CONTRAST_RATE)
    fixed = valid_shares(measured.fixed, width, CONTRAST_RATE)
    own_low, own_high = np.percentile(own, (10, 90))
    fixed_low, fixed_high = np.percentile(fixed, (10, 90))
    return {
        "blocks": len(measured.own),
        "nonces": nonces * len(measured.own),
        "outputs_cosine": round(float(np.mean(measured.cosines)), 4),
        "p_own": p_value_of_law(np.concatenate(measured.own), width),
        "samples": more.size,
        "p_more": p_value_of_law(more, width),
        f"ratio_{CONTRAST_RATE}": round(
            float((more < r_target_for(CONTRAST_RATE, width)).mean()) / CONTRAST_RATE, 4
        ),
        "own_low": round(float(own_low), 4),
        "own_high": round(float(own_high), 4),
        "own_spread": round(spread_between(own, nonces), 4),
        "fixed_low": round(float(fixed_low), 4),
        "fixed_high": round(float(fixed_high), 4),
        "fixed_ratio": round(float(fixed_high / max(fixed_low, 1 / nonces)), 2),
        "fixed_spread": round(spread_between(fixed, nonces), 4),
    }


def rates_of(results: Sequence[tuple[dict[str, Any], Measured]]) -> list[dict[str, Any]]:
    """Valid nonces against the closed form, over everything with or without the projection."""
    rows = []
    for projection in ("on", "off"):
        chosen = [measured for row, measured in results if row["projection"] == projection]
        for rate in RATES:
            valid, samples = 0, 0
            for each in chosen:
                r_target = r_target_for(rate, each.hidden_size)
                for distances in (*each.own, *each.more):
                    valid += int((distances < r_target).sum())
                    samples += distances.size
            test = binomtest(valid, samples, rate)
            interval = test.proportion_ci(0.99, "exact")
            rows.append(
                {
                    "projection": projection,
                    "rate": rate,
                    "samples": samples,
                    "valid": valid,
                    "ratio": valid / samples / rate,
                    "low": interval.low / rate,
                    "high": interval.high / rate,
                    "p_value": float(test.pvalue),
                }
            )
    return rows


def models(small: bool) -> Iterator[tuple[Architecture, Weights]]:
    """What is measured."""
    if small:
        yield TINY, "fresh"
        yield TINY, "strong"
        return
    states: tuple[Weights, ...] = ("fresh", "strong", "trained")
    for architecture in (QWEN3, LLAMA, MOE):
        for weights in states:
            yield architecture, weights
    for architecture in (replace(QWEN3, hidden_size=width) for width in (128, 512)):
        for weights in states[:2]:
            yield architecture, weights


def p_values_of_blocks(results: Sequence[tuple[dict[str, Any], Measured]]) -> Samples:
    """For each block the p-value of its nonces' distances to their own targets."""
    found = [p_value_of_law(each, measured.hidden_size) for _, measured in results for each in measured.own]
    return np.array(found)


def main() -> None:
    chosen = options(__doc__)
    size = Size(4, 32, 8, 20, 8) if chosen.small else Size(4, 128, 32, 200, 32)
    results: list[tuple[dict[str, Any], Measured]] = []
    for architecture, weights in models(chosen.small):
        model = load(architecture, weights)
        for projection in (True, False):
            label = {
                "model": architecture.name,
                "weights": weights,
                "width": architecture.hidden_size,
                "projection": "on" if projection else "off",
            }
            measured = measure(model, f"{architecture.name} {weights}", size, projection=projection)
            results.append(({**label, **describe(measured)}, measured))
    rows = [row for row, _ in results]
    rates = rates_of(results)
    blocks = p_values_of_blocks(results)
    # Own targets: over blocks the p-values are uniform. Other keys': one test for each row, uniform as well.
    combined = {
        "blocks": len(blocks),
        "p_own": float(kstest(blocks, "uniform").pvalue),
        "p_more": float(kstest([row["p_more"] for row in rows], "uniform").pvalue),
        "least_p_more_times_tests": min(row["p_more"] for row in rows) * len(rows),
        "least_p_rate_times_tests": min(row["p_value"] for row in rates) * len(rates),
    }
    for name, p_value in combined.items():
        assert p_value > MIN_P_VALUE, f"the law is refuted: {name} = {p_value}"
    figure = draw(rates, blocks, results)
    write(
        "law",
        chosen,
        figure,
        about=(
            f"Distances against the law: {size.blocks} blocks of {size.nonces} nonces of {size.seq_len} rows "
            f"for each model and setting, {size.keys} other keys' targets against the same outputs, and "
            f"{size.fixed} targets that are fixed for a block; shares and spreads at valid rate "
            f"{CONTRAST_RATE}."
        ),
        rows=rows,
        rates=rates,
        combined=combined,
        p_values_of_blocks=[round(float(p), 6) for p in np.sort(blocks)],
        findings=findings(rows, rates, combined),
    )


def findings(
    rows: Sequence[dict[str, Any]], rates: Sequence[dict[str, Any]], combined: dict[str, Any]
) -> list[str]:
    """What the numbers say, in words."""
    samples = sum(row["samples"] + row["nonces"] for row in rows)
    n_models = len({(row["model"], row["weights"]) for row in rows})
    common = [row for row in rates if row["rate"] >= COMMON_RATE]
    worst = max(common, key=lambda row: abs(row["ratio"] - 1))
    outside = sum(not row["low"] <= 1 <= row["high"] for row in rates)
    rarest = min(row["rate"] for row in rates)
    counts = [
        f"{row['valid']:,} of {row['samples']:,} distances counted with the projection {row['projection']}, "
        f"where {row['samples'] * rarest:,.0f} were expected"
        for row in rates
        if row["rate"] == rarest
    ]
    wide = max(rows, key=lambda row: row["fixed_spread"])
    owns = max(rows, key=lambda row: row["own_spread"])
    floor = spread_of_sampling(
        owns["samples"] * owns["blocks"] // owns["nonces"], owns["nonces"] // owns["blocks"]
    )
    narrow = min(rows, key=lambda row: row["fixed_spread"])
    follows = float(
        spearmanr([r["outputs_cosine"] for r in rows], [r["fixed_spread"] for r in rows]).statistic
    )
    return [
        f"On {n_models} models, {combined['blocks']} blocks and {samples:,} distances the closed form was "
        "not refuted: over the blocks, the p-values of nonces' distances to their own targets are uniform (p "
        f"= {combined['p_own']:.2f}), and the smallest of {len(rates)} p-values of valid rates, times their "
        f"number, is {min(1.0, combined['least_p_rate_times_tests']):.2f}.",
        f"At rates from {COMMON_RATE} to {max(row['rate'] for row in rates)} the largest deviation from the "
        f"closed form was {abs(worst['ratio'] - 1):.1%} of the rate (rate {worst['rate']}, projection "
        f"{worst['projection']}); of {len(rates)} intervals of 99 %, {outside} exclude the law.",
        f"At rate {rarest}, {' and '.join(counts)}.",
        f"With one target fixed for a block the rate is a lottery: for {wide['model']} with "
        f"{wide['weights']} weights (projection {wide['projection']}) a tenth of the targets gave "
        f"{wide['fixed_low']:.1%} valid nonces or fewer and a tenth {wide['fixed_high']:.1%} or more, at a "
        f"nominal {CONTRAST_RATE:.0%}; with a target for each nonce the same outputs gave "
        f"{wide['own_low']:.1%} and {wide['own_high']:.1%}, which is sampling.",
        f"Sampling subtracted, the rate of a fixed target has a standard deviation between targets of "
        f"{narrow['fixed_spread']:.0%} of itself ({narrow['model']}, {narrow['weights']}, mean cosine of "
        f"outputs {narrow['outputs_cosine']:.2f}) to {wide['fixed_spread']:.0%} ({wide['model']}, "
        f"{wide['weights']}, {wide['outputs_cosine']:.2f}); over the rows its rank correlation with the "
        f"outputs' mean cosine is {follows:.2f}. With a target for each nonce it is at most "
        f"{owns['own_spread']:.0%} in any row; two standard errors of sampling alone look like {floor:.0%}.",
    ]


def draw(
    rates: Sequence[dict[str, Any]], blocks: Samples, results: Sequence[tuple[dict[str, Any], Measured]]
) -> Any:
    """Rates over the law's, p-values of blocks, and how rates of blocks differ with own and fixed targets."""
    figure, (ratio, uniform, contrast) = new_figure(3)
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

    place = (np.arange(len(blocks)) + 0.5) / len(blocks)
    uniform.plot(place, np.sort(blocks), ".", ms=4)
    uniform.plot([0, 1], [0, 1], color="black", lw=0.8)
    uniform.set(xlabel="quantile of the uniform distribution", ylabel="p-value of a block")

    drawn = [(row, measured) for row, measured in results if row["projection"] == "on"]
    widest = max(drawn, key=lambda each: each[0]["fixed_spread"])
    narrowest = min(drawn, key=lambda each: each[0]["fixed_spread"])
    for (row, measured), style in ((widest, "-"), (narrowest, "--")):
        for name, distances in (("a target each", measured.more), ("fixed", measured.fixed)):
            shares = np.sort(valid_shares(distances, measured.hidden_size, CONTRAST_RATE))
            label = f"{name}, {row['model']} {row['weights']}"
            contrast.plot(shares, np.linspace(0, 1, len(shares)), style, label=label, lw=1.2)
    contrast.axvline(CONTRAST_RATE, color="black", lw=0.8)
    contrast.set(xlabel=f"valid share of a block at rate {CONTRAST_RATE}", ylabel="of blocks and targets")
    contrast.legend(frameon=False, fontsize=7)
    return figure


if __name__ == "__main__":
    main()
