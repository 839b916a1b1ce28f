"""Honest noise: how far apart are the distances of two machines that both run the whole model?

Nothing around the model may differ between machines; the model's own arithmetic does. Models in which it is
amplified differently (fresh, strong and trained weights; dense and with experts) are computed in ways that
honest provers and validators use: with transformers' two attentions, compiled, in other batches and beside
other batch mates, with fewer threads and older instructions, in other dtypes, and by vLLM, with its compiled
model and without. Weights are those of a published model: rounded to bf16 once, before everything.

A row is a pair of ways on one model, errors in units of s = 1/√(2·width):

 - sigma, upper: their root mean square, and the bound that it stays under with 99 % confidence (chi-squared,
   degrees of freedom by the measured kurtosis)
 - mean, kurtosis, largest: of the errors; kurtosis about 0, 3 for normal errors
 - beyond: share of errors beyond the tolerance
 - holds: whether `upper` is at most the default σ
 - kind: `same dtype` for pairs that a round allows, `other dtype` for pairs of two dtypes, which it does not
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

import numpy as np
from _architectures import LLAMA, MOE, QWEN3, TINY, Architecture, Weights, load
from _experiment import new_figure, options, write
from _forward import Distances, in_units_of_s, round_of
from _variants import Variant, in_a_process
from _vllm import vllm_is_installed
from scipy.stats import chi2

TOLERANCE = 0.35
"""Of a round that states none, in units of s."""
DEFAULT_SIGMA = TOLERANCE / 3.5
"""The sigma of honest errors that verifiers assume by default, in units of s."""
CONFIDENCE = 0.99
TELLING_SIGMA = 0.001
"""Of errors smaller than this, in units of s, no test sees anything, whatever their tails."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two ways that are compared.

    Attributes:
        name: What differs between them.
        one: The first way.
        other: The second.
    """

    name: str
    one: Variant
    other: Variant

    @property
    def kind(self) -> str:
        """Whether a round allows both at once: its model has one dtype."""
        return "same dtype" if self.one.dtype == self.other.dtype else "other dtype"


FP32 = Variant()
BF16 = Variant("bfloat16", batch_size=8, nonces=64)
FP16 = replace(BF16, dtype="float16")
VLLM = replace(FP32, engine="vllm")
VLLM_BF16 = replace(BF16, engine="vllm")

SINGLE = (
    Pair("attention eager / sdpa", FP32, replace(FP32, attention="eager")),
    Pair("batches of 1 / 32", FP32, replace(FP32, batch_size=1)),
    Pair("batches of 8 / 32", FP32, replace(FP32, batch_size=8)),
    Pair("other batch mates", FP32, replace(FP32, shuffled=True)),
    Pair("1 thread / 2", FP32, replace(FP32, threads=1)),
    Pair("SSE / AVX2", FP32, replace(FP32, baseline=True)),
)
DTYPES = (
    Pair("attention eager / sdpa", BF16, replace(BF16, attention="eager")),
    Pair("bf16 / fp32", FP32, BF16),
    Pair("fp16 / fp32", FP32, FP16),
)
HALF = (
    Pair("batches of 1 / 8", BF16, replace(BF16, batch_size=1)),
    Pair("other batch mates", BF16, replace(BF16, shuffled=True)),
    Pair("1 thread / 2", BF16, replace(BF16, threads=1)),
    Pair("SSE / AVX2", BF16, replace(BF16, baseline=True)),
    Pair("attention eager / sdpa", FP16, replace(FP16, attention="eager")),
)
COMPILED = (Pair("torch.compile / eager", FP32, replace(FP32, compiled=True)),)
VLLMS = (
    Pair("vLLM / transformers", FP32, VLLM),
    Pair("vLLM compiled / vLLM", VLLM, replace(VLLM, compiled=True)),
    Pair("vLLM / transformers", BF16, VLLM_BF16),
)


def plan(small: bool) -> Iterator[tuple[Architecture, Weights, tuple[Pair, ...]]]:
    """The models and what is compared on each."""
    if small:
        few = [replace(way, nonces=16, batch_size=8) for way in (FP32, BF16)]
        pairs = (
            Pair("attention eager / sdpa", few[0], replace(few[0], attention="eager")),
            Pair("other batch mates", few[0], replace(few[0], shuffled=True)),
            Pair("bf16 / fp32", few[0], few[1]),
        )
        yield TINY, "strong", pairs
        return
    vllm = VLLMS if vllm_is_installed() else ()
    yield QWEN3, "trained", (*SINGLE, *DTYPES, *HALF, *COMPILED, *vllm)
    yield QWEN3, "strong", (*SINGLE, *DTYPES)
    yield QWEN3, "fresh", (*SINGLE, *DTYPES)
    yield LLAMA, "trained", (*SINGLE, *DTYPES)
    yield MOE, "trained", (*SINGLE, *DTYPES)


def measure(
    architecture: Architecture, weights: Weights, pairs: Sequence[Pair], seq_len: int
) -> list[dict[str, Any]]:
    """A row for each pair of ways on one model."""
    model = load(architecture, weights)
    spec = round_of(model, block_hash="honest noise", seq_len=seq_len)
    ways = list(dict.fromkeys(way for pair in pairs for way in (pair.one, pair.other)))
    computed: dict[Variant, Distances] = {}
    with TemporaryDirectory() as folder:
        model.bfloat16().save_pretrained(folder)
        for group in in_processes(ways):
            computed.update(zip(group, in_a_process(Path(folder), spec, group), strict=True))
    rows = []
    for pair in pairs:
        one, other = computed[pair.one], computed[pair.other]
        shared = min(len(one), len(other))
        errors = in_units_of_s(other[:shared], one[:shared], architecture.hidden_size)
        rows.append(
            {
                "model": architecture.name,
                "weights": weights,
                "dtype": pair.other.dtype,
                "pair": pair.name,
                "kind": pair.kind,
                **describe(errors),
            }
        )
    return rows


def in_processes(ways: Sequence[Variant]) -> list[list[Variant]]:
    """Group ways by the processes that compute them: one for each instruction set, one for each of vLLM's."""
    groups: dict[object, list[Variant]] = {}
    for way in ways:
        groups.setdefault(way if way.engine == "vllm" else way.baseline, []).append(way)
    return list(groups.values())


