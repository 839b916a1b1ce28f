"""What a prover may run in the model's place, and the error in s that each leaves in its best version.

A substitute is a plan of the decoder (fewer rows, layers, experts), or a map fitted on other nonces. Its best
version has two refinements that cost next to nothing. A linear map, fitted on nonces that the prover ran in
full, corrects the substitute's output by what it still gets wrong. And what is reported is not the distance
of the output ŷ but, with the cosine c that such outputs have with the true ones, the best guess of the true
distance, ``sqrt(2 − 2·c·ŷ·t)``: ŷ's own distance is off by √(2(1 − c)) s, the guess by √(1 − c²) s.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _decoder import Decoder, Plan
from _forward import Distances, Prover, in_units_of_s, round_of
from _power import Sample
from scipy.special import ndtri
from torch import Tensor

from hallmark.poc.specification import RandomProjection

HONEST_SIGMA = 0.10
"""The largest honest noise that the protocol's tolerance is made for, in s; added to every error."""
THRESHOLDS = {"nonces_0.01": 0.01, "nonces_1e-7": 1e-7}
MAX_NONCES = 10_000
TARGETS = 8
"""Independent targets for each nonce: the more errors from as many forwards."""
FITTED_SHARE = 0.27
"""Substitutes up to this share of the work are corrected by a map; dearer ones take long to run."""
_RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many nonces are used, each a multiple of the batch's 32.

    Attributes:
        fit: For the linear maps.
        check: To choose between maps, and to learn a substitute's cosine; the greedy search uses them too.
        test: To measure the errors on.
    """

    fit: int
    check: int
    test: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.fit + self.check + self.test


class Nonces:
    """Projected inputs of nonces, drawn once for all models and scales of one width and length.

    They are drawn at scale 1 and multiplied by a power of two, which is exact, so that scales and weights are
    compared on the same normal numbers.

    Args:
        model: Any model of that width.
        seq_len: Rows of an input.
        counts: How many of each kind.
    """

    def __init__(self, model: Any, seq_len: int, counts: Counts) -> None:
        spec = round_of(model, seq_len=seq_len, input_scale=1.0)
        self.counts = counts
        self.width = spec.hidden_size
        self.seq_len = seq_len
        self.provers = [Prover(model, spec, f"prover {i}") for i in range(TARGETS)]
        self.unit = torch.cat([inputs for _, inputs in self.provers[0].batches(range(counts.total))])
        self.projection = RandomProjection(spec.block_hash, self.width, spec.projection_scale)

    @property
    def kept(self) -> slice:
        """The check and the test nonces, which every substitute is run on."""
        return slice(self.counts.fit, self.counts.total)

    def cosines(self, left: Tensor, right: Tensor) -> Tensor:
        """Cosines of final hidden states, both projected, row by row."""
        return torch.cosine_similarity(self.projection.post(left), self.projection.post(right), dim=1)

    def test_distances(self, hidden_states: Tensor) -> list[Distances]:
        """The distances of the test nonces, one array for each set of targets."""
        tested = range(self.counts.fit + self.counts.check, self.counts.total)
        return [prover.distances(hidden_states, tested) for prover in self.provers]


@dataclass(frozen=True, slots=True)
class Output:
    """What a substitute gave.

    Attributes:
        name: What it is, the same for every model.
        kind: What it saves on.
        share: Its multiply-adds as a share of the whole model's.
        states: What stands for the final hidden states, of the check and test nonces, [check + test, D].
        fit_states: The same of the nonces for the fit; None where it was not run on them.
        detail: What differs from model to model, e.g. which layers were left out.
        known: More that its prover knows of all nonces, [n, any width] each, to correct the output with.
    """

    name: str
    kind: str
    share: float
    states: Tensor
    fit_states: Tensor | None = None
    detail: str = ""
    known: tuple[Tensor, ...] = ()


class Comparison:
    """Substitutes' outputs against the true ones, in one setting.

    Args:
        nonces: Inputs and targets.
        truth: What the whole model gives for all nonces, [n, D].
        known: What every prover knows of all nonces without running a model, [n, any width] each.
    """

    def __init__(self, nonces: Nonces, truth: Tensor, known: tuple[Tensor, ...]) -> None:
        self.nonces = nonces
        self.truth = truth
        self.known = known
        self._true_distances = nonces.test_distances(truth[-nonces.counts.test :])

    def row(self, output: Output) -> dict[str, Any]:
        """What a substitute costs, what error it leaves, and after how many nonces it is convicted."""
        nonces = self.nonces
        check, test = nonces.counts.check, nonces.counts.test
        truth = self.truth[nonces.kept]
        best, fitted = self._corrected(output)
        plain_cosine = float(nonces.cosines(output.states[:check], truth[:check]).mean())
        best_cosine = float(nonces.cosines(best[:check], truth[:check]).mean())
        if plain_cosine >= best_cosine:
            best, best_cosine, fitted = output.states, plain_cosine, False
        as_is = self._errors(output.states[-test:], 1.0)
        errors = self._errors(best[-test:], max(0.0, best_cosine))
        return {
            "kind": output.kind,
            "substitute": output.name,
            "detail": output.detail,
            "share": round(output.share, 4),
            "cosine": round(float(nonces.cosines(best[-test:], truth[-test:]).mean()), 4),
            "error_as_is": round(_rms(as_is), 4),
            "error": round(_rms(errors), 4),
            "corrected": fitted,
            **conviction(errors),
        }

    def fitted(self, features: Sequence[Tensor], base: Tensor | None = None) -> Tensor:
        """A ridge regression's prediction of the final hidden states of check and test nonces.

        Args:
            features: Of all nonces, [n, any width] each.
            base: [n, D], what the prediction is added to.
        """
        fit, check = self.nonces.counts.fit, self.nonces.counts.check
        x = torch.cat(list(features), dim=1).double()
        start = torch.zeros_like(self.truth).double() if base is None else base.double()
        wanted = self.truth.double() - start
        best, best_cosine = start[fit:], -2.0
        for predict in ridges(x[:fit], wanted[:fit]):
            states = start[fit:] + predict(x[fit:])
            cosine = float(self.nonces.cosines(states[:check].float(), self.truth[fit : fit + check]).mean())
            if cosine > best_cosine:
                best, best_cosine = states, cosine
        return best.float()

    def _corrected(self, output: Output) -> tuple[Tensor, bool]:
        if output.fit_states is None:
            return output.states, False
        states = torch.cat([output.fit_states, output.states])
        return self.fitted([states, *self.known, *output.known], base=states), True

    def _errors(self, states: Tensor, cosine: float) -> Distances:
        """The test nonces' received − computed in s, for all sets of targets."""
        found = self.nonces.test_distances(states)
        return np.concatenate(
            [
                in_units_of_s(best_guess(distances, cosine), true, self.nonces.width)
                for distances, true in zip(found, self._true_distances, strict=True)
            ]
        )


