"""What can a prover know of a nonce's numbers without running the model, on a model that was really trained?

Targets are known without a forward, and so are tokens, groups and signs. What is missing is the directions
H'_j. A predictor gives them with a cosine for a share of a forward's operations. At rate 1 its best guess is
off by √(1 − cosine²) s, which the verdict sees; below rate 1 it chooses which nonces to run (`grinding`).

Each predictor is fitted on nonces that the prover ran: of earlier blocks, whose P are others, or of the block
itself, which takes their forwards within the round. It predicts rows of final hidden states, which go through
the product's own groups, signs, sums, projection and targets. All runs are in fp32 on the weights in bf16,
with nonces of 64 rows.

- `nothing`: report 0, the likeliest number, or a number drawn by the law.
- `mean of each row`: the mean final hidden state by position; with the readout `last`, the mean direction.
- `linear in the input`: ridge regression from a row of X', and from it and the two rows before. A sum of rows
  goes through a linear map at once, so that it costs k products with a matrix a nonce.
- `table by token`: the mean final hidden state of a token over some contexts. A whole table takes V rows for
  each context; here it has only the tokens that the tested nonces read, which changes nothing of the result.
- `table by pair of tokens`: the same with the token before. V² entries are out of reach: it says how little
  the next step would bring.
- `first layers`: the model's first layers, then ridge regression from the residual stream: early exit. If the
  nonce is chosen, its forward goes on from there.

A row is a predictor, on a model and a way of reading it: `groups` of a round of tokens, which is the default,
or `last row` of a round with normal inputs of scale 1, read as in `hallmark/1`.

- saving: the share of a forward's operations that a prediction leaves out; prepared: forwards before it.
- cosine, cosine_90: mean and 90th percentile over numbers; cosine_0: mean of number 0.
- guess: √(1 − cosine²); error: as measured on the numbers, in s.
- `calibrated_1e-07` and so on: nonces that convict at rate 1, by the product's tests.
- gain: valid nonces for one forward's work at rate 0.1, relative to an honest prover, all of the prediction
  counted, for the best share of nonces that is run (share), 1 % and more. Covered nonces convict it by the
  density test at 1e-7 with 99 % power (covered). Cosines differ much between groups; a prover that knew which
  ones it predicts well could choose better, so that gains are lower bounds.
- hidden: the gain of one that skips only so many nonces that 100,000 covered ones convict it in one case of
  two. Below 1, the prediction costs more than it brings.
"""

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

import numpy as np
import torch
from _altered import BATCH_SIZE, Floats, layers_of, round_of
from _conviction import described
from _experiment import new_figure, options, write
from _grinding import covered_to_convict, found_share, least_density, reported_density, smallest_share
from _models import ModelShape
from _prediction import (
    Readout,
    Ridge,
    Sequences,
    TokenMeans,
    in_other_contexts,
    read_rows,
    run_sequences,
    unit_rows,
    with_rows_before,
)
from _provided import GEMMA_NAME, SMALL, SMOLLM2_NAME, provide
from _work import Work, shape_of
from matplotlib.figure import Figure
from torch import Tensor, nn

from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.protocol.round_spec import FIRST_ROW, RoundSpec
from hallmark.poc.verdict.judge import MAX_FAILED

