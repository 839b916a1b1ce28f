"""What does a prover save that keeps what depends on a token and the block only?

Inputs are rows of the model's own embedding table, so that tokens come again within a block. What is kept
exactly changes no number: it is a price of the design, not an attack that a verdict could see. Runs are in
fp32 on the weights in bf16, with nonces of 64 rows.

- `q, k, v of layer 0`: they depend on token and block alone (positions come after). A table of V rows lasts
  one block, since P is the block's; with one of an earlier block errors tell.
- `row 0`: where the round has a token `first`, row 0 of every layer is the same for all nonces of a block.
- `by token`: the mean over some contexts of what a part of the model returned for the token in the same
  block, in rows 8 and up; rows before are computed, as attention sinks sit there. `output of the first
  layers` leaves these layers out altogether.

A row of `rows` is what is kept, on a model:

- saving: the share of a forward's operations; memory: bytes of the whole table in bf16.
- pays: after how many nonces a table made beforehand has paid back. One that is filled as tokens come costs
  no work: net is the share that it saves of 10,000 nonces.
- error, in s; leverage: saving / error², which says how much work hides where noise allows for an error;
  and how many nonces convict, by the product's tests.

`shapes` computes the exact savings for more models, with nonces of 256 rows. `prefixes` says how often the
first tokens of a nonce are those of an earlier one, whose rows could then be kept through all layers.
"""

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

import numpy as np
import torch
from _altered import Floats, layers_of, round_of
from _conviction import described, measured_noise
from _experiment import new_figure, options, write
from _models import SHAPES, ModelShape
from _prediction import Readout, Sequences, TokenMeans, in_other_contexts, read_rows, run_sequences
from _provided import GEMMA_NAME, SMALL, SMOLLM2_NAME, provide
from _token_cache import ExactTable, Lookup, final_from_tables, first_row_lookups
from _work import Work, shape_of
from matplotlib.figure import Figure
from scipy.stats import poisson
from torch import nn

from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.protocol.round_spec import FIRST_ROW, NO_FIRST, RoundSpec

ROWS = 64
SHAPE_ROWS = 256
NONCES = 10_000
WALKS = (10**4, 10**6, 10**8)
BYTES = 2
QWEN3_VOCABULARY = 151_936
"""Of the config.json files of the Qwen3 models."""
STATED_FIRST = 1
"""What a round states for row 0 where the model has no such token of its own."""
THRESHOLD = "1e-07"
EXACT = 1e-3
"""In s: below it an error is rounding's."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a model is run.

    Attributes:
        tests: Nonces whose numbers are computed from tables.
        contexts: Of each token of a table of means.
        depths: How many layers are left out for the mean of their output.
        mlps: Layers whose MLP is, one at a time.
        trials: Batches that are judged for a number of nonces.
    """

    tests: int
    contexts: int
    depths: tuple[int, ...]
    mlps: tuple[int, ...]
    trials: int = 100


SIZES = {
    SMOLLM2_NAME: Size(12, 4, (1, 2, 5, 10), (0, 1, 15)),
    GEMMA_NAME: Size(8, 4, (1, 2, 5), (0, 9)),
    SMALL: Size(4, 2, (1, 2), (0, 1), trials=5),
}


@dataclass(frozen=True, slots=True)
class Kept:
    """Something kept.

    Attributes:
        what: What it is.
        lookups: In the place of which parts of the model.
        saving: The share of a forward's operations.
        width: Values kept of a token, or in all where it is not by token.
        made: Forwards' work that a whole table takes.
        rows: From which row to which it is looked up.
        by_token: Whether it is kept of each token.
        contexts: How often a token is computed before it is kept.
    """

    what: str
    lookups: Mapping[nn.Module, Lookup]
    saving: float
    width: int
    made: float
    rows: tuple[int, int] = (FIRST_ROW, ROWS)
    by_token: bool = True
    contexts: int = 1


def width_of_qkv(shape: ModelShape) -> int:
    """Return how many values q, k and v of a token have together in one layer."""
    return shape.queries_width + 2 * shape.keys_width


def expected_distinct(kinds: float, draws: float) -> float:
    """Return how many of so many equally likely kinds are expected among draws."""
    return -kinds * math.expm1(-draws / kinds)


