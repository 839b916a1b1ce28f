"""What a prover saves at valid rate 1 by running something cheaper for every nonce, and when it is caught.

At rate 1 every nonce is reported, so a prover gains by spending less on each: fewer rows of the input, fewer
layers, an early exit, no attention, fewer experts, a linear map, a distilled net. Each substitute is run in
its best version (`_substitutes.py`, `_distill.py`), and its distances are held against the true ones. `error`
is the RMS of received − computed in units of s; `nonces_0.01` and `nonces_1e-7` are the nonces with which the
combined verdict (binomial, RMS and signed-mean test) convicts with 99 % power at those thresholds, with
honest noise of 0.10 s on top of the error; empty: not within 10,000. `share` is the substitute's part of the
whole model's multiply-adds: weights times rows, and attention. One thing is varied at a time around a trained
Qwen3 of width 256 and depth 4 with 64 rows at its default input scale, and the input scale for all weights.

`cells` has a row for each setting: the least work with which the error stays within the honest noise
(`share_hidden`), or within 1.5 times it (`share_close`), and the least error for half and for an eighth of
the work.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

import torch
from _architectures import DEPTHS, LLAMA, MOE, QWEN3, TINY, WIDTHS, Architecture, Weights, load
from _decoder import Decoder
from _distill import distilled, students
from _experiment import new_figure, options, write
from _forward import round_of
from _row_cache import cached_rows
from _substitutes import HONEST_SIGMA, Bench, Counts, Nonces, outputs
from matplotlib.figure import Figure

from hallmark.poc.offline.model import last_hidden

Row = dict[str, Any]
CLOSE = 1.5 * HONEST_SIGMA
"""Up to this error a conviction hangs on how tight the calibrated noise is."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A setting.

    Attributes:
        varied: What is varied in it.
        architecture: The model's shape.
        weights: The state of its weights.
        seq_len: Rows of an input.
        scale: What the input scale is: `1`, `between`, `embedding` or `below`.
        input_scale: The power of two.
    """

    varied: str
    architecture: Architecture
    weights: Weights
    seq_len: int
    scale: str
    input_scale: float

    def fields(self) -> Row:
        """Its columns."""
        return {
            "varied": self.varied,
            "model": self.architecture.name,
            "weights": self.weights,
            "seq_len": self.seq_len,
            "scale": self.scale,
            "input_scale": self.input_scale,
        }


def scales(default: float) -> dict[float, str]:
    """The input scales to try, powers of two: an eighth of the default, the default, one between, and 1."""
    between = 2.0 ** round(math.log2(default) / 2)
    return {default / 8: "below", default: "embedding", between: "between", 1.0: "1"}


def cells(small: bool) -> Iterator[Cell]:
    """Every setting; those that share inputs one after the other."""
    base, length = (TINY, 16) if small else (QWEN3, 64)
    states: tuple[Weights, ...] = ("trained",) if small else ("fresh", "strong", "trained")
    for weights in states:
        default = round_of(load(base, weights)).input_scale
        for scale, name in scales(default).items():
            if not small or name in ("1", "embedding"):
                yield Cell("input scale", base, weights, length, name, scale)
    others = [("model", LLAMA, 64), ("model", MOE, 64), ("length", QWEN3, 16), ("length", QWEN3, 256)]
    others += [("depth", architecture, 64) for architecture in DEPTHS if architecture != QWEN3]
    others += [("width", architecture, 64) for architecture in WIDTHS if architecture != QWEN3]
    if small:
        others = [("model", replace(MOE, hidden_size=64, layers=2, steps=TINY.steps), 16)]
    for varied, architecture, seq_len in others:
        weights = "fresh" if small else "trained"
        default = round_of(load(architecture, weights)).input_scale
        yield Cell(varied, architecture, weights, seq_len, "embedding", default)


def measure(small: bool) -> list[Row]:
    """Run all substitutes in all settings."""
    drawn = Drawn(small)
    rows: list[Row] = []
    for cell in cells(small):
        run = partial(measure_cell, cell, drawn)
        rows += run() if small else cached_rows([asdict(cell), small], run)
        print(
            f"{cell.varied}: {cell.architecture.name}, {cell.weights}, scale {cell.input_scale}", flush=True
        )
    return rows


class Drawn:
    """The nonces of the width and the length that were wanted last.

    Args:
        small: Whether there are few.
    """

    def __init__(self, small: bool) -> None:
        self._small = small
        self._last: tuple[tuple[int, int], Nonces] | None = None

    def nonces(self, model: Any, seq_len: int) -> Nonces:
        """Nonces for a model, drawn unless the last ones fit."""
        width = int(model.config.hidden_size)
        if self._last is None or self._last[0] != (width, seq_len):
            # As many for the fit as the linear maps have use for.
            counts = Counts(2 * width, 32 if self._small else 64, 32 if self._small else 128)
            self._last = (width, seq_len), Nonces(model, seq_len, counts)
        return self._last[1]


def measure_cell(cell: Cell, drawn: Drawn) -> list[Row]:
    """Run all substitutes in one setting."""
    model = load(cell.architecture, cell.weights)
    bench = Bench(model, drawn.nonces(model, cell.seq_len), cell.input_scale)
    check_decoder(model, bench)
    found = list(outputs(bench))
    if cell.varied == "input scale" and cell.weights == "trained" and cell.scale in ("1", "embedding"):
        samples = bench.nonces.counts.fit
        for student in students(bench):
            found += [distilled(model, bench, student, some) for some in (samples // 4, samples)]
    return [{**cell.fields(), **bench.row(output)} for output in found]


def check_decoder(model: Any, bench: Bench) -> None:
    """Assert that what the substitutes are made of, left whole, is the model."""
    some = bench.inputs[:8]
    truth = last_hidden(model, some)
    decoder = Decoder(model)
    with torch.no_grad():
        whole = decoder.norm(decoder.run(some, bench.whole)[:, -1])
    for states in (whole, bench.truth[:8]):
        torch.testing.assert_close(states, truth, rtol=1e-3, atol=1e-3 * float(truth.std()))


def summary(rows: Sequence[Row]) -> list[Row]:
    """For each setting what its best substitutes do."""
    names = ("varied", "model", "weights", "seq_len", "scale", "input_scale")
    settings = list(dict.fromkeys(tuple(row[name] for name in names) for row in rows))
    return [
        dict(zip(names, setting, strict=True))
        | best_of([row for row in rows if tuple(row[name] for name in names) == setting])
        for setting in settings
    ]


def best_of(rows: Sequence[Row]) -> Row:
    """Of one setting's substitutes, what the best of them do."""
    approximate = [row for row in rows if row["kind"] != "nothing"]
    found: Row = {"share_free": next(row["share"] for row in rows if row["kind"] == "nothing")}
    for name, most in (("hidden", HONEST_SIGMA), ("close", CLOSE)):
        least = min((row for row in rows if row["error"] <= most), key=lambda row: row["share"])
        found |= {f"share_{name}": least["share"], f"by_{name}": least["substitute"]}
    for name, share in (("half", 0.5), ("eighth", 0.125)):
        best = min((row for row in approximate if row["share"] <= share), key=lambda row: row["error"])
        found |= {
            f"error_{name}": best["error"],
            f"by_{name}": best["substitute"],
            f"nonces_{name}": best["nonces_1e-7"],
        }
    return found


