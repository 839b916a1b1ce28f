"""Which readout of a forward proves more of it: the last row alone, or something made of all rows or layers?

The protocol reads the last row of the final hidden states. A prover then need not finish the other rows, and
what the last row sees of them may be computed carelessly. Other readouts are formed from the same forward,
and the same substitutes are run against each, in their best version for that readout: corrected by a linear
map that also knows the same readout of the inputs, and reporting the best guess (`_substitutes.py`).

- last row: the protocol's;
- mean: of all rows of the final hidden states;
- signed sum: of all rows, with signs that the block seeds;
- balanced sum: the same with as many minus as plus signs, so that what all rows have in common cancels;
- layers: the signed sum of the last row after each layer, each with the final norm applied.

Each vector is projected, normalised and held against the target as the protocol does with the last row.
`error` is the RMS of received − computed in s, `share` the substitute's part of the whole model's
multiply-adds (dead rows left out where the readout allows it), `nonces_1e-7` the nonces that convict with
99 % power at 1e-7, with honest noise of 0.10 s on top. `readouts` sums up: `share_free`, the least work that
is exact; `error_half` and `error_quarter`, the least error for at most 55 % and 28 % of the work;
`share_hidden` and `share_close`, the least work with an error within 0.10 s and 0.15 s; `extra`, what the
readout itself costs, as a share of the model's multiply-adds.
"""

import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

import torch
from _architectures import QWEN3, TINY, Architecture, Weights, load
from _decoder import Decoder, Plan
from _experiment import new_figure, options, write
from _forward import round_of
from _row_cache import cached_rows
from _substitutes import HONEST_SIGMA, Comparison, Counts, Nonces, Output
from matplotlib.figure import Figure
from torch import Tensor

Row = dict[str, Any]
CLOSE = 1.5 * HONEST_SIGMA
LAST, SUM, BALANCED, LAYERS = "last row", "signed sum", "balanced sum", "layers"
HALF, QUARTER = 0.55, 0.28
"""A half and a quarter of the work, with room for the keys of the rows that are not updated."""


@dataclass(frozen=True, slots=True)
class Readout:
    """A vector made of a forward.

    Attributes:
        name: What it is called.
        weights: [seq_len], of the rows of the final hidden states; None: it reads the layers.
        signs: [layers + 1], of the last row in front of the first layer (0) and after each one.
    """

    name: str
    weights: Tensor | None
    signs: Tensor | None = None

    @property
    def last_row_only(self) -> bool:
        """Whether no other row is read, so that the last layer need not update any other."""
        return self.name in (LAST, LAYERS)