def net_saving(saving: float, vocabulary: int, rows: int, nonces: int, contexts: int = 1) -> float:
    """Return what a table saves of so many nonces that is filled as tokens come.

    As a share of their forwards.

    Args:
        saving: Once it is full.
        vocabulary: How many tokens there are.
        rows: Of a nonce.
        nonces: Of the block.
        contexts: How often a token is computed before it is looked up.
    """
    draws_each = nonces * rows / vocabulary
    # Σ P[X > i] over i < contexts is the mean of the lesser of X and contexts.
    computed = sum(float(poisson.sf(i, draws_each)) for i in range(contexts))
    return saving * (1 - computed / draws_each)


def exact_tables(
    model: OfflineModel, spec: RoundSpec, tested: Sequences, shape: ModelShape
) -> Iterator[Kept]:
    """Yield the first layer's q, k and v: of the block itself, and of an earlier block."""
    assert tested.tokens is not None
    saving = Work(shape, ROWS).qkv
    width = width_of_qkv(shape)
    earlier = round_of(model, ROWS, block_hash="an earlier block").spec()
    for what, of in (("q, k, v of layer 0", spec), ("the same of an earlier block", earlier)):
        lookups = ExactTable(model, of, tested.tokens).lookups()
        yield Kept(what, lookups, saving, width, saving * spec.vocabulary / ROWS, (0, ROWS))


def mean_tables(
    model: OfflineModel, spec: RoundSpec, tested: Sequences, shape: ModelShape, size: Size
) -> Iterator[Kept]:
    """Means over contexts of what parts returned for a token."""
    assert tested.tokens is not None
    layers, draw = layers_of(model), np.random.default_rng(1)
    work = Work(shape, ROWS)
    mlps = {layer: layers[layer].mlp for layer in size.mlps}
    outputs = {depth: layers[depth - 1] for depth in size.depths}
    attention = layers[0].self_attn
    modules = [attention, *mlps.values(), *outputs.values()]
    tokens = torch.unique(read_rows(tested.tokens))[:, None]
    runs = [
        run_sequences(model, spec, in_other_contexts(spec, tokens, draw), modules)
        for _ in range(size.contexts)
    ]
    ran = Sequences.joined(runs)
    assert ran.tokens is not None
    seen = read_rows(ran.tokens)
    means: dict[nn.Module, Lookup] = {
        module: TokenMeans(seen, read_rows(states)) for module, states in ran.outputs.items()
    }
    looked_up = 1 - FIRST_ROW / ROWS

    def kept(what: str, replaced: Sequence[nn.Module], share: float, depth: int) -> Kept:
        """Of a share of the forward that is left out; a table takes the layers up to a depth."""
        made = size.contexts * spec.vocabulary / ROWS * depth / shape.num_hidden_layers
        lookups = {module: means[module] for module in replaced}
        width = shape.hidden_size * len(replaced)
        return Kept(what, lookups, looked_up * share, width, made, contexts=size.contexts)

    yield kept("attention of layer 0, by token", [attention], work.attention, 1)
    for layer, mlp in mlps.items():
        yield kept(f"MLP of layer {layer}, by token", [mlp], work.mlp, layer + 1)
    for depth, module in outputs.items():
        name = "layer" if depth == 1 else f"{depth} layers"
        yield kept(f"output of the first {name}, by token", [module], depth * work.layer, depth)


def first_row(model: OfflineModel, spec: RoundSpec, tested: Sequences, shape: ModelShape) -> Iterator[Kept]:
    """Row 0 of all layers, of a sequence that begins as all do and goes on as none."""
    assert tested.tokens is not None
    other = tested.tokens[:1].flip(1)
    other[:, 0] = spec.first
    ran = run_sequences(model, spec, other, list(layers_of(model)))
    width = shape.num_hidden_layers * 2 * shape.keys_width
    lookups = first_row_lookups(ran.outputs)
    yield Kept("row 0 of all layers", lookups, 1 / ROWS, width, 1 / ROWS, (0, 1), by_token=False)