class Bench(Comparison):
    """One model in one setting, read out at the last row, and what is run in its place.

    Args:
        model: The model.
        nonces: Inputs and targets.
        input_scale: The round's.
    """

    def __init__(self, model: Any, nonces: Nonces, input_scale: float) -> None:
        self.decoder = Decoder(model)
        self.inputs = nonces.unit * input_scale
        self.whole = self.decoder.whole(nonces.seq_len)
        self.layers = len(self.decoder.layers)
        with torch.no_grad():
            # [layers + 1, n, D]: after the embedding and after each layer, normed.
            self.exits = torch.stack(
                [
                    torch.cat([self.decoder.norm(states) for states in found])
                    for found in zip(
                        *[self.decoder.last_rows(batch) for batch in self.inputs.split(32)], strict=True
                    )
                ]
            )
        super().__init__(nonces, self.exits[-1], (self.inputs[:, -1],))

    def share(self, plan: Plan) -> float:
        """A plan's work as a share of the whole model's."""
        return self.decoder.multiply_adds(plan) / self.decoder.multiply_adds(self.whole)

    def run(self, plan: Plan, which: slice, decoder: Decoder | None = None) -> Tensor:
        """What a plan makes of the inputs of some nonces: [n, D], normed."""
        running = decoder or self.decoder
        with torch.no_grad():
            batches = [running.run(batch, plan)[:, -1] for batch in self.inputs[which].split(32)]
            states: Tensor = self.decoder.norm(torch.cat(batches))
        return states

    def output(self, name: str, kind: str, plan: Plan, detail: str = "") -> Output:
        """Run a plan, without what the last row does not need, and for the fit too where that is cheap."""
        plan = plan.for_last_row()
        share = self.share(plan)
        fit_states = self.run(plan, slice(0, self.nonces.counts.fit)) if share <= FITTED_SHARE else None
        return Output(name, kind, share, self.run(plan, self.nonces.kept), fit_states, detail)