def describe(errors: Distances) -> dict[str, Any]:
    """The columns of a row; errors in units of s. Errors that are all zero have a kurtosis of 3."""
    if not np.isfinite(errors).all():
        raise ValueError(
            f"errors: {int((~np.isfinite(errors)).sum())} are not finite; allowed: finite numbers"
        )
    sigma = float(np.sqrt(np.mean(errors**2)))
    fourth = float(np.mean(errors**4)) / sigma**4 if sigma else 3.0
    upper = sigma_bound(sigma, len(errors), fourth)
    return {
        "n": len(errors),
        "sigma": sigma,
        "upper": upper,
        "mean": float(errors.mean()),
        "kurtosis": round(fourth, 2),
        "largest": float(np.abs(errors).max()),
        "beyond": float((np.abs(errors) > TOLERANCE).mean()),
        "holds": upper <= DEFAULT_SIGMA,
    }


def sigma_bound(sigma: float, n: int, kurtosis_about_zero: float) -> float:
    """What the true σ stays under with 99 % confidence, of a root mean square of n errors.

    Its square is ``σ²·ν/χ²₀.₀₁(ν)``, with ν = 2·n/(κ − 1): a mean of squares then has the variance that it
    has with kurtosis κ.
    """
    freedom = 2 * n / max(kurtosis_about_zero - 1, 1e-9)
    return sigma * float(np.sqrt(freedom / chi2.ppf(1 - CONFIDENCE, freedom)))


def main() -> None:
    chosen = options(__doc__)
    seq_len = 8 if chosen.small else 32
    rows = [row for each in plan(chosen.small) for row in measure(*each, seq_len)]
    for row in rows:
        if row["dtype"] == "float32" and row["kind"] == "same dtype":
            assert row["largest"] < TOLERANCE, f"fp32 disagrees with itself: {row}"
    write(
        "honest_noise",
        chosen,
        draw(rows),
        about=(
            f"Differences of distances between two honest ways of computing them, in units of s; {seq_len} "
            f"rows a nonce, the embedding's input scale; default sigma {DEFAULT_SIGMA:.2f}, tolerance "
            f"{TOLERANCE}. On a CPU."
        ),
        rows=rows,
        default_sigma=DEFAULT_SIGMA,
        tolerance=TOLERANCE,
        findings=findings(rows),
    )