def kept_row(kept: Kept, errors: Floats, vocabulary: int, trials: int) -> Row:
    """Return the figures of something kept."""
    net = kept.saving
    if kept.by_token:
        net = net_saving(kept.saving, vocabulary, ROWS, NONCES, kept.contexts)
    row = described(errors, trials=trials)
    return {
        "kept": kept.what,
        "saving": kept.saving,
        "memory": BYTES * kept.width * (vocabulary if kept.by_token else 1),
        "pays": math.ceil(kept.made / kept.saving),
        "net": net,
        **row,
        "leverage": kept.saving / row["error"] ** 2 if row["error"] > EXACT else None,
    }


def rows_of(name: str, model: OfflineModel, shape: ModelShape) -> Iterator[Row]:
    """Yield all rows of a model."""
    size = SIZES[name]
    own = round_of(model, ROWS).spec()
    begins = own if own.first != NO_FIRST else round_of(model, ROWS, first=STATED_FIRST).spec()
    for spec, tables in (
        (begins, (first_row,)),
        (own, (exact_tables, partial(mean_tables, size=size))),
    ):
        readout = Readout(spec, range(size.tests))
        tested = run_sequences(model, spec, readout.drawn)
        assert tested.tokens is not None
        true = readout.numbers(tested.final)
        for kept in chain.from_iterable(each(model, spec, tested, shape) for each in tables):
            final = final_from_tables(model, spec, tested.tokens, kept.lookups, slice(*kept.rows))
            row = kept_row(kept, readout.numbers(final) - true, spec.vocabulary, size.trials)
            print(f"{time.monotonic():.0f} {kept.what}: {row['error']:.3g}", flush=True)
            yield {"model": name, **row}


def shape_rows(of_models: Mapping[str, tuple[ModelShape, int]]) -> Iterator[Row]:
    """Yield what is kept exactly, on more models, with nonces of the default length.

    Args:
        of_models: Shape and vocabulary by name.
    """
    for name, (shape, vocabulary) in of_models.items():
        saving = Work(shape, SHAPE_ROWS).qkv
        width = width_of_qkv(shape)
        yield {
            "model": name,
            "vocabulary": vocabulary,
            "saving": saving,
            "memory": BYTES * width * vocabulary,
            "pays": math.ceil(vocabulary / SHAPE_ROWS),
            "net": net_saving(saving, vocabulary, SHAPE_ROWS, NONCES),
            "row_0": 1 / SHAPE_ROWS,
        }


def prefix_rows(vocabularies: Mapping[str, int]) -> Iterator[Row]:
    """Yield how often the first drawn tokens of a nonce are those of an earlier one.

    And what their rows save.
    """
    for name, vocabulary in vocabularies.items():
        for nonces in WALKS:
            seen = [1 - expected_distinct(float(vocabulary) ** j, nonces) / nonces for j in (1, 2, 3)]
            row: Row = {"model": name, "vocabulary": vocabulary, "nonces": nonces}
            row.update({f"seen_{j}": share for j, share in enumerate(seen, start=1)})
            yield {**row, "saving": sum(seen) / SHAPE_ROWS}


