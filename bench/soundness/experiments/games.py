"""Games of chance with claims: how many nonces does it take to see a prover that lies a little?

Every batch goes through the product's own `ProofBatch.check_against` and `judge`, with honest noise of 0.05 s
that the round states. No model runs: distances are drawn from the law, and number 0 alone is judged. What is
refused or convicted at once is the affair of `resistance.py`.

Rows are of shaving (`rows`) and, in `mixtures`, of forged nonces among honest ones: walked nonces until 9 of
10 batches are convicted, on a grid of doublings, and which test was the clearest. Further tables: `pooling`
(small batches, judged alone and together), `repeated` (honest provers judged many times) and `samples` (a
sample that the prover can foresee).
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

import numpy as np
from _experiment import new_figure, options, write
from _judging import judge_distances, round_for
from _simulated import (
    Rule,
    conviction,
    doubling,
    forged,
    from_law,
    judged_walk,
    noisier,
    noisy,
    shaved,
    shaved_where_it_pays,
)
from matplotlib.figure import Figure
from scipy.special import ndtr, ndtri

from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.judge import Verdict

SIGMA = 0.05
THRESHOLDS = (0.01, 1e-7)
Row = dict[str, Any]


def rounds(**config: Any) -> Round:
    """Return a round at the strict threshold whose honest noise is stated."""
    return round_for(**{"fraud_threshold": 1e-7, "honest_sigma": SIGMA, "node_count": 1, **config})


def shaving(batches: int, sizes: Sequence[int]) -> list[Row]:
    """Return what lowering distances gains at rates below 1, and how long it lasts.

    Args:
        batches: How many of each size are judged.
        sizes: Walked nonces.
    """
    rows = []
    for rate in (0.1, 0.5):
        round_ = rounds(valid_rate=rate)
        for by in (0.34, 0.2, 0.1, 0.05, 0.02):
            rules: dict[str, Rule] = {
                "every distance": shaved(by, round_),
                "those that come to count": shaved_where_it_pays(by, round_),
            }
            for lowered, rule in rules.items():
                draw = np.random.default_rng(2)
                honest = noisy(from_law(round_, 200_000, draw), round_, SIGMA, draw)
                gain = float(
                    np.mean(rule(honest, draw) < round_.r_target) / np.mean(honest < round_.r_target)
                )
                row: Row = {"rate": rate, "lowered": lowered, "by": by, "gain": gain}
                for tells in (True, False):
                    words = "covered" if tells else "uncovered"
                    found = conviction(
                        round_,
                        rule,
                        THRESHOLDS,
                        SIGMA,
                        tells_coverage=tells,
                        sizes=sizes,
                        batches=batches,
                    )
                    row |= {f"{words}_{threshold:g}": size for threshold, size in found.walked.items()}
                    row[f"{words}_by"] = found.spoke
                rows.append(row)
    return rows


def mixtures(batches: int, sizes: Sequence[int]) -> list[Row]:
    """Forged nonces among honest ones at rate 1, and how many are forged by the time it is seen."""
    round_ = rounds()
    rows = []
    for share in (0.5, 0.1, 0.05, 0.01, 0.005, 0.002):
        row: Row = {"forged_share": share}
        found = conviction(round_, forged(share), THRESHOLDS, SIGMA, sizes=sizes, batches=batches)
        for threshold, size in found.walked.items():
            row[f"nonces_{threshold:g}"] = size
            row[f"forged_by_then_{threshold:g}"] = None if size is None else share * size
        rows.append(row | {"by": found.spoke})
    return rows


def pooling(batches: int, sizes: Sequence[int]) -> list[Row]:
    """Small batches, each judged alone, and the same nonces judged as one batch."""
    round_ = rounds()
    cheats: dict[str, Rule] = {
        "forges 1 in 10": forged(0.1),
        "forges 1 in 2": forged(0.5),
        "a model off by 0.24 s": noisier(0.24, round_),
        "a model off by 0.12 s": noisier(0.12, round_),
        "a model off by 0.06 s": noisier(0.06, round_),
    }
    rows = []
    for cheat, rule in cheats.items():
        pooled = conviction(round_, rule, THRESHOLDS, SIGMA, sizes=sizes, batches=batches).walked
        for size in (1, 2, 4, 16, 64):
            draw = np.random.default_rng(size)
            judged = [
                judged_walk(round_, rule, size, SIGMA, draw, tells_coverage=True) for _ in range(batches)
            ]
            row: Row = {"cheat": cheat, "batch": size}
            for threshold in THRESHOLDS:
                convicted = [one is not None and one.probability_honest < threshold for one in judged]
                row[f"convicted_alone_{threshold:g}"] = float(np.mean(convicted))
            for threshold in THRESHOLDS:
                row[f"nonces_pooled_{threshold:g}"] = pooled[threshold]
            rows.append(row)
    return rows


def repeated(provers: int, batches: int) -> list[Row]:
    """Return an honest prover judged batch by batch, and on everything so far after every batch.

    Its noise is just what the round states, the largest that the null hypothesis allows.
    """
    round_ = rounds()
    rows = []
    for threshold in THRESHOLDS:
        draw = np.random.default_rng(5)
        alone, looked = [], []
        for prover in range(provers):
            computed = from_law(round_, 16 * batches, draw)
            received = noisy(computed, round_, SIGMA, draw)
            known = dict(enumerate(computed))
            values = [
                judge_distances(
                    round_, range(at, at + 16), received[at : at + 16], known, covered=(at, at + 15)
                ).probability_honest
                for at in range(0, len(computed), 16)
            ]
            alone.append(sum(value < threshold for value in values))
            if prover < 20:
                looks = [
                    judge_distances(
                        round_, range(n), received[:n], known, covered=(0, n - 1)
                    ).probability_honest
                    for n in doubling(16, 16 * batches)
                ]
                looked.append(any(value < threshold for value in looks))
        rows.append(
            {
                "threshold": threshold,
                "batches": provers * batches,
                "convictions": int(sum(alone)),
                "per_1000_batches": 1000 * sum(alone) / (provers * batches),
                "at_most_per_1000_batches": 1000 * threshold,
                "provers_convicted_once": float(np.mean([count > 0 for count in alone])),
                "convicted_while_looking_again": float(np.mean(looked)),
            }
        )
    return rows


def foreseen_samples(tries: int) -> list[Row]:
    """Return a sample that the prover can foresee, or draw again until it suits, and one that it cannot."""
    round_ = rounds()
    count, size = 1_000, 50
    rows = []
    for forged_count in (10, 20, 50):
        draw = np.random.default_rng(forged_count)
        needed, seen = [], 0
        for _ in range(tries):
            computed = from_law(round_, count, draw)
            received = noisy(computed, round_, SIGMA, draw)
            liars = draw.choice(count, forged_count, replace=False)
            received[liars] = np.sqrt(2.0)
            known = dict(enumerate(computed))

            def judged(sample: Sequence[int], received: Any = received, known: Any = known) -> bool:
                verdict = judge_distances(
                    round_, range(count), received, known, covered=(0, count - 1), sampled=sample
                ).verdict
                return verdict is Verdict.FRAUD

            salt = 0
            while set(sample := _sample_by_hash(received, salt, count, size)).intersection(liars.tolist()):
                salt += 1
            needed.append(salt + 1)
            assert not judged(sample), "a sample of honest nonces is convicted"
            seen += judged(draw.choice(count, size, replace=False).tolist())
        rows.append(
            {
                "nonces": count,
                "forged": forged_count,
                "sample": size,
                "tries_until_the_sample_suits": float(np.mean(needed)),
                "convicted_then": 0.0,
                "convicted_by_a_sample_drawn_after_delivery": seen / tries,
            }
        )
    return rows


def _sample_by_hash(received: Any, salt: int, count: int, size: int) -> list[int]:
    """Return the sample that a batch's own hash draws; the salt stands for a digit that nobody would miss."""
    digest = hashlib.sha256(received.tobytes() + salt.to_bytes(8, "big")).digest()
    draw = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return [int(nonce) for nonce in draw.choice(count, size, replace=False)]


