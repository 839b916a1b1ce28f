"""Work left out of a forward: what does it save, how far off are the numbers, and what hides?

The prover holds the deployed weights and computes less. Savings are shares of the floating-point operations
of a forward, by the model's own shapes (`_work.py`). Errors of independent shortcuts add in squares, savings
add: what a shortcut is worth to a prover that has to stay below some error is its saving by the square of its
error.

Shortcuts:

- honest: rows 0 to 7 are not read, so their last layer need only give keys and values.
- a layer left out: each one alone, the cheapest, the cheapest two.
- a layer, or the last ones, replaced by a linear map fitted on earlier blocks; rows 0 to 7 go the model's
  way.
- rows stopped early: their state stays what it was before the last layers, for all but the last row, for half
  of the rows of each group, or for the rows that are not read.
- half of each group not read: summed over half of its pairs alone. absent: not run at all either.
- half of the groups guessed: their numbers are 0; their rows stop a layer early.
- the last MLP, or half of the rows' last MLP, left out.
- attention to a window and the first key; keys of the first rows alone.
- the least heads, the least neurons, the neurons with small gates left out; MLPs by SVD, each weighed by the
  second moments of earlier inputs.
- W8A8: INT8 weights and activations in some layers, said to cost half as much there.

A row is a shortcut on a model by nonces of so many rows:

- saved: share of the operations. value: saved / error².
- hides_*: what a prover saves that spreads it over so few layers, rows or nonces that the RMS of all errors
  is the largest that 1,000 nonces convict at 1e-7 with less than 90 % power (`limits`). That is for the RMS
  alone: an upper bound where single nonces are far off.
- other columns as in `detection.py`.

`combined` are such provers, measured: as many layers in W8A8 as should hide, with the honest saving.
"""

import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

from _altered import Deployed, Floats, together, with_weights
from _calibration import Attacker
from _conviction import described, largest_that_hides, measured_noise
from _experiment import new_figure, options, write
from _provided import GEMMA_NAME, SMALL, SMOLLM2_NAME, provide
from _quantised import integers, with_inputs_rounded
from _shortcuts import (
    UNREAD,
    ChosenRows,
    early_keys,
    low_rank,
    masked,
    stopped,
    top_neurons,
    window,
    with_linear_map,
    without_heads,
    without_layers,
    without_least_inputs,
    without_mlp,
)
from _work import Work, shape_of
from matplotlib.figure import Figure
from torch import Tensor, nn

Row = dict[str, Any]
Context = AbstractContextManager[None]