def best_guess(distances: Distances, cosine: float) -> Distances:
    """The distances to report for a substitute's, whose outputs have this cosine with the true ones."""
    return np.asarray(np.sqrt(2 - 2 * cosine * (1 - distances**2 / 2)))


def conviction(errors: Distances) -> dict[str, Any]:
    """The nonces that convict with 99 % power, with honest noise on top of the errors, and by which test.

    None: not within 10,000 nonces.
    """
    # Noise at the quantiles of its distribution, so that a small sample has no tails or mean of its own; and
    # both signs of every error, as a target is as likely as its opposite.
    repeated = np.tile(errors, 64)
    ranks = np.random.default_rng(0).permutation(len(repeated))
    noisy = repeated + HONEST_SIGMA * ndtri((ranks + 0.5) / len(repeated))
    sample = Sample(np.concatenate([noisy, -noisy]))
    found: dict[str, Any] = {"test": ""}
    for name, threshold in THRESHOLDS.items():
        if sample.combined_power(MAX_NONCES, threshold, HONEST_SIGMA) < 0.99:
            found[name] = None
            continue
        n = sample.combined_nonces(threshold, HONEST_SIGMA)
        assert n is not None
        found[name] = n
        powers = {
            "rms": sample.rms_power(n, threshold / 3, HONEST_SIGMA),
            "binomial": sample.binomial_power(n, threshold / 3),
            "signed mean": sample.mean_power(n, threshold / 3, HONEST_SIGMA),
        }
        found["test"] = max(powers, key=lambda test: powers[test])
    return found