def readouts(seq_len: int, layers: int, block: int = 0) -> list[Readout]:
    """The readouts of a block."""
    draw = torch.Generator().manual_seed(block)
    last = torch.zeros(seq_len)
    last[-1] = 1
    signs = torch.randint(2, (seq_len,), generator=draw) * 2.0 - 1
    balanced = (torch.arange(seq_len) % 2 * 2.0 - 1)[torch.randperm(seq_len, generator=draw)]
    of_layers = torch.randint(2, (layers + 1,), generator=draw) * 2.0 - 1
    of_layers[0] = 0
    return [
        Readout(LAST, last),
        Readout("mean", torch.ones(seq_len) / seq_len),
        Readout(SUM, signs),
        Readout(BALANCED, balanced),
        Readout(LAYERS, None, of_layers),
    ]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is run in the model's place.

    Attributes:
        name: What it is.
        plan: What of the decoder it runs.
        first: Whether its rows are the input's first ones instead of its last ones.
    """

    name: str
    plan: Plan
    first: bool = False


def candidates(layers: int, seq_len: int) -> Iterator[Candidate]:
    """The whole model first, then what is run in its place."""
    every = tuple(range(layers))
    yield Candidate("all", Plan(every, seq_len))
    for rows, name in ((seq_len * 3 // 4, "three quarters"), (seq_len // 2, "half")):
        yield Candidate(f"last {name} of the rows", Plan(every, rows))
        yield Candidate(f"first {name} of the rows", Plan(every, rows), first=True)
    for rows in (16, 4, 1):
        if rows < seq_len // 2:
            yield Candidate(f"last {rows} of the rows", Plan(every, rows))
    for rows in sorted({seq_len // 2, 16, 8, 1}, reverse=True):
        if rows <= seq_len // 2:
            frozen = Plan(every, seq_len, (rows,) * layers)
            yield Candidate(f"last {rows} of the rows, keys of all from the input", frozen)
    for left_out in every:
        yield Candidate(f"without layer {left_out}", Plan(every[:left_out] + every[left_out + 1 :], seq_len))
    for depth in sorted({1, layers // 2, layers - 1}):
        yield Candidate(f"exit after {depth} of {layers} layers", Plan(every[:depth], seq_len))
    yield Candidate("no attention", Plan(every, seq_len, attention=False))


@dataclass(frozen=True, slots=True)
class Setting:
    """A model whose readouts are compared.

    Attributes:
        architecture: Its shape.
        weights: The state of its weights.
        seq_len: Rows of an input.
    """

    architecture: Architecture
    weights: Weights
    seq_len: int


def read(decoder: Decoder, candidate: Candidate, inputs: Tensor, wanted: Sequence[Readout]) -> list[Tensor]:
    """Run a candidate and read it out: [n, D] for each readout.

    A row or a layer that it does not run adds nothing to a sum of rows; what it leaves standing of a layer is
    the state in front of it.
    """
    found: list[list[Tensor]] = [[] for _ in wanted]
    plan = candidate.plan
    with torch.no_grad():
        for batch in inputs.split(32):
            entering = batch[:, : plan.rows] if candidate.first else batch
            trace = list(decoder.trace(entering, plan))
            final = decoder.norm(trace[-1])
            for readout, vectors in zip(wanted, found, strict=True):
                if readout.weights is not None:
                    weights = (
                        readout.weights[: plan.rows] if candidate.first else readout.weights[-plan.rows :]
                    )
                    vectors.append(torch.einsum("r,brd->bd", weights, final))
                else:
                    assert readout.signs is not None
                    after = [
                        sum(layer < index for layer in plan.layers) for index in range(len(readout.signs))
                    ]
                    states = torch.stack([decoder.norm(trace[ran][:, -1]) for ran in after])
                    vectors.append(torch.einsum("l,lbd->bd", readout.signs, states))
    return [torch.cat(vectors) for vectors in found]


def known_to_all(readout: Readout, inputs: Tensor) -> tuple[Tensor, ...]:
    """What a prover knows of nonces without the model: their last row, and the readout of the inputs."""
    if readout.last_row_only or readout.weights is None:
        return (inputs[:, -1],)
    return inputs[:, -1], torch.einsum("r,brd->bd", readout.weights, inputs)


def missing_rows(readout: Readout, candidate: Candidate, inputs: Tensor) -> tuple[Tensor, ...]:
    """The readout of those rows of the inputs that a candidate leaves out or does not update."""
    if readout.weights is None:
        return ()
    rows = min(candidate.plan.updated or (candidate.plan.rows,))
    missing = readout.weights.clone()
    missing[: rows if candidate.first else None][-rows:] = 0
    return () if not missing.any() else (torch.einsum("r,brd->bd", missing, inputs),)


def measure(setting: Setting, *, small: bool) -> list[Row]:
    """Run all candidates against all readouts of one model."""
    model = load(setting.architecture, setting.weights)
    width, seq_len = setting.architecture.hidden_size, setting.seq_len
    counts = Counts(2 * width, 32, 32) if small else Counts(2 * width, 64, 128)
    nonces = Nonces(model, seq_len, counts)
    input_scale = round_of(model).input_scale
    inputs = nonces.unit * input_scale
    decoder = Decoder(model)
    wanted = readouts(seq_len, setting.architecture.layers)
    whole = decoder.multiply_adds(decoder.whole(seq_len))
    comparisons: list[Comparison] = []
    rows: list[Row] = []
    for candidate in candidates(setting.architecture.layers, seq_len):
        vectors = read(decoder, candidate, inputs, wanted)
        if not comparisons:
            comparisons = [
                Comparison(nonces, truth, known_to_all(readout, inputs))
                for readout, truth in zip(wanted, vectors, strict=True)
            ]
        for readout, states, comparison in zip(wanted, vectors, comparisons, strict=True):
            if candidate.first and readout.last_row_only:
                continue
            plan = candidate.plan.for_last_row() if readout.last_row_only else candidate.plan
            output = Output(
                candidate.name,
                "exact" if candidate.name == "all" else "approximate",
                decoder.multiply_adds(plan) / whole,
                states[counts.fit :],
                states[: counts.fit],
                known=missing_rows(readout, candidate, inputs),
            )
            rows.append(_row(setting, input_scale, readout, comparison.row(output)))
    for readout, comparison in zip(wanted, comparisons, strict=True):
        output = Output(
            "linear map of the inputs",
            "approximate",
            2 * width**2 / whole,
            comparison.fitted(comparison.known),
        )
        rows.append(_row(setting, input_scale, readout, comparison.row(output)))
    return rows


def _row(setting: Setting, input_scale: float, readout: Readout, found: Row) -> Row:
    del found["detail"]
    return {
        "model": setting.architecture.name,
        "weights": setting.weights,
        "seq_len": setting.seq_len,
        "input_scale": input_scale,
        "readout": readout.name,
        **found,
    }


def extra_share(architecture: Architecture, seq_len: int, readout: Readout) -> float:
    """The multiply-adds of a readout beyond the last row's, as a share of the model's.

    Two for each element that the final norm takes beyond one row, and one for the sum.
    """
    if readout.name == LAST:
        return 0.0
    more = architecture.layers if readout.weights is None else seq_len
    width = architecture.hidden_size
    # Nine squares of the feed-forward part, three of attention with half as many keys as queries.
    return 3 * more * width / (12 * width**2 * architecture.layers * seq_len)


def summary(rows: Sequence[Row], extra: dict[tuple[str, str], float]) -> list[Row]:
    """For each model and readout, what the best substitutes do."""
    found = []
    for model, weights, readout in dict.fromkeys((r["model"], r["weights"], r["readout"]) for r in rows):
        own = [
            row for row in rows if (row["model"], row["weights"], row["readout"]) == (model, weights, readout)
        ]
        line: Row = {
            "model": model,
            "weights": weights,
            "readout": readout,
            "share_free": next(row["share"] for row in own if row["kind"] == "exact"),
            "extra": extra[model, readout],
        }
        for name, most in (("share_hidden", HONEST_SIGMA), ("share_close", CLOSE)):
            line[name] = min(row["share"] for row in own if row["error"] <= most)
        for name, share in (("half", HALF), ("quarter", QUARTER)):
            cheap = [row for row in own if row["kind"] == "approximate" and row["share"] <= share]
            best = min(cheap, key=lambda row: row["error"])
            line |= {
                f"error_{name}": best["error"],
                f"by_{name}": best["substitute"],
                f"nonces_{name}": best["nonces_1e-7"],
            }
        found.append(line)
    return found


def findings(summed: Sequence[Row]) -> list[str]:
    """What the numbers say."""
    names = list(dict.fromkeys(line["readout"] for line in summed))
    of = {name: [line for line in summed if line["readout"] == name] for name in names}
    worst = {name: min(line["error_half"] for line in of[name]) for name in names}
    free = "; ".join(f"{name} {_percent([line['share_free'] for line in of[name]])}" for name in names)
    half = "; ".join(
        f"{name} " + ", ".join(f"{line['error_half']:.2f} s ({line['weights']})" for line in of[name])
        for name in names
    )
    last = min(of[LAST], key=lambda line: line["error_half"])
    within = "within" if last["error_half"] <= HONEST_SIGMA else "beyond"
    convicted = f"{last['nonces_half']:,}" if last["nonces_half"] else "more than 10,000"
    return [
        f"The least work that gives a readout exactly, as a share of the model's: {free}.",
        f"The least error for at most {HALF:.0%} of the model's work: {half}.",
        f"Against the last row the best of these, '{last['by_half']}' ({last['weights']} weights), is "
        f"{last['error_half']:.3f} s off, {within} the largest honest noise of {HONEST_SIGMA:.2f} s; "
        f"it takes {convicted} nonces to convict it at 1e-7, if its noise is as large as allowed.",
        *(_hidden_sentence(name, of[name]) for name in (LAST, SUM)),
        f"The signed sum costs an honest prover {max(line['extra'] for line in of[SUM]):.2%} of the model's "
        f"multiply-adds for norm and sum, and takes away the {1 - of[LAST][0]['share_free']:.0%} that "
        "the last row lets anyone save exactly on a model of this depth.",
        _recommendation(of, worst),
    ]


def _hidden_sentence(name: str, lines: Sequence[Row]) -> str:
    hidden = ", ".join(f"{line['share_hidden']:.0%} ({line['weights']})" for line in lines)
    close = ", ".join(f"{line['share_close']:.0%}" for line in lines)
    return (
        f"With the {name}, a substitute stays within {HONEST_SIGMA:.2f} s for {hidden} of the model's work "
        f"at the least, and within {CLOSE:.2f} s for {close}; 100% is the whole model."
    )


def _recommendation(of: dict[str, list[Row]], worst: dict[str, float]) -> str:
    """Whether all rows should be read: if the sum is clearly better where the last row is at its weakest."""
    best = max((SUM, BALANCED), key=lambda name: worst[name])
    harder = [new["error_half"] > old["error_half"] for new, old in zip(of[best], of[LAST], strict=True)]
    sentence = (
        f"The {best} is harder to cheat for half of the work than the last row in {sum(harder)} of "
        f"{len(harder)} states of the weights, and at each one's weakest leaves {worst[best]:.2f} s against "
        f"{worst[LAST]:.2f} s: "
    )
    if worst[best] > 1.5 * worst[LAST]:
        return sentence + "a next version of the protocol should read all rows."
    return sentence + "not enough of a difference to change the protocol for."


def _percent(shares: Sequence[float]) -> str:
    low, high = f"{min(shares):.0%}", f"{max(shares):.0%}"
    return low if low == high else f"{low} to {high}"


def figure_of(rows: Sequence[Row]) -> Figure:
    """Every substitute's error against its work, a panel for each state of the weights."""
    states = list(dict.fromkeys(row["weights"] for row in rows))
    figure, panels = new_figure(len(states))
    for axes, weights in zip(panels, states, strict=True):
        for number, readout in enumerate(dict.fromkeys(row["readout"] for row in rows)):
            shown = [row for row in rows if row["weights"] == weights and row["readout"] == readout]
            frontier = _frontier(shown)
            axes.step(*frontier, where="post", color=f"C{number}", label=readout)
            axes.plot(*frontier, "o", color=f"C{number}", markersize=3)
        axes.axhline(HONEST_SIGMA, color="grey", linestyle="--", linewidth=1, label="honest noise")
        axes.set(title=weights, xlabel="share of the model's multiply-adds", ylabel="least RMS error, s")
        axes.set_ylim(bottom=0)
    panels[0].legend(fontsize=7)
    return figure