def pick(rows: Sequence[Row], **wanted: object) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def findings(rows: Sequence[Row], settings: Sequence[Row]) -> list[str]:
    """What the numbers say."""
    by_scale = pick(settings, varied="input scale")
    at_one, at_default = pick(by_scale, scale="1"), pick(by_scale, scale="embedding")
    free = pick(rows, kind="nothing")
    saved = sorted(row["share"] for row in free)
    found = [
        "Leaving out what the last row does not need (queries, attention and feed-forward part of the last "
        "layer for all other rows) changes distances by an RMS of at most "
        f"{max(row['error'] for row in free):.2g} s and leaves "
        f"{saved[0]:.0%} to {saved[-1]:.0%} of the multiply-adds in the settings tried: reading the last "
        "row does not prove that work.",
        _hiding_sentence(settings),
        _scale_sentence(at_one, at_default),
        _frozen_sentence(rows),
    ]
    below = pick(by_scale, scale="below")
    if below:
        found.append(_below_sentence(at_default, below))
    trends = [name for name in ("model", "depth", "width", "length") if pick(settings, varied=name)]
    return [*found, *(_trend_sentence(settings, name) for name in trends), _maps_sentence(rows)]


def _hiding_sentence(settings: Sequence[Row]) -> str:
    parts = []
    for scale, words in (("embedding", "the embedding's scale"), ("1", "scale 1")):
        tried = pick(settings, scale=scale)
        hidden = [row for row in tried if row["share_hidden"] < row["share_free"]]
        part = (
            f"at {words} an approximation stays within {HONEST_SIGMA:.2f} s in {len(hidden)} of {len(tried)} "
            "settings"
        )
        if hidden:
            least = min(hidden, key=lambda row: row["share_hidden"])
            part += (
                f", for as little as {least['share_hidden']:.1%} of the work ({least['by_hidden']}; "
                f"{least['model']}, {least['weights']} weights, {least['seq_len']} rows)"
            )
        parts.append(part)
    return (
        "A prover whose own noise is small hides an error up to the honest noise that the tests allow: "
        f"{'; '.join(parts)}."
    )