ROWS = 64
RATE = 0.1
THRESHOLD = 1e-7
COVERED = 100_000
POWER = 0.5
"""With which one that hides is convicted."""
SHARES = tuple(float(share) for share in np.geomspace(0.01, 1.0, 60))
GROUPS, LAST = "groups", "last row"
OTHERS = 10_000
"""The first nonce of the block that is fitted on, not tested."""
EARLIER, THIS = "earlier blocks", "this block"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a model is run.

    Attributes:
        tests: Nonces that are predicted.
        earlier: Nonces of earlier blocks that predictors are fitted on.
        this: Nonces of the block itself that they are fitted on.
        contexts: Of each token of a table made on earlier blocks; on the block itself it is half as many.
        pair_contexts: Of each pair of tokens; 0 makes no table of pairs.
        last_tests: As tests, for the readout `last`.
        last_earlier: As earlier, for the readout `last`.
        depths: After how many layers the model is left.
        trials: Batches that are judged for a number of nonces.
    """

    tests: int
    earlier: int
    this: int
    contexts: int
    pair_contexts: int
    last_tests: int
    last_earlier: int
    depths: tuple[int, ...]
    trials: int = 100


SIZES = {
    SMOLLM2_NAME: Size(32, 112, 48, 4, 2, 64, 64, (1, 2, 5, 10, 20, 25, 28)),
    GEMMA_NAME: Size(16, 64, 32, 4, 0, 32, 32, (1, 2, 5, 10, 15)),
    SMALL: Size(4, 16, 8, 2, 2, 8, 8, (1, 3), trials=5),
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a predictor said of the tested nonces.

    Attributes:
        predictor: What it is.
        made: What it was fitted on.
        rows: In the place of final hidden states, [n, rows, D].
        cost: The share of a forward's operations that a nonce's prediction takes.
        goes_on: Whether a forward of the same nonce goes on from what was computed.
        prepared: Forwards' work before the first prediction.
    """

    predictor: str
    made: str
    rows: Tensor
    cost: float
    goes_on: bool = False
    prepared: float = 0.0


def exits(model: OfflineModel, size: Size) -> dict[int, nn.Module]:
    """Return the last layers that are run, by how many are."""
    return {depth: layers_of(model)[depth - 1] for depth in size.depths}


def earlier_blocks(model: OfflineModel, count: int, modules: Sequence[nn.Module], **config: Any) -> Sequences:
    """Run nonces of earlier blocks, a batch of each block, and keep what some parts returned."""
    parts = []
    for start in range(0, count, BATCH_SIZE):
        spec = round_of(model, ROWS, block_hash=f"earlier {start}", **config).spec()
        drawn = Readout(spec, range(min(BATCH_SIZE, count - start))).drawn
        parts.append(run_sequences(model, spec, drawn, modules))
    return Sequences.joined(parts)