def findings(tables: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return what the numbers say, in sentences."""
    loose, strict = tables["repeated"]
    return [
        *_what_shaving_gains(tables),
        "Forged claims among honest ones, at threshold 1e-7, are seen after "
        + "; ".join(
            f"{_walked(row['nonces_1e-07'])} where {row['forged_share']:.1%} are forged"
            for row in tables["mixtures"]
        )
        + ".",
        _what_pooling_gains(tables["pooling"]),
        f"An honest prover whose noise is the largest that the round states was convicted in "
        f"{loose['per_1000_batches']:.1f} of 1,000 batches of 16 nonces at threshold 0.01, and in "
        f"{strict['convictions']} of {strict['batches']:,} at 1e-7; looking again and again at all of "
        "its nonces "
        f"so far convicted {loose['convicted_while_looking_again']:.0%} of the honest provers at 0.01. A "
        f"threshold of 0.01 expects up to {loose['at_most_per_1000_batches']:.0f} convictions in "
        "1,000 honest "
        "batches: it flags, and must not take money by itself.",
        _what_a_foreseen_sample_hides(tables["samples"][-1]),
    ]


def _what_shaving_gains(tables: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return the most that it gains seen and unseen, at the lowest rate."""
    rate = min(row["rate"] for row in tables["rows"])
    shaved_here = [row for row in tables["rows"] if row["rate"] == rate]
    largest = tables["largest_walk"][0]["nonces"]
    best = max(shaved_here, key=lambda row: float(row["gain"]))
    said = [
        f"At valid rate {rate}, lowering {best['lowered']} by {best['by']} s gains "
        f"{best['gain']:.2f} times as many valid nonces. With the coverage told, {best['covered_by']} is the "
        f"clearest test and convicts at threshold 1e-7 after {_walked(best['covered_1e-07'])} walked; "
        "without "
        f"it, {best['uncovered_by']} after {_walked(best['uncovered_1e-07'])}."
    ]
    unseen = [row for row in shaved_here if row["covered_1e-07"] is None]
    if unseen:
        top = max(unseen, key=lambda row: float(row["gain"]))
        said.append(
            f"The most that shaving gains unseen in {largest:,} walked nonces (rate {rate}, threshold 1e-7, "
            f"coverage told) is a factor of {top['gain']:.3f}, by lowering {top['lowered']} by {top['by']} s."
        )
    else:
        said.append(
            f"No shaving that was tried, down to {min(row['by'] for row in shaved_here)} s, stays unseen for "
            f"{largest:,} walked nonces at rate {rate} and threshold 1e-7 where the coverage is told."
        )
    return said


def _what_pooling_gains(rows: Sequence[Row]) -> str:
    """Return how one faint cheat fares in batches of four and all at once."""
    row = next(row for row in rows if row["batch"] == 4 and row["cheat"] == "a model off by 0.12 s")
    return (
        "Of batches of 4 nonces from a model off by 0.12 s, each judged alone, "
        f"{row['convicted_alone_1e-07']:.1%} "
        f"are convicted at threshold 1e-7; judged as one batch, {_walked(row['nonces_pooled_1e-07'])} "
        "convict. "
        "All of a prover's nonces of a round are to be judged together."
    )


def _what_a_foreseen_sample_hides(row: Row) -> str:
    """Why the sample is drawn after delivery."""
    return (
        f"A sample that the batch's own hash draws can be drawn again by the prover: with {row['forged']} of "
        f"{row['nonces']:,} nonces forged it took {row['tries_until_the_sample_suits']:.0f} tries until all "
        f"{row['sample']} of the sample were honest, and nothing is seen. A sample drawn after "
        "delivery convicts "
        f"in {row['convicted_by_a_sample_drawn_after_delivery']:.0%} of the cases at threshold 1e-7."
    )


def _walked(nonces: int | None) -> str:
    return "more nonces than were tried" if nonces is None else f"{nonces:,} nonces"


def draw_figure(tables: Mapping[str, Sequence[Row]]) -> Figure:
    """Shaving: gain against nonces until conviction. Mixtures: forged share against the same."""
    figure, (gains, shares) = new_figure(2, width=4.8, height=3.8)
    for rate in (0.1, 0.5):
        for lowered in ("every distance", "those that come to count"):
            for column in ("covered", "uncovered"):
                shown = [
                    (row["gain"], row[f"{column}_1e-07"])
                    for row in tables["rows"]
                    if row["rate"] == rate
                    and row["lowered"] == lowered
                    and row[f"{column}_1e-07"] is not None
                ]
                label = f"rate {rate}, {lowered}, {'coverage told' if column == 'covered' else 'not told'}"
                gains.plot(*zip(*shown, strict=True), "o-", markersize=3, label=label) if shown else None
    gains.set_yscale("log")
    gains.set_xlabel("valid nonces, times the honest number")
    gains.set_ylabel("walked nonces until convicted at 1e-7")
    gains.legend(fontsize=6)
    for threshold in THRESHOLDS:
        column = f"nonces_{threshold:g}"
        shown = [(row["forged_share"], row[column]) for row in tables["mixtures"] if row[column] is not None]
        if shown:
            shares.plot(*zip(*shown, strict=True), "o-", markersize=3, label=f"threshold {threshold:g}")
    shares.set_xscale("log")
    shares.set_yscale("log")
    shares.set_xlabel("share of the nonces that are forged")
    shares.set_ylabel("nonces until convicted")
    shares.legend(fontsize=6)
    return figure


def main() -> None:
    chosen = options(__doc__)
    if chosen.small:
        sizes, batches, provers = [32, 256], 4, 2
    else:
        sizes, batches, provers = [*doubling(4, 16_384)], 10, 50
    tables: dict[str, list[Row]] = {
        "rows": shaving(batches, sizes),
        "mixtures": mixtures(batches, sizes),
        "pooling": pooling(40 if chosen.small else 400, sizes),
        "repeated": repeated(provers, 20 if chosen.small else 200),
        "samples": foreseen_samples(3 if chosen.small else 40),
        "largest_walk": [{"nonces": sizes[-1]}],
    }
    widest = tables["rows"][0]
    gain = ndtr((ndtri(0.1) + widest["by"]) / np.hypot(1, SIGMA)) / ndtr(ndtri(0.1) / np.hypot(1, SIGMA))
    assert abs(widest["gain"] / gain - 1) < 0.03, f"the law gives a gain of {gain}, not {widest['gain']}"
    said, figure = findings(tables), draw_figure(tables)
    write(
        "games",
        chosen,
        figure,
        about="Distances lowered by so many s, what it gains, and walked nonces until it is convicted.",
        **tables,
        sigma=SIGMA,
        findings=said,
    )


if __name__ == "__main__":
    main()
