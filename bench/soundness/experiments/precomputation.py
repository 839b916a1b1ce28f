"""Precomputation: what can a prover prepare before the block hash is known, with the projection and without?

Inputs are drawn from the block hash, so that no forward can be run in advance. What can be made before it is
a model of the model: the mean direction of its outputs, a linear map from inputs to outputs, a table of
inputs and outputs in which the nearest is looked up. Each is prepared on inputs that the prover chose itself,
held against a block that came later, and compared with the same thing made after the block was known. Errors
are those of the best claims that a prediction with cosine c to the truth allows: ``sqrt(2 − 2·c·ŷ·t)``.

The projection is known to the prover as soon as the block is. It can compose what it prepared with ``I + P``
before the model and after it, at the price of two products with a matrix; `P ignored` is without the first.
`a table that holds the input` stands for streams with few seeds: the outputs of this block's very inputs had
been prepared, unprojected. Streams have 128 bits, and no such table can be made; the row tells what the
projection alone would be worth. `corrected` adds a linear map of what P changes in the input's last rows.

Projections of scale 0.04 at width 256 change inputs as those of scale 0.01 do at width 4,096.

A row is a model, a setting and a method:

 - prepared: whether it needs nothing of the block but P
 - cosine: mean cosine of the predicted and the true output, after the projection
 - error_s, law: RMS of claimed − true distance in s, and √(1 − c²)
 - beyond: share of errors beyond the tolerance of 0.35 s
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

import numpy as np
import torch
from _architectures import MOE, QWEN3, TINY, Architecture, Weights, load
from _experiment import new_figure, options, write
from _forward import Prover, in_units_of_s, round_of
from torch import Tensor

from hallmark.poc.protocol.law import distance_std
from hallmark.poc.protocol.round_spec import RoundSpec
from hallmark.poc.specification import RandomProjection

TOLERANCE = 0.35
THIS_BLOCK, EARLIER_BLOCK = "this block", "an earlier block"
POOLED = 8
"""Rows whose mean the linear map sees beside the last one."""
TARGETS = 8
"""Public keys whose targets a prediction meets: more errors from as many forwards."""
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True, slots=True)
class Setting:
    """How a round's inputs are made.

    Attributes:
        name: For the table.
        input_scale: The inputs' standard deviation; None: the embedding table's.
        projection_scale: Of P; 0 where the projection is off.
    """

    name: str
    input_scale: float | None
    projection_scale: float


SETTINGS = (
    Setting("off, inputs of variance 1", 1.0, 0.0),
    Setting("off", None, 0.0),
    Setting("0.01", None, 0.01),
    Setting("0.04", None, 0.04),
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed.

    Attributes:
        fitted: Nonces that a prover runs to prepare; a quarter of their rows are samples.
        tested: Nonces of the block.
        seq_len: Rows of a nonce's input.
    """

    fitted: int
    tested: int
    seq_len: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Samples of inputs and what the model makes of them.

    Attributes:
        last: [n, D], the input's row itself.
        pooled: [n, D], the mean of it and the rows before it.
        hidden: [n, D], the model's final hidden state in that row.
    """

    last: Tensor
    pooled: Tensor
    hidden: Tensor

    @property
    def features(self) -> Tensor:
        """What a linear map is given, [n, 2·D + 1]; the mean is brought to the row's size."""
        ones = self.last.square().mean().sqrt().expand(len(self.last), 1)
        return torch.cat((self.last, math.sqrt(POOLED) * self.pooled, ones), dim=1)