def _scale_sentence(at_one: Sequence[Row], at_default: Sequence[Row]) -> str:
    parts = [
        f"{one['weights']} weights {one['error_half']:.3f} s at scale 1 ({one['by_half']}) and "
        f"{default['error_half']:.3f} s at {default['input_scale']:g} ({default['by_half']})"
        for one, default in zip(at_one, at_default, strict=True)
    ]
    harder = [
        default["weights"]
        for one, default in zip(at_one, at_default, strict=True)
        if default["error_half"] > one["error_half"]
    ]
    easier = [row["weights"] for row in at_default if row["weights"] not in harder]
    verdict = " ".join(
        f"The embedding's scale makes the best such cheat {word} with {' and '.join(states)} weights."
        for word, states in (("worse", harder), ("better", easier))
        if states
    )
    return f"The least error for at most half of the model's work: {'; '.join(parts)}. {verdict}"


def _frozen_sentence(rows: Sequence[Row]) -> str:
    frozen = [row for row in pick(rows, kind="rows frozen") if row["scale"] in ("1", "embedding")]
    chosen = [row for row in frozen if row["varied"] == "input scale" and row["share"] < 0.2]
    parts = []
    for weights, scale in dict.fromkeys((row["weights"], row["scale"]) for row in chosen):
        best = min(pick(chosen, weights=weights, scale=scale), key=lambda row: row["error"])
        nonces = f"{best['nonces_1e-7']:,}" if best["nonces_1e-7"] else "more than 10,000"
        parts.append(
            f"{weights} weights at {best['input_scale']:g} {best['error']:.3f} s for {best['share']:.0%} of "
            f"the work, convicted at 1e-7 by {nonces} nonces"
        )
    if not parts:
        return (
            "No setting had rows enough to leave most of them unfinished for less than a fifth of the work."
        )
    return (
        "Carrying only the last rows through the layers, while the others give keys and values made of the "
        f"input as it entered, and correcting by a linear map where that helps, leaves: {'; '.join(parts)} "
        f"(noise of {HONEST_SIGMA:.2f} s on top)."
    )


def _below_sentence(at_default: Sequence[Row], below: Sequence[Row]) -> str:
    harder = sum(
        low["error_half"] > default["error_half"] for default, low in zip(at_default, below, strict=True)
    )
    parts = ", ".join(
        f"{low['error_half']:.2f} s against {default['error_half']:.2f} s ({low['weights']})"
        for default, low in zip(at_default, below, strict=True)
    )
    return (
        "An eighth of the embedding's scale makes the best shortcut for half of the work worse in "
        f"{harder} of {len(below)} states of the weights: {parts}."
    )