def _frontier(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """The least error for each amount of work at which it falls."""
    shares: list[float] = []
    errors: list[float] = []
    for row in sorted(rows, key=lambda row: float(row["share"])):
        if not errors or row["error"] < errors[-1]:
            shares.append(row["share"])
            errors.append(row["error"])
    return shares, errors


def main() -> None:
    chosen = options(__doc__)
    torch.manual_seed(0)
    base, seq_len = (replace(TINY, layers=4), 16) if chosen.small else (QWEN3, 64)
    states: tuple[Weights, ...] = ("strong",) if chosen.small else ("fresh", "strong", "trained")
    rows: list[Row] = []
    for weights in states:
        setting = Setting(base, weights, seq_len)
        sources = [inspect.getsource(part) for part in (measure, read, readouts, candidates, missing_rows)]
        key = [*sources, base.name, weights, chosen.small]
        run = partial(measure, setting, small=chosen.small)
        rows += run() if chosen.small else cached_rows(key, run)
    for row in rows:
        assert row["kind"] != "exact" or row["error"] < 0.01, f"the whole model is off: {row}"
    extra = {
        (base.name, readout.name): extra_share(base, seq_len, readout)
        for readout in readouts(seq_len, base.layers)
    }
    summed = summary(rows, extra)
    sentences = findings(summed)
    print("\n".join(sentences))
    write(
        "readouts",
        chosen,
        figure_of(rows),
        about="Errors of cheaper substitutes against other readouts of a forward, RMS in units of s.",
        rows=rows,
        readouts=summed,
        findings=sentences,
    )


if __name__ == "__main__":
    main()
