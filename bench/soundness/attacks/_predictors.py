"""Cheap predictions of a model's final hidden state, for the attacks that save the model's own run.

A prediction Ĥ of H is worth what its cosine with H is: with a target t that depends on neither, the predicted
and the true inner product are jointly normal with that correlation. Whatever is fitted is fitted on another
block's nonces, once for a model, so that its cost is spread over everything that is ever forged.

The causal model gives an output in every row. Predictors that are fitted learn from the last quarter of each
input's rows, which makes one forward worth many samples; what is predicted is the last row.
"""

import copy
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from _architectures import CACHE, DEPTHS, LLAMA, MOE, QWEN3, TINY, WIDTHS, Architecture, Weights, load
from _forward import Prover, round_of
from torch import Tensor
from torch.nn import functional

from hallmark.poc.specification import RandomProjection

TESTED_BLOCK = "soundness"
FITTED_BLOCK = "an earlier block"
BATCH_SIZE = 32
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Penalties to choose from, in units of the features' mean square."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One model in one kind of round.

    Attributes:
        factor: What of the base setting is changed, e.g. `depth`.
        value: To what, e.g. `8 layers`.
        architecture: The model's shape and training.
        weights: The state of its weights.
        seq_len: Rows of a nonce's input.
        input_scale: The inputs' standard deviation; None: the embedding table's.
    """

    factor: str
    value: str
    architecture: Architecture
    weights: Weights = "trained"
    seq_len: int = 64
    input_scale: float | None = None

    def prover(self, block_hash: str, batch_size: int = BATCH_SIZE) -> Prover:
        """The setting's round for a block; distances alone are quicker in large batches."""
        model = load(self.architecture, self.weights)
        return Prover(
            model,
            round_of(
                model,
                block_hash=block_hash,
                seq_len=self.seq_len,
                batch_size=batch_size,
                input_scale=self.input_scale,
            ),
        )


@dataclass(frozen=True, slots=True)
class Effort:
    """How much the attacker fits, and on how many nonces it is tested.

    Attributes:
        fitted_rows: Rows of input that the model is run on for fitting; a quarter of them are samples.
        tested: Nonces whose outputs are predicted.
        distillation_steps: Steps of training of the small net, on so many rows each: 32 inputs of 64.
    """

    fitted_rows: int = 65_536
    tested: int = 1_024
    distillation_steps: int = 96


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a prediction, as a share of the model's forward.

    Attributes:
        share: Floating point operations, drawing aside.
        reused: The part of them that the model's own forward of the same nonce would not have to repeat.
    """

    share: float
    reused: float = 0.0


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the model and its predictors say of the tested nonces.

    Attributes:
        nonces: The tested ones.
        truth: The model's hidden states, [n, D].
        predicted: Each predictor's, [n, D], by its name.
        costs: Each predictor's.
        cosines: Each predictor's cosine with the truth after the projection, [n].
    """

    nonces: range
    truth: Tensor
    predicted: dict[str, Tensor]
    costs: dict[str, Cost]
    cosines: dict[str, Tensor] = field(default_factory=dict)


BASE = Setting("base", "base", QWEN3)
SETTINGS = (
    BASE,
    Setting("training", "fresh", QWEN3, "fresh"),
    Setting("training", "strong", QWEN3, "strong"),
    # Between two powers the protocol wants the scale to be stated; this is the base's.
    Setting("training", "30 steps", replace(QWEN3, steps=30), input_scale=2.0**-5),
    Setting("training", "100 steps", replace(QWEN3, steps=100), input_scale=2.0**-5),
    Setting("depth", "2 layers", DEPTHS[0]),
    Setting("depth", "8 layers", DEPTHS[2]),
    Setting("width", "64", WIDTHS[0]),
    Setting("width", "128", WIDTHS[1]),
    Setting("width, fresh", "128", WIDTHS[1], "fresh"),
    Setting("width, fresh", "512", replace(QWEN3, hidden_size=512), "fresh"),
    Setting("sequence length", "16", QWEN3, seq_len=16),
    Setting("sequence length", "256", QWEN3, seq_len=256),
    Setting("architecture", "llama", LLAMA),
    Setting("architecture", "qwen3_moe", MOE),
    Setting("input scale", "1", QWEN3, input_scale=1.0),
)
"""The base, and what differs from it in one factor."""