def _trend_sentence(settings: Sequence[Row], varied: str) -> str:
    base = pick(settings, varied="input scale", weights="trained", scale="embedding")
    found = sorted([*base, *pick(settings, varied=varied)], key=lambda row: (row["seq_len"], _size(row)))
    parts = ", ".join(
        f"{row['model']} with {row['seq_len']} rows {row['error_half']:.3f} and {row['error_eighth']:.3f} s, "
        f"within {HONEST_SIGMA:.2f} s for {row['share_hidden']:.0%} of the work"
        for row in found
    )
    return f"By {varied}, the least errors for half and for an eighth of the work: {parts}."


def _maps_sentence(rows: Sequence[Row]) -> str:
    base = pick(rows, varied="input scale", weights="trained")
    linear = {
        scale: min(row["error"] for row in pick(base, scale=scale, kind="map"))
        for scale in ("1", "embedding")
    }
    parts = []
    for scale in ("1", "embedding"):
        nets = pick(base, scale=scale, kind="distilled")
        best = min(nets, key=lambda row: row["error"])
        parts.append(
            f"at {best['input_scale']:g} {best['error']:.2f} s for {best['share']:.1%} of the work "
            f"({best['substitute']}, from {best['detail']})"
        )
    return (
        f"On the trained base model the best linear map leaves {linear['1']:.2f} s at scale 1 and "
        f"{linear['embedding']:.2f} s at the embedding's; the best distilled net leaves {'; '.join(parts)}."
    )


def _range(values: Sequence[float], *, percent: bool = False) -> str:
    form = "{:.0%}" if percent else "{:.2f}"
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def _size(row: Row) -> tuple[int, ...]:
    return tuple(int(part) for part in row["model"].split()[-1].split("x"))


def figure_of(rows: Sequence[Row], settings: Sequence[Row]) -> Figure:
    """The best shortcuts against the input scale, and all of them against their work."""
    figure, (left, right) = new_figure(2)
    colours = {"fresh": "C0", "strong": "C1", "trained": "C2"}
    for weights in dict.fromkeys(row["weights"] for row in pick(settings, varied="input scale")):
        line = sorted(
            pick(settings, varied="input scale", weights=weights), key=lambda row: float(row["input_scale"])
        )
        x = [row["input_scale"] for row in line]
        colour = colours[weights]
        left.plot(
            x, [row["error_half"] for row in line], "o-", color=colour, label=f"{weights}, half the work"
        )
        left.plot(
            x, [row["error_eighth"] for row in line], "o:", color=colour, label=f"{weights}, an eighth of it"
        )
    for row in pick(settings, varied="input scale", scale="embedding"):
        left.plot(row["input_scale"], row["error_half"], "D", color=colours[row["weights"]], markersize=9)
    left.set(xscale="log", xlabel="input scale (◆ the embedding's)", ylabel="least RMS error, s")
    left.set_xscale("log", base=2)
    for scale, marker in (("1", "x"), ("embedding", "o")):
        shown = pick(rows, varied="input scale", weights="trained", scale=scale)
        right.plot(
            [row["share"] for row in shown],
            [row["error"] for row in shown],
            marker,
            label="input scale 1" if scale == "1" else "the embedding's scale",
        )
    right.set(xlabel="share of the model's multiply-adds", ylabel="RMS error, s")
    for axes in (left, right):
        axes.axhline(HONEST_SIGMA, color="grey", linestyle="--", linewidth=1, label="honest noise")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)
    return figure


def main() -> None:
    chosen = options(__doc__)
    torch.manual_seed(0)
    rows = measure(chosen.small)
    for row in pick(rows, kind="nothing"):
        assert row["error"] < 0.01, f"an exact saving is off by {row['error']} s: {row}"
    settings = summary(rows)
    sentences = findings(rows, settings)
    print("\n".join(sentences))
    write(
        "shortcuts",
        chosen,
        figure_of(rows, settings),
        about="Errors of cheaper substitutes at valid rate 1, RMS in units of s, and nonces to convict them.",
        rows=rows,
        cells=settings,
        findings=sentences,
    )


if __name__ == "__main__":
    main()