def findings(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the numbers say, in words."""
    same = [row for row in rows if row["kind"] == "same dtype"]
    other = [row for row in rows if row["kind"] == "other dtype"]
    found = [
        _of_dtype(dtype, [row for row in same if row["dtype"] == dtype])
        for dtype in dict.fromkeys(row["dtype"] for row in same)
    ]
    vllm = [row for row in same if "vLLM" in row["pair"]]
    if vllm:
        found.append(
            "vLLM against transformers, two implementations of the same model: "
            + ", ".join(f"{row['pair']} in {row['dtype']} {_error(row)}" for row in vllm)
            + "."
        )
    if other:
        worst = max(other, key=lambda row: row["upper"])
        found.append(
            f"Between dtypes the largest sigma was {_error(worst)} ({worst['pair']}, {worst['model']}, "
            f"{worst['weights']} weights), {worst['beyond']:.1%} of its errors beyond the tolerance: "
            + (
                "the default sigma covers it, on these models."
                if worst["holds"]
                else "the default sigma does not cover it, so prover and verifier have to run the same one."
            )
        )
    broken = [row for row in same if not row["holds"]]
    largest = max(same, key=lambda row: row["sigma"])
    found.append(
        f"Of {len(same)} pairs that a round allows, the default sigma of {DEFAULT_SIGMA:.2f} s holds for "
        f"{len(same) - len(broken)} with 99 % confidence; the largest measured sigma is {_error(largest)}, "
        f"{largest['sigma'] / DEFAULT_SIGMA:.1%} of the default."
        + "".join(f" It does not hold for {_where(row)}: {_error(row)}." for row in broken)
    )
    telling = [row for row in rows if row["sigma"] > TELLING_SIGMA]
    if telling:
        heavy = max(telling, key=lambda row: row["kurtosis"])
        found.append(
            f"Of the pairs that differ by more than {TELLING_SIGMA} s, the heaviest tail has a kurtosis of "
            f"{heavy['kurtosis']:.0f} ({_where(heavy)}: one of {heavy['n']} errors was "
            f"{heavy['largest']:.2f} s at a sigma of {heavy['sigma']:.3f} s)"
            + (
                ", as if a token near a tie had gone to another expert; so few nonces bound such tails badly."
                if heavy["kurtosis"] > 10 and "moe" in heavy["model"]
                else "."
            )
        )
    found.append(
        "No GPU was at hand: these are differences on one processor, between implementations, batch shapes, "
        f"instruction sets and dtypes; {sum(row['beyond'] > 0 for row in same)} of the pairs of one dtype "
        "had an error beyond the tolerance. They cannot stand for two GPU types, whose sigma has to be "
        "calibrated for each pair."
    )
    return found


def _of_dtype(dtype: str, rows: Sequence[dict[str, Any]]) -> str:
    worst = max(rows, key=lambda row: row["sigma"])
    none = sum(row["largest"] == 0 for row in rows)
    return (
        f"In {dtype}, the pairs of ways ({len(rows)}) on "
        f"{len({(row['model'], row['weights']) for row in rows})} models differed by at most sigma = "
        f"{_error(worst)} ({_where(worst)}), with a largest single error of "
        f"{max(row['largest'] for row in rows):.2g} s; {none} of the pairs agreed to the bit."
    )


def _error(row: dict[str, Any]) -> str:
    return f"{row['sigma']:.2g} s (99 % bound {row['upper']:.2g} s)"


def _where(row: dict[str, Any]) -> str:
    return f"{row['pair']}, {row['model']}, {row['weights']} weights, {row['dtype']}"


def draw(rows: Sequence[dict[str, Any]]) -> Any:
    """σ of every pair, by what differs, on a logarithmic axis, with the default σ and the tolerance."""
    figure, (axes,) = new_figure(1, width=7.5, height=4.6)
    names = list(dict.fromkeys(f"{row['dtype']}: {row['pair']}" for row in rows))
    models = list(dict.fromkeys(f"{row['model']} {row['weights']}" for row in rows))
    for place, model in enumerate(models):
        chosen = [row for row in rows if f"{row['model']} {row['weights']}" == model and row["sigma"] > 0]
        heights = [names.index(f"{row['dtype']}: {row['pair']}") + 0.12 * (place - 2) for row in chosen]
        axes.plot([row["sigma"] for row in chosen], heights, "o", ms=4, label=model)
    axes.axvline(DEFAULT_SIGMA, color="black", ls="--", lw=1, label="default sigma")
    axes.axvline(TOLERANCE, color="C3", ls="--", lw=1, label="tolerance")
    axes.set(
        xscale="log", xlabel="sigma of the difference, in s", yticks=range(len(names)), yticklabels=names
    )
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=7)
    return figure


if __name__ == "__main__":
    main()