def ridges(x: Tensor, y: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield linear maps with an intercept from x [n, F] to y [n, D], fitted with more and more ridge.

    The ridge is in units of the features' mean variance.
    """
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    centred = x - x_mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    against = vectors.T @ (centred.T @ (y - y_mean) / len(x))
    unit = float(values.mean().clamp(min=1e-30))
    for ridge in _RIDGES:
        weights = vectors @ (against / (values.clamp(min=0) + ridge * unit)[:, None])

        def predict(features: Tensor, weights: Tensor = weights) -> Tensor:
            return (features - x_mean) @ weights + y_mean

        yield predict


def outputs(bench: Bench) -> Iterator[Output]:
    """Run every substitute of a model, the cheapest version of each."""
    yield from _fewer_rows(bench)
    yield from _fewer_layers(bench)
    yield from _fewer_parts(bench)
    yield from _maps(bench)


def _fewer_rows(bench: Bench) -> Iterator[Output]:
    whole, length, layers = bench.whole, bench.nonces.seq_len, bench.layers
    yield bench.output("all, last layer on the last row only", "nothing", whole)
    for rows in sorted({length * 3 // 4, length // 2, 16, 4, 1}, reverse=True):
        if rows < length:
            name = {length * 3 // 4: "last three quarters", length // 2: "last half"}.get(
                rows, f"last {rows}"
            )
            yield bench.output(f"{name} of the rows", "rows dropped", Plan(whole.layers, rows))
    for rows in sorted({length // 2, 16, 8, 4, 1}, reverse=True):
        if rows < length:
            name = "last half" if rows == length // 2 else f"last {rows}"
            frozen = Plan(whole.layers, length, (rows,) * layers)
            yield bench.output(f"{name} of the rows, keys of all from the input", "rows frozen", frozen)
    if layers > 2:
        shrinking = Plan(whole.layers, length, (length, *(1,) * (layers - 1)))
        yield bench.output("first layer whole, then the last row", "rows frozen", shrinking)


def _fewer_layers(bench: Bench) -> Iterator[Output]:
    length, layers = bench.nonces.seq_len, bench.layers
    chosen = greedy_layers(bench)
    for left_out in sorted({1, layers // 2}):
        kept = chosen[left_out]
        missing = ", ".join(str(layer) for layer in range(layers) if layer not in kept)
        name = "the layer" if left_out == 1 else "the half of the layers"
        verb = "matters" if left_out == 1 else "matter"
        yield bench.output(f"without {name} that {verb} least", "layers", Plan(kept, length), missing)
    fixed = {
        "without the middle layer": tuple(i for i in range(layers) if i != layers // 2),
        "every second layer": tuple(range(0, layers, 2)),
    }
    for name, kept in fixed.items():
        if kept not in (chosen[1], chosen[layers // 2]):
            yield bench.output(name, "layers", Plan(kept, length))
    fit = bench.nonces.counts.fit
    for after in sorted({1, layers // 2, layers - 1}):
        share = bench.share(Plan(tuple(range(after)), length).for_last_row())
        states = bench.exits[after]
        name = {layers // 2: "half of the layers", layers - 1: "all layers but one"}.get(
            after, f"{after} layer"
        )
        yield Output(f"exit after {name}", "early exit", share, states[fit:], states[:fit])


def _fewer_parts(bench: Bench) -> Iterator[Output]:
    layers, length = bench.whole.layers, bench.nonces.seq_len
    yield bench.output("no attention", "parts", Plan(layers, 1, attention=False))
    if hasattr(bench.decoder.config, "num_experts"):
        yield bench.output("1 expert of 2", "experts", Plan(layers, length, experts=1))
        yield bench.output("no experts", "experts", Plan(layers, length, experts=0))
    else:
        yield bench.output("no feed-forward", "parts", Plan(layers, length, experts=0))


def _maps(bench: Bench) -> Iterator[Output]:
    whole = bench.decoder.multiply_adds(bench.whole)
    fit, width = bench.nonces.counts.fit, bench.nonces.width
    last, means = bench.inputs[:, -1], [bench.inputs.mean(dim=1), bench.inputs[:, -8:].mean(dim=1)]
    yield Output("linear map of the last row", "map", width**2 / whole, bench.fitted([last]))
    pooled = bench.fitted([last, *means])
    yield Output("linear map of the last row and of means", "map", 3 * width**2 / whole, pooled)
    constant = bench.truth[:fit].mean(dim=0).expand(len(pooled), -1)
    yield Output("mean direction", "map", 0.0, constant)


def greedy_layers(bench: Bench) -> list[tuple[int, ...]]:
    """The layers to keep when 0, 1, ... half of them are left out, each time the one that matters least.

    What matters least is what leaves the highest mean cosine with the truth, on the first 32 check nonces.
    """
    fit, length = bench.nonces.counts.fit, bench.nonces.seq_len
    some = slice(fit, fit + 32)
    kept = [bench.whole.layers]
    for _ in range(bench.layers // 2):
        candidates = [tuple(i for i in kept[-1] if i != left_out) for left_out in kept[-1]]
        cosines = [
            float(
                bench.nonces.cosines(
                    bench.run(Plan(candidate, length).for_last_row(), some), bench.truth[some]
                ).mean()
            )
            for candidate in candidates
        ]
        kept.append(candidates[int(np.argmax(cosines))])
    return kept


def _rms(errors: Distances) -> float:
    return float(np.sqrt(np.mean(errors**2)))
