"""Choosing nonces by their targets: what a prover gains who may leave nonces out at rate 1.

A substitute's error in units of s is ``−√D·⟨δ, t⟩``, δ being the difference of the unit outputs and t the
target. δ is not known without the model's forward, but its second moments ``C = E[δδᵀ]`` can be learnt from a
few hundred nonces once. Trained models' differences fill few directions, so that ``tᵀCt``, which costs one
drawing of the target, tells for which nonces the substitute will be close.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from _forward import Prover
from _tampering import Attack, tampered
from torch import Tensor

from hallmark.poc.offline.model import last_hidden
from hallmark.poc.protocol.law import distance_std
from hallmark.poc.specification import RandomProjection

Floats = npt.NDArray[np.float64]
SHARES = (1.0, 0.1, 0.01, 0.001)
"""Of the candidates that are chosen."""


@dataclass(frozen=True, slots=True)
class Substitute:
    """What a prover runs instead of the model.

    Attributes:
        name: For tables.
        fitted: Unit outputs on the nonces that it learnt from, [m, D].
        outputs: Unit outputs on the others, [n, D].
    """

    name: str
    fitted: Floats
    outputs: Floats


def substitutes(
    model: Any, prover: Prover, attacks: Sequence[Attack], learnt_from: int, count: int
) -> tuple[Floats, list[Substitute]]:
    """Run a model, cheap maps that imitate it and other weights on the first nonces of a prover.

    Args:
        model: The honest one.
        prover: On it.
        attacks: Other weights to run.
        learnt_from: How many nonces the imitations are fitted to.
        count: How many nonces in all; the others are for measuring.

    Returns:
        The model's unit outputs, [count, D], and the substitutes'.
    """
    spec = prover.spec
    projection = RandomProjection(spec.block_hash, spec.hidden_size, spec.projection_scale)
    inputs = [batch for _, batch in prover.batches(range(count))]

    def outputs(run: Callable[[Tensor], Tensor]) -> Floats:
        with torch.inference_mode():
            states = projection.post(torch.cat([run(batch) for batch in inputs])).double()
        return unit(np.asarray(states.numpy()))

    honest = outputs(partial(last_hidden, model))
    mean = unit(np.tile(honest[:learnt_from].mean(axis=0), (count, 1)))
    rows = [torch.cat([batch[:, -1], batch.mean(dim=1)], dim=1) for batch in inputs]
    features = np.concatenate([torch.cat(rows).double().numpy(), np.ones((count, 1))], axis=1)
    found = {
        "the outputs' mean direction": mean,
        "a linear map of the last row and the rows' mean": linear_map(features, honest, learnt_from),
    }
    for attack in attacks:
        found[attack.name] = outputs(partial(last_hidden, tampered(model, attack)))
    return honest, [Substitute(name, y[:learnt_from], y[learnt_from:]) for name, y in found.items()]


def linear_map(features: Floats, honest: Floats, learnt_from: int) -> Floats:
    """Unit outputs of a ridge regression on features [n, k], its strength chosen on a fifth of the nonces."""
    fit, check = slice(0, 4 * learnt_from // 5), slice(4 * learnt_from // 5, learnt_from)
    scale = features.std(axis=0) + 1e-12
    standard = features / scale

    def predict(rows: slice, strength: float) -> Floats:
        gram = standard[rows].T @ standard[rows] + strength * np.eye(standard.shape[1])
        return unit(standard @ np.linalg.solve(gram, standard[rows].T @ honest[rows]))

    strengths = (1.0, 10.0, 100.0, 1e3, 1e4)
    best = max(strengths, key=lambda s: float(np.sum(predict(fit, s)[check] * honest[check])))
    return predict(slice(0, learnt_from), best)


def unit(vectors: Floats) -> Floats:
    """Vectors [n, D] of length 1."""
    found: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def chosen_errors(
    substitute: Substitute, honest: Floats, candidates: int, seed: int
) -> dict[float, tuple[Floats, Floats, Floats]]:
    """The errors that are left where a prover claims only for the targets that suit the substitute.

    Args:
        substitute: What it runs.
        honest: The model's unit outputs, [m + n, D], in the order of the substitute's.
        candidates: Targets to choose from.
        seed: Of the targets.

    Returns:
        For each share of `SHARES`: errors in units of s, and the distances received and computed.
    """
    learnt_from, hidden_size = substitute.fitted.shape
    difference = substitute.fitted - honest[:learnt_from]
    moments = difference.T @ difference / learnt_from
    draw = np.random.default_rng(seed)
    targets = unit(draw.standard_normal((candidates, hidden_size)))
    order = np.argsort(np.einsum("nd,nd->n", targets @ moments, targets))
    found = {}
    for share in SHARES:
        chosen = targets[order[: max(1, round(share * candidates))]]
        # Each chosen target is some nonce's, whose inputs are independent of it.
        pairs = draw.integers(len(substitute.outputs), size=16_384)
        met = chosen[draw.integers(len(chosen), size=len(pairs))]
        received, computed = (
            np.sqrt(np.maximum(0.0, 2 - 2 * np.einsum("nd,nd->n", outputs[pairs], met)))
            for outputs in (substitute.outputs, honest[learnt_from:])
        )
        found[share] = ((received - computed) / distance_std(hidden_size), received, computed)
    return found


def dimensions(substitute: Substitute, honest: Floats) -> float:
    """How many directions the differences fill: (Σλ)²/Σλ² of their second moments, at most D."""
    difference = substitute.outputs - honest[len(substitute.fitted) :]
    values = np.linalg.svd(difference, compute_uv=False) ** 2
    return float(values.sum() ** 2 / np.sum(values**2))