INT8_COST = 0.5
"""Of the time of a bf16 product, by the rates that vendors state."""
COARSE = 0.4
"""An error beyond it is measured on the first nonces alone."""
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed of a model.

    Attributes:
        model: Its name.
        rows: Of a nonce.
        nonces: How many.
        calibration: Sequences of 64 rows to fit on.
        every_layer: Whether each layer is left out in turn, on the first nonces alone.
        trials: Batches judged for each number of nonces.
    """

    model: str
    rows: int
    nonces: int
    calibration: int = 32
    every_layer: bool = True
    trials: int = 200


FULL = (Size(SMOLLM2_NAME, 64, 8), Size(GEMMA_NAME, 64, 4), Size(SMOLLM2_NAME, 256, 4, every_layer=False))
SHORT = (Size(SMALL, 24, 4, calibration=8, trials=20),)


@dataclass(frozen=True, slots=True)
class Shortcut:
    """What is left out, the share of the operations that it saves, and how."""

    name: str
    saved: float
    enter: Callable[[], Context]


class Prover:
    """A prover that takes shortcuts through a deployed model."""

    def __init__(self, attacker: Attacker, size: Size) -> None:
        self.attacker = attacker
        self.layers = attacker.layers
        self.count = len(attacker.layers)
        self.deployed = Deployed(attacker.model, size.rows, size.nonces)
        self.work = Work(shape_of(attacker.model), size.rows)
        self.late = 1 - UNREAD / size.rows

    def shortcuts(self, cheapest: Sequence[int]) -> Iterator[Shortcut]:
        """Yield all shortcuts but single layers.

        Args:
            cheapest: Layers by what leaving them out does, the least first.
        """
        yield self.honest()
        yield from self._layers(cheapest)
        yield from self._rows()
        yield from self._attention()
        yield from self._neurons()
        for layers in sorted({1, self.count // 4, self.count}):
            yield self.in_eight_bits(layers)

    def honest(self) -> Shortcut:
        """Leave out what no number depends on."""
        saved = (1 - self.late) * self.work.beyond_keys
        return Shortcut(
            "honest: rows 0 to 7 stop a layer early", saved, lambda: stopped(self.layers, 1, slice(UNREAD))
        )

    def without(self, *places: int) -> Shortcut:
        """Leave layers out."""
        named = f"layer{'s' if len(places) > 1 else ''} {' and '.join(map(str, sorted(places)))} left out"
        return Shortcut(named, len(places) * self.work.layer, lambda: without_layers(self.layers, places))

    def in_eight_bits(self, count: int) -> Shortcut:
        """Run so many layers, spread evenly, in W8A8."""
        chosen = [self.layers[round((i + 0.5) * self.count / count - 0.5)] for i in range(count)]
        within = {module for layer in chosen for module in layer.modules()}
        matrices = [each for each in self.attacker.matrices.values() if each in within]
        return Shortcut(
            f"W8A8 in {count} of {self.count} layers",
            (1 - INT8_COST) * count * self.work.matrices,
            lambda: together(
                with_weights({each: integers(each.weight.data, 8) for each in matrices}),
                with_inputs_rounded(matrices, partial(integers, bits=8)),
            ),
        )

    def _layers(self, cheapest: Sequence[int]) -> Iterator[Shortcut]:
        yield self.without(*cheapest[:2])
        states = self.attacker.taught.states
        for first, last in ((cheapest[0], cheapest[0]), *((self.count - n, self.count - 1) for n in (1, 2))):
            named = f"layer {first}" if first == last < self.count - 1 else f"last {self.count - first}"
            yield Shortcut(
                f"{named} by a linear map",
                self.late * ((last - first + 1) * self.work.layer - self.work.linear),
                partial(with_linear_map, self.layers, first, last, states[first], states[last + 1]),
            )

    def _rows(self) -> Iterator[Shortcut]:
        half = ChosenRows(self.deployed, 0.5)
        for count in (n for n in (1, 2, 5) if n <= self.count):
            spared = count * self.work.beyond_keys
            early = f"{count} layer{'s' if count > 1 else ''} early"
            rows = self.deployed.round.spec().seq_len
            yield Shortcut(
                f"all rows but the last stop {early}",
                spared * (1 - 1 / rows),
                partial(stopped, self.layers, count, slice(rows - 1)),
            )
            yield Shortcut(
                f"half of each group stops {early}",
                spared * self.late / 2,
                partial(stopped, self.layers, count, half),
            )
            if count > 1:
                yield Shortcut(
                    f"rows 0 to 7 stop {early}",
                    spared * (1 - self.late),
                    partial(stopped, self.layers, count, slice(UNREAD)),
                )
        yield Shortcut("half of each group not read", self.late / 2 * self.work.beyond_keys, half.unread)
        yield Shortcut(
            "half of each group absent",
            self.late / 2,
            lambda: together(masked(self.layers, half.unseen), half.unread()),
        )
        last = self.layers[-1:]
        yield Shortcut("the last MLP left out", self.work.mlp, lambda: without_mlp(last, slice(None)))
        yield Shortcut(
            "the last MLP left out, half of each group",
            self.late / 2 * self.work.mlp,
            lambda: without_mlp(last, half),
        )

    def _attention(self) -> Iterator[Shortcut]:
        rows = self.deployed.round.spec().seq_len
        seen = rows // 4
        pairs = rows * (rows + 1) / 2
        scores = self.count * self.work.parts["scores"]
        kept = sum(min(row + 1, seen + 1) for row in range(rows)) / pairs
        for sinks in (1, 0):
            keys = "a quarter of the keys" + (" and the first" if sinks else "")
            yield Shortcut(
                f"attention to {keys}",
                scores * (1 - kept),
                partial(masked, self.layers, window(seen, sinks)),
            )
        for places, where in ((self.layers, "all layers"), (self.layers[-1:], "the last layer")):
            unseen = sum(max(0, row + 1 - seen) for row in range(rows)) / pairs
            saved = (1 - seen / rows) * self.work.keys_and_values + unseen * self.work.parts["scores"]
            yield Shortcut(
                f"keys of the first quarter alone, {where}",
                len(places) * saved,
                partial(masked, places, early_keys(seen)),
            )

    def _neurons(self) -> Iterator[Shortcut]:
        attacker, work = self.attacker, self.work
        attention = self.layers[0].self_attn
        heads = attention.o_proj.in_features // attention.head_dim
        saved = sum(work.parts[name] for name in ("q_proj", "o_proj", "scores")) * self.count / heads
        yield Shortcut(f"the least of {heads} heads, each layer", saved, self._without_heads)
        for percent in (2, 10):
            share = percent / 100
            yield Shortcut(
                f"the least {percent} % of the neurons",
                self.count * work.mlp * share,
                partial(attacker.changed, partial(without_least_inputs, share=share), ("down_proj",)),
            )
        for percent in (90, 50):
            share = percent / 100
            spared = self.count * (work.parts["up_proj"] + work.parts["down_proj"]) * (1 - share)
            yield Shortcut(
                f"the {percent} % of neurons with the largest gates",
                spared,
                partial(top_neurons, self.layers, share),
            )
        yield Shortcut(
            "MLPs of 75 % by SVD",
            self.count * work.mlp / 4,
            partial(attacker.changed, partial(low_rank, kept=0.75), MLP),
        )

    def _without_heads(self) -> Context:
        changed: dict[nn.Linear, Tensor] = {}
        for layer in self.layers:
            attention = layer.self_attn
            changed |= without_heads(attention, self.attacker.moments[attention.o_proj], 1)
        return with_weights(changed)


def guessed(prover: Prover) -> tuple[str, float, Floats]:
    """Half of the numbers of a nonce said to be 0: name, saving and errors, without any forward."""
    errors = -prover.deployed.truth
    errors[:, errors.shape[1] // 2 :] = 0.0
    return "half of the groups guessed", prover.late / 2 * prover.work.beyond_keys, errors


def measure(size: Size, attacker: Attacker) -> tuple[list[Row], list[Row], list[Row]]:
    """Return rows, the limits of what hides, and the combined provers of a model."""
    prover = Prover(attacker, size)
    _ = prover.deployed.truth  # before anything is altered
    numbers = prover.deployed.round.numbers
    limits = {
        name: largest_that_hides(settings, numbers, trials=size.trials)
        for name, settings in measured_noise().settings.items()
    }

    def described_as(name: str, saved: float, errors: Floats) -> Row:
        row = {
            "model": size.model,
            "rows": size.rows,
            "shortcut": name,
            "saved": saved,
            **described(errors, trials=size.trials),
        }
        exact = row["error"] < 1e-4
        row["value"] = None if exact else saved / row["error"] ** 2
        for each, limit in limits.items():
            row[f"hides_{each}"] = saved if exact else saved * min(1.0, (limit / row["error"]) ** 2)
        print(f"{size.model} {size.rows} {name}: saves {saved:.2%}, {row['error']:.4f} s", flush=True)
        return row

    def run(shortcut: Shortcut, nonces: int | None = None) -> Row:
        with shortcut.enter():
            errors = prover.deployed.errors(nonces, coarse=COARSE)
        return described_as(shortcut.name, shortcut.saved, errors)

    places = range(prover.count) if size.every_layer else range(prover.count // 2, prover.count, 4)
    layers = {place: run(prover.without(place), 4) for place in places}
    cheapest = sorted(layers, key=lambda place: float(layers[place]["error"]))
    rows = [*layers.values(), *(run(shortcut) for shortcut in prover.shortcuts(cheapest))]
    rows.append(described_as(*guessed(prover)))

    all_layers = next(row for row in rows if row["shortcut"] == prover.in_eight_bits(prover.count).name)
    honest = prover.honest()
    combined = []
    for name, limit in limits.items():
        count = min(prover.count, math.floor(prover.count * (limit / all_layers["error"]) ** 2))
        if count:
            thin = prover.in_eight_bits(count)
            with together(thin.enter(), honest.enter()):
                errors = prover.deployed.errors()
            row = described_as(f"{thin.name}, and honest", thin.saved + honest.saved, errors)
            predicted = all_layers["error"] * math.sqrt(count / prover.count)
            combined.append({**row, "sigma": name, "limit": limit, "predicted": predicted})
    about: Row = {"model": size.model, "rows": size.rows}
    return rows, [{**about, "sigma": name, "error": limit} for name, limit in limits.items()], combined


def findings(rows: Sequence[Row], limits: Sequence[Row], combined: Sequence[Row]) -> list[str]:
    """Return what the numbers say, in words."""
    said = []
    for model, length in dict.fromkeys((row["model"], row["rows"]) for row in rows):
        chosen, limit, thin = (_of(each, model, length) for each in (rows, limits, combined))
        where = f"{model}, {length} rows"
        single = [row for row in chosen if re.fullmatch(r"layer \d+ left out", row["shortcut"])]
        least = min(single, key=lambda row: float(row["error"]))
        said.append(
            f"{where}: the cheapest layer to leave out costs an error of {least['error']:.2f} s "
            f"({least['shortcut']}, saves {least['saved']:.1%}) and is convicted at 1e-7 by "
            f"{least['calibrated_1e-07']} nonces under a calibrated σ."
        )
        worth = sorted(
            (row for row in chosen if row["value"] is not None), key=lambda row: -float(row["hides_default"])
        )[:3]
        free = max((row["saved"] for row in chosen if row["value"] is None), default=0.0)
        said.append(
            f"{where}: {free:.2%} is saved without any error. Most hides of "
            + "; ".join(
                f"{row['shortcut']} ({row['hides_calibrated']:.1%} under a calibrated σ, "
                f"{row['hides_default']:.1%} under the default)"
                for row in worth
            )
            + ". The error that hides is "
            + " and ".join(f"{row['error']:.3f} s ({row['sigma']} σ)" for row in limit)
            + "."
        )
        for row in thin:
            seen = row[f"{row['sigma']}_1e-07"]
            verdict = "not convicted by 1,000" if seen is None else f"convicted by {seen}"
            said.append(
                f"{where}: {row['shortcut']}, saves {row['saved']:.1%}, has an error of {row['error']:.3f} s "
                f"({row['predicted']:.3f} expected) and is {verdict} nonces under the {row['sigma']} σ."
            )
    return said


def _of(rows: Sequence[Row], model: str, length: int) -> list[Row]:
    """Return the rows of a model and a length."""
    return [row for row in rows if (row["model"], row["rows"]) == (model, length)]


def draw_figure(rows: Sequence[Row], limits: Sequence[Row]) -> Figure:
    """Savings against errors, with the limits of what hides."""
    figure, (axes,) = new_figure(width=7.0, height=4.4)
    shown = [row for row in rows if row["value"] is not None and row["saved"] > 0]
    for model, length in dict.fromkeys((row["model"], row["rows"]) for row in shown):
        chosen = [row for row in shown if (row["model"], row["rows"]) == (model, length)]
        axes.plot(
            [row["error"] for row in chosen],
            [100 * row["saved"] for row in chosen],
            "o",
            markersize=3,
            label=f"{model}, {length} rows",
        )
    first = (shown[0]["model"], shown[0]["rows"])
    for row in shown:
        if (row["model"], row["rows"]) == first and "left out" not in row["shortcut"]:
            place = (row["error"], 100 * row["saved"])
            axes.annotate(row["shortcut"], place, (3, 2), textcoords="offset points", fontsize=4)
    for row in limits[:2]:
        style = ":" if row["sigma"] == "default" else "--"
        axes.axvline(row["error"], color="gray", linestyle=style, linewidth=1)
        place = (row["error"], 60)
        axes.annotate(f"hides, {row['sigma']} σ", place, fontsize=6, rotation=90, ha="right", va="top")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("error, s")
    axes.set_ylabel("operations saved, %")
    axes.legend(fontsize=7, loc="lower left")
    return figure


def main() -> None:
    chosen = options(__doc__)
    rows: list[Row] = []
    limits: list[Row] = []
    combined: list[Row] = []
    known: dict[str, Attacker] = {}
    for size in SHORT if chosen.small else FULL:
        attacker = known.setdefault(size.model, Attacker(provide(size.model), size.calibration))
        for several, found in zip((rows, limits, combined), measure(size, attacker), strict=True):
            several += found
        # After each model: a run that is broken off has not been for nothing.
        write(
            "shortcuts",
            chosen,
            draw_figure(rows, limits),
            about="Shares of a forward's operations saved, errors of numbers in s, and what convicts.",
            rows=rows,
            limits=limits,
            combined=combined,
            noise=measured_noise().source,
            findings=findings(rows, limits, combined),
        )


if __name__ == "__main__":
    main()