def findings(rows: Sequence[Row], shapes: Sequence[Row], prefixes: Sequence[Row]) -> list[str]:
    """Return what the numbers say."""
    exact = [row for row in rows if row["kept"] in ("row 0 of all layers", "q, k, v of layer 0")]
    most, least = (choose(shapes, key=lambda row: row["saving"]) for choose in (max, min))
    said = [
        f"Kept exactly, q, k and v of layer 0 save {most['saving']:.2%} of a forward at most "
        f"({most['model']}) and {least['saving']:.2%} at least ({least['model']}) of the models looked at. A "
        f"table of all tokens is {least['memory'] / 2**30:.1f} GiB for {least['model']} and has paid back "
        f"after {least['pays']:,} nonces of the block.",
        "Row 0 of a round that states a first token is the same for all nonces of a block: "
        f"{1 / SHAPE_ROWS:.2%} of nonces of {SHAPE_ROWS} rows. As measured, both change numbers by "
        f"{max(row['error'] for row in exact):.1g} s: no verdict sees them, and honest provers may do it.",
    ]
    for name in dict.fromkeys(row["model"] for row in rows):
        of_it = {row["kept"]: row for row in rows if row["model"] == name}
        stale = of_it["the same of an earlier block"]
        means = [row for row in of_it.values() if row["kept"].endswith("by token")]
        nearest = min(means, key=lambda row: row["error"])
        outputs = [row for row in means if row["kept"].startswith("output")]
        costs = ", ".join(f"{_depth(row)} ({row['saving']:.1%}) {row['error']:.2f} s" for row in outputs)
        said.append(
            f"{name}: q, k and v of an earlier block are {stale['error']:.2f} s off ({_convict(stale)}); the "
            f"nearest mean by token is that of the {nearest['kept'].removesuffix(', by token')}, "
            f"{nearest['error']:.2f} s for {nearest['saving']:.1%} ({_convict(nearest)}). Leaving out the "
            f"first layers costs: {costs}."
        )
    many = max(prefixes, key=lambda row: (row["nonces"] == WALKS[1], row["saving"]))
    said.append(
        f"Of {many['nonces']:,} nonces over {many['vocabulary']:,} tokens {many['seen_1']:.0%} begin with a "
        f"token and {many['seen_2']:.2%} with two that an earlier one of the block began with: to keep their "
        f"rows saves {many['saving']:.2%}."
    )
    return said


def _depth(row: Row) -> str:
    depth: str = row["kept"].removeprefix("output of the first ").removesuffix(", by token")
    return "one" if depth == "layer" else depth.removesuffix(" layers")


def _convict(row: Row) -> str:
    calibrated, default = (row[f"{sigma}_{THRESHOLD}"] for sigma in ("calibrated", "default"))
    return f"{_count(calibrated)} nonces convict at the calibrated σ, {_count(default)} at the default"


def _count(nonces: int | None) -> str:
    return "more than were tried" if nonces is None else str(nonces)


def draw_figure(rows: Sequence[Row], shapes: Sequence[Row]) -> Figure:
    """Error by saving; net saving of the exact table by nonces."""
    figure, (error, net) = new_figure(2)
    for name in dict.fromkeys(row["model"] for row in rows):
        of_it = [row for row in rows if row["model"] == name and row["error"] > EXACT]
        error.plot([r["saving"] for r in of_it], [r["error"] for r in of_it], "o", ms=4, label=name)
    honest = measured_noise().settings
    for name, settings in honest.items():
        error.axhline(
            settings.sigma, color="black", lw=0.8, ls="--" if name == "default" else ":", label=f"σ, {name}"
        )
    error.set(xscale="log", yscale="log", xlabel="saving, share of a forward", ylabel="error, s")
    error.legend(fontsize=7, frameon=False)
    nonces = np.geomspace(1, 1e5, 60)
    for row in shapes:
        saved = [net_saving(row["saving"], row["vocabulary"], SHAPE_ROWS, round(n)) for n in nonces]
        net.plot(nonces, saved, label=row["model"])
    net.set(xscale="log", xlabel="nonces of the block", ylabel="share saved by q, k, v of layer 0")
    net.legend(fontsize=7, frameon=False)
    return figure


def main() -> None:
    chosen = options(__doc__)
    names = [SMALL] if chosen.small else [SMOLLM2_NAME, GEMMA_NAME]
    rows: list[Row] = []
    own = {}
    for name in names:
        model = provide(name)
        own[name] = shape_of(model), int(model.model.config.get_text_config().vocab_size)
        rows += rows_of(name, model, own[name][0])
    published = {f"Qwen3-{size}": (SHAPES[size], QWEN3_VOCABULARY) for size in ("0.6B", "8B", "32B")}
    shapes = list(shape_rows(own | published))
    prefixes = list(prefix_rows({row["model"]: row["vocabulary"] for row in shapes[: len(own) + 1]}))
    write(
        "caching",
        chosen,
        draw_figure(rows, shapes),
        about=(
            f"What is kept of nonces of {ROWS} rows, the share of a forward's operations that it saves, "
            "bytes, nonces until it has paid back, how far numbers are off in s, and how many nonces convict."
        ),
        rows=rows,
        shapes=shapes,
        prefixes=prefixes,
        findings=findings(rows, shapes, prefixes),
    )


if __name__ == "__main__":
    main()