@torch.inference_mode()
def run(model: Any, spec: RoundSpec, nonces: range, *, rows: int, projected: bool = True) -> Rows:
    """Run the model on nonces and keep so many of the last rows of each.

    Args:
        model: Of transformers.
        spec: The round.
        nonces: A multiple of the round's batch size.
        rows: How many; 1 is what a proof is made of.
        projected: False leaves out the projection before the model, of inputs that stay the block's own.
    """
    prover = Prover(model, spec if projected else replace(spec, projection=False))
    last, pooled, hidden = [], [], []
    for _, inputs in prover.batches(nonces):
        states = model.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        means = inputs.unfold(1, min(POOLED, inputs.shape[1] // 2), 1).mean(dim=-1)
        last.append(inputs[:, -rows:].flatten(0, 1))
        pooled.append(means[:, -rows:].flatten(0, 1))
        hidden.append(states[:, -rows:].flatten(0, 1))
    return Rows(torch.cat(last), torch.cat(pooled), torch.cat(hidden))


@dataclass(frozen=True, slots=True)
class Map:
    """A linear map with the cosine that its predictions had on samples it was not fitted on."""

    matrix: Tensor
    cosine: float


def fit(features: Tensor, hidden: Tensor) -> Map:
    """Ridge regression; the penalty that predicts held-out samples best, which are the last fifth."""
    kept = len(features) * 4 // 5
    x, y = features.double(), hidden.double()
    gram, right = x[:kept].T @ x[:kept], x[:kept].T @ y[:kept]
    size = float(gram.diagonal().mean())
    tried = []
    for ridge in RIDGES:
        matrix = torch.linalg.solve(gram + ridge * size * torch.eye(len(gram)).double(), right)
        tried.append(Map(matrix, mean_cosine(x[kept:] @ matrix, y[kept:])))
    return max(tried, key=lambda each: each.cosine)


def mean_cosine(one: Tensor, other: Tensor) -> float:
    """Mean cosine of rows [n, D]."""
    return float(torch.cosine_similarity(one.double(), other.double(), dim=1).mean())


def mean_direction(hidden: Tensor) -> Map:
    """The mean of unit outputs, as a map of a constant feature; held out as by `fit`."""
    units = torch.nn.functional.normalize(hidden.double(), dim=1)
    kept = len(units) * 4 // 5
    mean = units[:kept].mean(dim=0, keepdim=True)
    return Map(mean, mean_cosine(mean.expand_as(units[kept:]), units[kept:]))


class Table:
    """Inputs and outputs that were prepared; a new input gets the output of the most similar one.

    The output is moved towards the mean of all by what held-out inputs show to be best.

    Args:
        rows: What was prepared.
    """

    def __init__(self, rows: Rows) -> None:
        self._keys = torch.nn.functional.normalize(rows.features, dim=1)
        self._hidden = rows.hidden
        self._mean = rows.hidden.mean(dim=0)
        self.entries = len(rows.hidden)
        held_out = slice(self.entries * 4 // 5, self.entries)
        nearest = self._nearest(self._keys[held_out], self.entries * 4 // 5) - self._mean
        moved = rows.hidden[held_out] - self._mean
        self._share = float((moved * nearest).sum() / nearest.square().sum())
        self.cosine = mean_cosine(self._mean + self._share * nearest, rows.hidden[held_out])

    def _nearest(self, keys: Tensor, entries: int) -> Tensor:
        return self._hidden[(keys @ self._keys[:entries].T).argmax(dim=1)]

    def predict(self, rows: Rows) -> Tensor:
        """Outputs [n, D] for rows of inputs."""
        keys = torch.nn.functional.normalize(rows.features, dim=1)
        return self._mean + self._share * (self._nearest(keys, self.entries) - self._mean)


def score(prover: Prover, predicted: Tensor, truth: Tensor, nonces: range, cosine: float) -> dict[str, Any]:
    """The columns of a row: what claims made of predicted outputs are off by.

    Args:
        prover: Of the round.
        predicted: [n, D], before the projection after the model, as is the truth.
        truth: [n, D].
        nonces: n of them.
        cosine: What the prover takes its predictions' cosine with the truth to be.
    """
    errors, products = [], []
    key = prover.public_key
    for target in range(TARGETS):
        prover.public_key = f"{key} {target}" if target else key
        guessed = 1 - prover.distances(predicted, nonces) ** 2 / 2
        true = prover.distances(truth, nonces)
        errors.append(in_units_of_s(np.sqrt(2 - 2 * cosine * guessed), true, prover.spec.hidden_size))
        products.append((guessed, true))
    prover.public_key = key
    off = np.concatenate(errors)
    if prover.spec.projection:
        post = RandomProjection(prover.spec.block_hash, truth.shape[1], prover.spec.projection_scale)
        predicted, truth = post.post(predicted.float()), post.post(truth.float())
    actual = mean_cosine(predicted, truth)
    return {
        "cosine": round(actual, 4),
        "error_s": round(float(np.sqrt(np.mean(off**2))), 4),
        "law": round(math.sqrt(max(0.0, 1 - actual**2)), 4),
        "beyond": round(float((np.abs(off) > TOLERANCE).mean()), 4),
    }


def attack(
    model: Any, setting: Setting, size: Size, unprojected: dict[float, Rows]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each method of one model and setting.

    Args:
        model: Of transformers.
        setting: The setting.
        size: How much.
        unprojected: What was prepared on unprojected inputs, by input scale; filled where it is missing.
    """
    is_projected = setting.projection_scale > 0

    def round_for(block: str) -> RoundSpec:
        spec = round_of(
            model, block_hash=block, seq_len=size.seq_len, input_scale=setting.input_scale, projection=True
        )
        # Without the projection the scale stays what is said: the plain round's own would be 1.
        return replace(spec, projection=is_projected, projection_scale=setting.projection_scale or 0.01)

    this, earlier = round_for(THIS_BLOCK), round_for(EARLIER_BLOCK)
    rows = max(1, size.seq_len // 4)
    nonces, later = range(size.tested), range(size.tested, size.tested + size.fitted)
    prepared = unprojected.get(this.input_scale)
    if prepared is None:
        prepared = run(model, earlier, range(size.fitted), rows=rows, projected=False)
        unprojected[this.input_scale] = prepared
    tested = run(model, this, nonces, rows=1)
    after = run(model, this, later, rows=rows)
    prover = Prover(model, this)

    def row(method: str, predicted: Tensor, cosine: float, *, in_advance: bool) -> dict[str, Any]:
        columns = score(prover, predicted.float(), tested.hidden, nonces, cosine)
        return {"method": method, "prepared": in_advance, **columns}

    before, known = mean_direction(prepared.hidden), mean_direction(after.hidden)
    for name, mean in (("mean direction", before), ("mean direction, after the block", known)):
        yield row(name, mean.matrix.expand_as(tested.hidden), mean.cosine, in_advance=mean is before)
    linear, refitted = fit(prepared.features, prepared.hidden), fit(after.features, after.hidden)
    features = tested.features.double()
    yield row("linear map", features @ linear.matrix, linear.cosine, in_advance=True)
    yield row("linear map, after the block", features @ refitted.matrix, refitted.cosine, in_advance=False)
    table = Table(prepared)
    yield row("table of nearest inputs", table.predict(tested), table.cosine, in_advance=True)
    if not is_projected:
        return
    other = run(model, earlier, range(size.fitted), rows=rows)
    projected = fit(other.features, other.hidden)
    yield row(
        "linear map of projected inputs", features @ projected.matrix, projected.cosine, in_advance=True
    )
    raw = run(model, this, nonces, rows=1, projected=False)
    yield row("linear map, P ignored", raw.features.double() @ linear.matrix, linear.cosine, in_advance=True)
    known_cosine = mean_cosine(other.hidden, prepared.hidden)
    yield row("a table that holds the input", raw.hidden, known_cosine, in_advance=True)
    changes = torch.cat((prepared.hidden, other.features - prepared.features), dim=1)
    correction = fit(changes, other.hidden)
    corrected = torch.cat((raw.hidden, tested.features - raw.features), dim=1).double() @ correction.matrix
    yield row("a table that holds the input, corrected", corrected, correction.cosine, in_advance=True)


def table_sizes(hidden_size: int) -> list[dict[str, Any]]:
    """What a table of outputs would take that spares a prover its forwards, by the bits of a seed."""
    entry_bytes = 2 * hidden_size
    nonces = 10**6
    rows = []
    for bits in (32, 64, 128):
        # One expected hit among the nonces of a block; with 32 bits the whole table is small enough.
        entries = 2.0**bits if bits == 32 else 2.0**bits / nonces
        rows.append(
            {
                "seed_bits": bits,
                "width": hidden_size,
                "nonces": nonces,
                "hits": nonces if bits == 32 else 1,
                "entries": entries,
                "terabytes": entries * entry_bytes / 1e12,
            }
        )
    return rows


def models(small: bool) -> Iterator[tuple[Architecture, Weights]]:
    """What is attacked."""
    if small:
        yield TINY, "strong"
        return
    yield QWEN3, "trained"
    yield QWEN3, "strong"
    yield QWEN3, "fresh"
    yield MOE, "trained"


def main() -> None:
    chosen = options(__doc__)
    size = Size(64, 64, 8) if chosen.small else Size(640, 512, 32)
    rows = []
    for architecture, weights in models(chosen.small):
        model = load(architecture, weights)
        unprojected: dict[float, Rows] = {}
        for setting in SETTINGS:
            label = {"model": architecture.name, "weights": weights, "projection": setting.name}
            rows += [{**label, **row} for row in attack(model, setting, size, unprojected)]
    for row in rows:
        # Claims cannot be better than the cosine of what they are made of allows.
        assert row["error_s"] > 0.8 * row["law"], f"an error below its law: {row}"
    tables = table_sizes(4096)
    write(
        "precomputation",
        chosen,
        draw(rows),
        about=(
            f"Errors of distances claimed without running the model: {size.fitted} nonces of {size.seq_len} "
            f"rows to fit on, {size.tested} nonces and {TARGETS} targets each to test; s = "
            f"{distance_std(256):.4f} at width 256."
        ),
        rows=rows,
        tables=tables,
        tolerance=TOLERANCE,
        findings=findings(rows, tables),
    )


def findings(rows: Sequence[dict[str, Any]], tables: Sequence[dict[str, Any]]) -> list[str]:
    """What the numbers say, in words."""

    def error(row: dict[str, Any]) -> str:
        return f"{row['error_s']:.2f} s ({row['model']}, {row['weights']}, projection {row['projection']})"

    def of(method: str, projection: str | None = None) -> list[dict[str, Any]]:
        return [
            row
            for row in rows
            if row["method"] == method and (projection is None or row["projection"] == projection)
        ]

    def pairs(method: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        return zip(of("mean direction"), of(method), strict=True)

    impossible = ("a table that holds the input", "a table that holds the input, corrected")
    possible = [row for row in rows if row["prepared"] and row["method"] not in impossible]
    default = [row for row in possible if not row["projection"].startswith("off, ")]
    plain = [row for row in possible if row["projection"].startswith("off, ")]
    best, best_plain = (min(each, key=lambda row: row["error_s"]) for each in (default, plain))
    without = {(row["model"], row["weights"]): row["error_s"] for row in of("linear map", "off")}
    gains = [row["error_s"] - without[row["model"], row["weights"]] for row in of("linear map", "0.01")]
    refits = [
        before["error_s"] - after["error_s"]
        for before, after in zip(of("linear map"), of("linear map, after the block"), strict=True)
    ]
    lazy = [
        ignored["error_s"] - composed["error_s"]
        for ignored, composed in zip(
            of("linear map, P ignored", "0.01"), of("linear map", "0.01"), strict=True
        )
    ]
    means = [
        before["error_s"] - after["error_s"]
        for before, after in zip(of("mean direction"), of("mean direction, after the block"), strict=True)
    ]
    gained, nearest = max(
        ((mean["error_s"] - table["error_s"], table) for mean, table in pairs("table of nearest inputs")),
        key=lambda pair: pair[0],
    )
    seeds32, seeds128 = tables[0], tables[-1]
    found = [
        f"The best that could be prepared before the block was {best['method']}, with an error of "
        f"{error(best)} at the embedding's input scale; with inputs of variance 1, as plain PoC 2.0 draws "
        f"them, it was {best_plain['method']} with {error(best_plain)}. The tolerance is {TOLERANCE} s.",
        "The projection does not stop a prepared model of the model. A linear map that was fitted before "
        f"the block and composed with the block's P had an error {_range(gains)} s different from the same "
        "without a projection, and fitting anew once the block was known changed it by "
        f"{_range([-r for r in refits])} s; a prover that leaves P out of the composition loses "
        f"{_range(lazy)} s at scale 0.01.",
        "The mean direction of outputs prepared on unprojected inputs is worth what this block's own mean "
        f"is, to {max(abs(each) for each in means):.2f} s.",
        f"Looking up the nearest of a table of prepared inputs is at most {gained:.2f} s better than the "
        f"mean direction, where it leaves {error(nearest)}: inputs of so many dimensions have no near "
        "neighbours.",
        f"Exact tables are ruled out by the streams: with seeds of {seeds32['seed_bits']} bits a table of "
        f"{seeds32['terabytes']:,.0f} TB at width {seeds32['width']:,} would answer every nonce of every "
        f"block without a projection; with {seeds128['seed_bits']} bits one hit among {seeds128['nonces']:,} "
        f"nonces takes {seeds128['terabytes']:.0e} TB.",
    ]
    for scale, width in (("0.01", "256"), ("0.04", "4,096")):
        least = min(
            (row for method in impossible for row in of(method, scale)), key=lambda row: row["error_s"]
        )
        found.append(
            "Had such a table held the very inputs of a block, a projection that changes inputs as scale "
            f"0.01 does at width {width} would leave its outputs, corrected or not, with an error of at "
            f"least {error(least)}: "
            + (
                "less than the tolerance, so that the projection alone would not stop it there."
                if least["error_s"] < TOLERANCE
                else "more than the tolerance."
            )
        )
    return found


def _range(values: Sequence[float]) -> str:
    return f"{min(values):+.2f} to {max(values):+.2f}"


def draw(rows: Sequence[dict[str, Any]]) -> Any:
    """Error of every method, by setting and model."""
    figure, axes = new_figure(2, width=5.6, height=4.2)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    models = list(dict.fromkeys((row["model"], row["weights"]) for row in rows))
    for panel, projection in zip(axes, ("off, inputs of variance 1", "0.01"), strict=True):
        for place, (model, weights) in enumerate(models):
            chosen = [
                row
                for row in rows
                if (row["model"], row["weights"], row["projection"]) == (model, weights, projection)
            ]
            heights = [methods.index(row["method"]) + 0.12 * (place - 2) for row in chosen]
            errors = [row["error_s"] for row in chosen]
            panel.plot(errors, heights, "o", ms=4, label=f"{model} {weights}")
        panel.axvline(TOLERANCE, color="C3", ls="--", lw=1, label="tolerance")
        panel.set(xlim=(0, 1.15), xlabel="error of the claims, in s", ylim=(len(methods) - 0.5, -0.5))
        panel.set(yticks=range(len(methods)), title=f"projection {projection}")
    axes[0].set_yticklabels(methods)
    axes[1].set_yticklabels([])
    axes[0].legend(frameon=False, fontsize=7, loc="lower right")
    return figure


if __name__ == "__main__":
    main()