def token_table(
    model: OfflineModel, specs: Sequence[RoundSpec], tokens: Tensor, draw: np.random.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Run tokens in new contexts, in each of some blocks; for each, tokens and states of the rows."""
    found = []
    for spec in specs:
        ran = run_sequences(model, spec, in_other_contexts(spec, tokens[:, None], draw))
        assert ran.tokens is not None
        found.append((read_rows(ran.tokens), read_rows(ran.final)))
    return found


def means_of(parts: Sequence[tuple[Tensor, Tensor]]) -> TokenMeans:
    """Return the table of what ran."""
    return TokenMeans(torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]))


def pair_rows(
    model: OfflineModel, specs: Sequence[RoundSpec], tokens: Tensor, draw: np.random.Generator
) -> Tensor:
    """Predict each read row by its token and the one before in other contexts: [n, rows, D]."""
    pairs = torch.stack([tokens[:, FIRST_ROW - 1 : -1], tokens[:, FIRST_ROW:]], dim=-1).flatten(0, 1)
    codes = pairs[:, 0] << 32 | pairs[:, 1]
    parts = []
    for spec in specs:
        ran = run_sequences(model, spec, in_other_contexts(spec, pairs, draw))
        assert ran.tokens is not None
        # Pairs begin at row 8, so that every other row from 9 on ends one.
        ends = ran.tokens[:, FIRST_ROW + 1 :: 2]
        before = ran.tokens[:, FIRST_ROW:-1:2]
        parts.append(((before << 32 | ends).flatten(), ran.final[:, FIRST_ROW + 1 :: 2].flatten(0, 1)))
    total = means_of(parts)(codes)
    rows = torch.zeros(*tokens.shape, total.shape[-1])
    rows[:, FIRST_ROW:] = total.view(len(tokens), -1, total.shape[-1])
    return rows


def linear_predictions(
    fitted: Sequences,
    tested: Sequences,
    made: str,
    shape: ModelShape,
    numbers: int,
    last_layers: Mapping[int, nn.Module],
) -> Iterator[Prediction]:
    """Predictions that are linear in a row of the input, or of the residual stream behind some layers."""
    prepared = float(len(fitted.final))
    product = numbers * Work(shape, ROWS).linear / ROWS
    target = read_rows(fitted.final)
    for name, before in (("linear in the input", 0), ("linear in the input, with two rows before", 2)):
        ridge = Ridge(read_rows(with_rows_before(fitted.inputs, before)), target)
        rows = ridge(with_rows_before(tested.inputs, before))
        yield Prediction(name, made, rows, (1 + before) * product, prepared=prepared)
    for depth, layer in last_layers.items():
        ridge = Ridge(read_rows(unit_rows(fitted.outputs[layer])), target)
        rows = ridge(unit_rows(tested.outputs[layer]))
        name = f"first {depth} of {shape.num_hidden_layers} layers"
        cost = depth / shape.num_hidden_layers + product
        yield Prediction(name, made, rows, cost, goes_on=True, prepared=prepared)


def predictions_of_groups(
    model: OfflineModel, shape: ModelShape, size: Size, readout: Readout, tested: Sequences
) -> Iterator[Prediction]:
    """Yield all predictions of a round of tokens."""
    assert tested.tokens is not None
    spec, draw = readout.spec, np.random.default_rng(1)
    layers = exits(model, size)
    earlier = earlier_blocks(model, size.earlier, list(layers.values()))
    constant = earlier.final.mean(0).expand_as(tested.final)
    yield Prediction("mean of each row", EARLIER, constant, 0.0, prepared=size.earlier)
    yield from linear_predictions(earlier, tested, EARLIER, shape, spec.numbers, layers)
    this = run_sequences(model, spec, Readout(spec, range(OTHERS, OTHERS + size.this)).drawn)
    yield from linear_predictions(this, tested, THIS, shape, spec.numbers, {})

    tokens = torch.unique(read_rows(tested.tokens))
    blocks = [round_of(model, ROWS, block_hash=f"table {i}").spec() for i in range(size.contexts)]
    whole = spec.vocabulary / ROWS
    parts = token_table(model, blocks, tokens, draw)
    for contexts in (1, size.contexts):
        rows = means_of(parts[:contexts])(tested.tokens)
        yield Prediction(_table(contexts), EARLIER, rows, 0.0, prepared=contexts * whole)
    contexts = size.contexts // 2
    rows = means_of(token_table(model, [spec] * contexts, tokens, draw))(tested.tokens)
    yield Prediction(_table(contexts), THIS, rows, 0.0, prepared=contexts * whole)
    if size.pair_contexts:
        rows = pair_rows(model, blocks[: size.pair_contexts], tested.tokens, draw)
        prepared = size.pair_contexts * 2 * spec.vocabulary**2 / ROWS
        yield Prediction(
            f"table by pair of tokens, {size.pair_contexts} contexts", EARLIER, rows, 0.0, prepared=prepared
        )


def _table(contexts: int) -> str:
    return f"table by token, {contexts} context{'s' if contexts > 1 else ''}"


def predictions_of_last_row(
    model: OfflineModel, shape: ModelShape, size: Size, readout: Readout, tested: Sequences
) -> Iterator[Prediction]:
    """Yield what can be predicted of a round with normal inputs, of which the last row is read."""
    layers = exits(model, size)
    earlier = earlier_blocks(model, size.last_earlier, list(layers.values()), inputs="normal", readout="last")
    constant = earlier.final.mean(0).expand_as(tested.final)
    yield Prediction("mean of each row", EARLIER, constant, 0.0, prepared=size.last_earlier)
    yield from linear_predictions(earlier, tested, EARLIER, shape, readout.spec.numbers, layers)


def judged(errors: Floats, size: Size) -> Row:
    """Return how large errors are and how many nonces convict, for numbers of groups.

    Only the first for one number.

    The noise that a verdict is calibrated on is that of groups.
    """
    if errors.shape[1] > 1:
        return described(errors, trials=size.trials)
    return {"nonces": len(errors), "error": float(np.sqrt(np.mean(errors**2)))}


def nothing_rows(true: Floats, width: int, size: Size) -> Iterator[Row]:
    """Reports of a prover that predicts nothing."""
    draw = np.random.default_rng(2)
    shape = (width - 1) / 2
    drawn = math.sqrt(width) * (2 * draw.beta(shape, shape, true.shape) - 1)
    for name, reported in (("nothing: report 0", 0.0), ("nothing: draw by the law", drawn)):
        yield {
            "predictor": name,
            "made": "",
            "saving": 1.0,
            "prepared": 0.0,
            **dict.fromkeys(("cosine", "cosine_90", "cosine_0"), 0.0),
            "guess": 1.0,
            **judged(reported - true, size),
            **dict.fromkeys(("gain", "share", "hidden"), 1.0),
        }


def prediction_row(said: Prediction, readout: Readout, final: Tensor, true: Floats, size: Size) -> Row:
    """Return the figures of a predictor."""
    cosines = readout.cosines(said.rows, final)
    cosine = float(cosines.mean())
    reported = max(0.0, cosine) * readout.numbers(said.rows)
    return {
        "predictor": said.predictor,
        "made": said.made,
        "saving": 1.0 - said.cost,
        "prepared": said.prepared,
        "cosine": cosine,
        "cosine_90": float(np.quantile(cosines, 0.9)),
        "cosine_0": float(cosines[:, 0].mean()),
        "guess": math.sqrt(1 - cosine**2),
        **judged(reported - true, size),
        **grinding(cosines.ravel(), said),
    }


def gain_of(share: float, cosines: Floats, said: Prediction) -> float:
    """Valid nonces for one forward's work, relative to an honest prover, where that share is run."""
    work = said.cost + share * (1 - said.cost if said.goes_on else 1.0)
    return found_share(RATE, share, cosines) / work


def grinding(cosines: Floats, said: Prediction) -> Row:
    """Return what cosines are worth below rate 1, and what convicts.

    Number 0 is chosen by. All numbers' cosines are taken as a sample of its own: groups are drawn alike.
    """
    gains = [gain_of(share, cosines, said) for share in SHARES]
    best = SHARES[int(np.argmax(gains))]
    density = reported_density(RATE, found_share(RATE, best, cosines))
    part = min(1.0, least_density(COVERED, RATE, THRESHOLD, POWER) * (1 - MAX_FAILED) / RATE)
    return {
        "gain": max(gains),
        "share": best,
        "covered": covered_to_convict(RATE, density, THRESHOLD),
        "hidden": gain_of(smallest_share(RATE, cosines, part), cosines, said),
    }


def rows_of(name: str) -> Iterator[Row]:
    """Yield all rows of a model."""
    model, size = provide(name), SIZES[name]
    shape = shape_of(model)
    for reads, tests, config in (
        (GROUPS, size.tests, {}),
        (LAST, size.last_tests, {"inputs": "normal", "readout": "last"}),
    ):
        spec = round_of(model, ROWS, **config).spec()
        readout = Readout(spec, range(tests))
        tested = run_sequences(model, spec, readout.drawn, list(exits(model, size).values()))
        true = readout.numbers(tested.final)
        label = {"model": name, "reads": reads}
        for row in nothing_rows(true, spec.hidden_size, size):
            yield {**label, **row}
        predictions = predictions_of_groups if reads == GROUPS else predictions_of_last_row
        for said in predictions(model, shape, size, readout, tested):
            row = prediction_row(said, readout, tested.final, true, size)
            print(f"{time.monotonic():.0f} {said.predictor}, {said.made}: {row['cosine']:.3f}", flush=True)
            yield {**label, **row}


def endless(rows: Sequence[Row]) -> float:
    """Return the cosine of a table by token with endless contexts, from that with one and that with several.

    The mean over n contexts of independent noise has 1/cosine² = (1 + v/n)/limit².
    """
    few, many = (
        row for row in rows if row["predictor"].startswith("table by token") and row["made"] == EARLIER
    )
    n = int(many["predictor"].split()[3])
    inverse = (n * many["cosine"] ** -2 - few["cosine"] ** -2) / (n - 1)
    return float(min(1.0, inverse**-0.5)) if inverse > 0 else 1.0


def findings(rows: Sequence[Row]) -> list[str]:
    """Return what the numbers say."""
    said = []
    for name in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == name]
        groups = {(row["predictor"], row["made"]): row for row in of_model if row["reads"] == GROUPS}
        last = {(row["predictor"], row["made"]): row for row in of_model if row["reads"] == LAST}
        free = [row for key, row in groups.items() if key[0].startswith(("mean", "linear"))]
        tables = [
            row for key, row in groups.items() if key[0].startswith("table by token") and key[1] == EARLIER
        ]
        early = [row for key, row in groups.items() if key[0].startswith("first")]
        constant = ("mean of each row", EARLIER)
        linear = max(free, key=lambda row: row["cosine"])
        table = max(tables, key=lambda row: (row["made"] == EARLIER, row["cosine"]))
        shortest, nearest = early[0], early[-1]
        paying = max(early, key=lambda row: row["gain"])
        limit = endless(list(groups.values()))
        said += [
            f"{name}: the mean direction, for no work at all, has a cosine of "
            f"{last[constant]['cosine']:.2f} with the last row of normal inputs "
            f"({last[constant]['error']:.2f} s off), and of {groups[constant]['cosine']:.2f} with balanced "
            f"groups of tokens ({groups[constant]['error']:.2f} s).",
            f"{name}: the best linear map of the input ({linear['predictor']}, {linear['made']}) has a "
            f"cosine of {linear['cosine']:.2f} ({linear['error']:.2f} s), a {table['predictor']} of "
            f"{table['made']} {table['cosine']:.2f} ({table['error']:.2f} s), one of endless contexts "
            f"{limit:.2f}. At rate 1 and the default σ, {_count(linear)} nonces convict the former and "
            f"{_count(table)} the latter.",
            f"{name}: the {shortest['predictor']} and a linear map give {shortest['cosine']:.2f}, the "
            f"{nearest['predictor']} {nearest['cosine']:.2f} ({nearest['error']:.2f} s) for a saving of "
            f"{nearest['saving']:.1%}; with the last row of normal inputs they would be off by "
            f"{last[shortest['predictor'], EARLIER]['error']:.2f} and "
            f"{last[nearest['predictor'], EARLIER]['error']:.2f} s.",
            f"{name}: at a valid rate of {RATE:g} grinding by that table gives {table['gain']:.2f} times the "
            f"valid nonces of a forward, or {table['hidden']:.2f} where {COVERED:,} covered nonces are to "
            f"convict in one case of two only; leaving early at best {paying['gain']:.2f} "
            f"({paying['predictor']}). On the last row of normal inputs the mean direction alone gives "
            f"{last[constant]['gain']:.2f}.",
        ]
    return said