SMALL_SETTINGS = (
    Setting("base", "base", TINY, "fresh", seq_len=16),
    Setting("training", "strong", TINY, "strong", seq_len=16),
)
SMALL = Effort(fitted_rows=2_048, tested=256, distillation_steps=4)


def predictions(setting: Setting, effort: Effort) -> Predictions:
    """Fit every predictor of a setting and apply it; kept in `.cache/soundness`, as it takes a minute."""
    made_from = json.dumps([asdict(setting), asdict(effort), torch.__version__, "1"], sort_keys=True)
    path = CACHE / f"predictions-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.pt"
    if path.is_file():
        kept = torch.load(path, weights_only=True)
        kept["costs"] = {name: Cost(*cost) for name, cost in kept["costs"].items()}
        kept["nonces"] = range(effort.tested)
        return Predictions(**kept)
    found = _predictions(setting, effort)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    torch.save(
        {
            "truth": found.truth,
            "predicted": found.predicted,
            "costs": {name: (cost.share, cost.reused) for name, cost in found.costs.items()},
            "cosines": found.cosines,
        },
        unfinished,
    )
    unfinished.rename(path)
    return found


def by_samples(setting: Setting, effort: Effort) -> list[dict[str, Any]]:
    """Cosines of the fitted predictors by how much they are fitted on, up to four times as much as elsewhere.

    Returns:
        Rows of `predictor`, `samples` and `cosine`, the samples rising in steps of four.
    """
    seq_len = setting.seq_len
    fitted = observe(setting.prover(FITTED_BLOCK), _whole_batches(4 * effort.fitted_rows // seq_len))
    prover = setting.prover(TESTED_BLOCK)
    tested = observe(prover, range(effort.tested), last_only=True)
    post = _projection(prover)
    rows = []

    def add(predictor: str, samples: int, predict: Predictor) -> None:
        cosine = _cosine(post, predict(tested)[:, -1], tested.outputs[:, -1])
        rows.append({"predictor": predictor, "samples": samples, "cosine": round(float(cosine.mean()), 4)})

    for name, features in _linear(setting).items():
        for part in (64, 16, 4, 1):
            samples = fitted.outputs[..., 0].numel() // part
            add(name, samples, fit(fitted.head(samples), features))
    for factor in (1, 4):
        steps = factor * effort.distillation_steps
        shown = steps * (BATCH_SIZE * 64 // seq_len) * fitted.outputs.shape[1]
        add("distilled layer", shown, distil(prover.model, fitted, steps))
    return rows


@dataclass(frozen=True, slots=True)
class Observed:
    """Forwards of the model, and what of them a predictor may look at.

    Attributes:
        inputs: [n, seq_len, D], projected.
        early: Hidden states after k layers in the last m rows, [n, m, D], by k from 0, where they are inputs.
        outputs: What the final norm returned there, [n, m, D].
    """

    inputs: Tensor
    early: dict[int, Tensor]
    outputs: Tensor

    def head(self, samples: int) -> "Observed":
        """The first forwards, so many that they hold this number of samples."""
        n = max(1, samples // self.outputs.shape[1])
        return Observed(self.inputs[:n], {k: each[:n] for k, each in self.early.items()}, self.outputs[:n])


Features = Callable[[Observed], Tensor]
"""From forwards to what a linear map is fitted on, [n, m, F]."""
Predictor = Callable[[Observed], Tensor]
"""From forwards to predicted outputs, [n, m, D]."""


@torch.inference_mode()
def observe(prover: Prover, nonces: range, *, last_only: bool = False) -> Observed:
    """Run the model, and keep the last quarter of the rows, or the last row alone."""
    base = prover.model.base_model
    depths = early_layers(len(base.layers))
    kept = 1 if last_only else max(1, prover.spec.seq_len // 4)
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    early: dict[int, list[Tensor]] = {k: [] for k in depths}
    for _, drawn in prover.batches(nonces):
        found = base(inputs_embeds=drawn, use_cache=False, output_hidden_states=True)
        inputs.append(drawn)
        outputs.append(found.last_hidden_state[:, -kept:].clone())
        for k in depths:
            early[k].append(found.hidden_states[k][:, -kept:].clone())
    return Observed(torch.cat(inputs), {k: torch.cat(each) for k, each in early.items()}, torch.cat(outputs))


def early_layers(layers: int) -> list[int]:
    """After how many layers a prover might stop: 1, 2 and all but one."""
    return sorted({k for k in (1, 2, layers - 1) if 1 <= k < layers})


def fit(fitted: Observed, features: Features) -> Predictor:
    """A ridge regression of the outputs' directions, its penalty chosen on an eighth that is held out."""
    x, y = features(fitted), functional.normalize(fitted.outputs, dim=-1)
    held_out = max(1, len(x) // 8)
    train_x, train_y = x[:-held_out].flatten(0, 1), y[:-held_out].flatten(0, 1)
    scale = train_x.square().mean(0).sqrt().clamp_min(1e-12)
    mean_x, mean_y = train_x.mean(0), train_y.mean(0)
    centred = (train_x - mean_x) / scale
    gram = (centred.T @ centred).double() / len(centred)
    moment = (centred.T @ (train_y - mean_y)).double() / len(centred)
    best, weights = -math.inf, torch.zeros_like(moment).float()
    for ridge in RIDGES:
        penalised = gram + ridge * torch.eye(len(gram), dtype=gram.dtype)
        solved = torch.linalg.solve(penalised, moment).float()
        guessed = (x[-held_out:] - mean_x) / scale @ solved + mean_y
        cosine = float(functional.cosine_similarity(guessed, y[-held_out:], dim=-1).mean())
        if cosine > best:
            best, weights = cosine, solved
    return lambda observed: (features(observed) - mean_x) / scale @ weights + mean_y


def distil(model: Any, fitted: Observed, steps: int) -> Predictor:
    """One layer in the place of all: the model's first, trained to give the direction of its outputs."""
    student = copy.deepcopy(model.base_model)
    student.layers = student.layers[:1]
    student.train()
    rows = fitted.outputs.shape[1]
    batch = max(1, BATCH_SIZE * 64 // fitted.inputs.shape[1])
    optimiser = torch.optim.AdamW(student.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(fitted.inputs), (batch,), generator=draw)
        # Copies: what inference mode made cannot be differentiated through.
        given = student(inputs_embeds=fitted.inputs[chosen].clone(), use_cache=False).last_hidden_state
        cosine = functional.cosine_similarity(given[:, -rows:], fitted.outputs[chosen].clone(), dim=-1)
        optimiser.zero_grad(set_to_none=True)
        (1 - cosine.mean()).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    student.eval()

    @torch.inference_mode()
    def predict(observed: Observed) -> Tensor:
        parts = [
            student(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1:]
            for inputs in observed.inputs.split(BATCH_SIZE)
        ]
        return torch.cat(parts)

    return predict


def costs(architecture: Architecture, seq_len: int) -> dict[str, Cost]:
    """What each predictor costs, at its cheapest.

    Of a matrix of m·n elements, 2·m·n operations a row; causal attention sees half of the rows on average.
    Where a layer's output counts in the last row only, its other rows stop at their keys and values.
    """
    forward = _operations(architecture, seq_len, architecture.layers, trimmed=False)
    width = architecture.hidden_size
    row = 2 * width**2

    def share(operations: float, *, reused: bool = False) -> Cost:
        part = operations / forward
        return Cost(part, part if reused else 0.0)

    found = {
        "mean direction": share(2 * width),
        "linear, last row": share(row + row),
        "linear, last 4 rows": share(4 * (row + row)),
        "linear, pooled": share(seq_len * width + 2 * (row + row)),
    }
    for k in early_layers(architecture.layers):
        early = _operations(architecture, seq_len, k, trimmed=True)
        found[f"first {_layers(k)}"] = share(early, reused=True)
        found[f"first {_layers(k)}, linear head"] = share(early + seq_len * width + 3 * row, reused=True)
    found["distilled layer"] = share(_operations(architecture, seq_len, 1, trimmed=True))
    found["last quarter of rows"] = share(
        _operations(architecture, max(1, seq_len // 4), architecture.layers, trimmed=True)
    )
    return found


def _operations(architecture: Architecture, rows: int, layers: int, *, trimmed: bool) -> float:
    """Of a forward of so many layers, and of the projections around it."""
    width = architecture.hidden_size
    heads = max(1, width // 64)
    key_value_heads = max(1, heads // 2)
    keys_and_values = 2 * width * 2 * key_value_heads * 64
    queries_and_output = 2 * width * 2 * heads * 64
    attention = 4 * heads * 64  # for each pair of rows
    if architecture.family == "qwen3_moe":
        feed_forward = 2 * 3 * 2 * width**2 + 2 * width * 8  # two experts, and the router
    else:
        feed_forward = 3 * 2 * width * 3 * width
    whole = rows * (keys_and_values + queries_and_output + feed_forward + attention * (rows + 1) / 2)
    last = rows * keys_and_values + queries_and_output + feed_forward + attention * rows
    projections = (rows + 1) * 2 * width**2
    return projections + (layers - 1) * whole + (last if trimmed else whole)


def _predictions(setting: Setting, effort: Effort) -> Predictions:
    fitted = observe(setting.prover(FITTED_BLOCK), _whole_batches(effort.fitted_rows // setting.seq_len))
    prover = setting.prover(TESTED_BLOCK)
    nonces = range(effort.tested)
    tested = observe(prover, nonces, last_only=True)
    truth = tested.outputs[:, -1]
    mean = functional.normalize(fitted.outputs, dim=-1).mean((0, 1))
    predicted = {"mean direction": mean.expand_as(truth).clone()}
    with torch.inference_mode():
        for name, features in _linear(setting).items():
            predicted[name] = fit(fitted, features)(tested)[:, -1]
        for k, states in tested.early.items():
            predicted[f"first {_layers(k)}"] = prover.model.base_model.norm(states)[:, -1]
        predicted["last quarter of rows"] = torch.cat(list(_on_last_rows(prover.model, tested.inputs)))
    distilled = distil(prover.model, fitted, effort.distillation_steps)
    predicted["distilled layer"] = distilled(tested)[:, -1]
    order = costs(setting.architecture, setting.seq_len)
    assert order.keys() == predicted.keys()
    post = _projection(prover)
    return Predictions(
        nonces,
        truth,
        {name: predicted[name].clone() for name in order},
        order,
        {name: _cosine(post, predicted[name], truth) for name in order},
    )


def _linear(setting: Setting) -> Mapping[str, Features]:
    """The features of each linear map, by the predictor's name."""
    found: dict[str, Features] = {
        "linear, last row": lambda o: _rows_before(o, 1),
        "linear, last 4 rows": lambda o: _rows_before(o, 4),
        "linear, pooled": lambda o: torch.cat([_rows_before(o, 1), _means(o)], dim=-1),
    }

    def after(k: int, o: Observed) -> Tensor:
        early = functional.normalize(o.early[k], dim=-1)
        return torch.cat([early, _rows_before(o, 1), _means(o)], dim=-1)

    for k in early_layers(setting.architecture.layers):
        found[f"first {_layers(k)}, linear head"] = partial(after, k)
    return found


def _rows_before(observed: Observed, count: int) -> Tensor:
    """The inputs of a row and of those just before it, [n, m, count·D], for each of the last m rows."""
    m, end = observed.outputs.shape[1], observed.inputs.shape[1]
    return torch.cat(
        [observed.inputs[:, end - m - back : end - back] for back in range(count)],
        dim=-1,
    )


def _means(observed: Observed) -> Tensor:
    """The mean of the inputs up to each of the last m rows, times the root of their number, [n, m, D]."""
    m, end = observed.outputs.shape[1], observed.inputs.shape[1]
    counts = torch.arange(end - m + 1, end + 1).sqrt()
    return observed.inputs.cumsum(1)[:, -m:] / counts[:, None]


def _on_last_rows(model: Any, inputs: Tensor) -> Iterator[Tensor]:
    """The model's outputs for inputs of which it sees the last quarter."""
    rows = max(1, inputs.shape[1] // 4)
    for part in inputs[:, -rows:].split(BATCH_SIZE):
        yield model.base_model(inputs_embeds=part, use_cache=False).last_hidden_state[:, -1].clone()


def _projection(prover: Prover) -> Callable[[Tensor], Tensor]:
    """The projection behind the model."""
    spec = prover.spec
    return RandomProjection(spec.block_hash, spec.hidden_size, spec.projection_scale).post


def _cosine(post: Callable[[Tensor], Tensor], predicted: Tensor, truth: Tensor) -> Tensor:
    return functional.cosine_similarity(post(predicted), post(truth), dim=-1)


def _whole_batches(nonces: int) -> range:
    return range(max(1, nonces // BATCH_SIZE) * BATCH_SIZE)


def _layers(k: int) -> str:
    return "layer" if k == 1 else f"{k} layers"