def _count(row: Row) -> str:
    nonces = row[f"default_{THRESHOLD:g}"]
    return "no number of" if nonces is None else str(nonces)


def draw_figure(rows: Sequence[Row]) -> Figure:
    """Cosine and gain by the work of a prediction."""
    figure, (cosine, gain) = new_figure(2)
    for name in dict.fromkeys(row["model"] for row in rows):
        for reads, line in ((GROUPS, "o-"), (LAST, "s--")):
            of_it = [row for row in rows if (row["model"], row["reads"]) == (name, reads)]
            early = [row for row in of_it if row["predictor"].startswith("first")]
            work = [1 - row["saving"] for row in early]
            label = f"{name}, {reads}"
            (drawn,) = cosine.plot(work, [row["cosine"] for row in early], line, ms=4, label=label)
            gain.plot(work, [row["gain"] for row in early], line, ms=4, color=drawn.get_color())
            others = [row for row in of_it if not row["predictor"].startswith(("first", "nothing"))]
            work = [1 - row["saving"] for row in others]
            style = {"marker": "x", "ls": "", "color": drawn.get_color()}
            cosine.plot(work, [row["cosine"] for row in others], **style)
            gain.plot(work, [row["gain"] for row in others], **style)
    cosine.set(xlabel="work of the prediction, of a forward", ylabel="cosine with H'", ylim=(-0.05, 1.02))
    cosine.legend(fontsize=7, frameon=False)
    gain.set(xlabel="work of the prediction, of a forward", ylabel="valid nonces for one forward's work")
    gain.set_title(f"rate {RATE:g}", loc="left", fontsize=10)
    return figure


def main() -> None:
    chosen = options(__doc__)
    names = [SMALL] if chosen.small else [SMOLLM2_NAME, GEMMA_NAME]
    rows = [row for name in names for row in rows_of(name)]
    write(
        "forging",
        chosen,
        draw_figure(rows),
        about=(
            f"Cosines of predicted directions with true ones on nonces of {ROWS} rows, what the prediction "
            "saves, how far numbers are off in s, how many nonces convict, and what is gained below rate 1."
        ),
        rows=rows,
        findings=findings(rows),
    )


if __name__ == "__main__":
    main()
