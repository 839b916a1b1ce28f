"""Which ways to cheat does the proof detect, and with how many nonces?

Every way is carried out on real architectures: claims that were never computed, proofs of other nonces, keys
and blocks, and other weights than those that were asked for, from faint noise to a redrawn layer. The honest
model and the cheater's run on the same nonces. Each nonce's final hidden states then meet many more targets
than the one, which changes nothing, since a target depends on nothing else, and saves forwards.
Honest noise of σ is added to every error, and the tests of the product are told that σ.

Columns: `rms`, `mean` and `kurtosis` of received − computed in units of s, before honest noise;
`rms_corrected` is what is left when the cheater learns the mean difference of the hidden states from half of
the nonces and takes it off on the other half; `nonces_0.01` and `nonces_1e-07` are what the combined verdict
needs for 99 % power at these thresholds with honest noise of 0.05 (`None`: a hundred thousand are too few);
`auc_n` is the area under the ROC curve of its p-value between honest and cheating batches of n nonces. The
table `nonces` has each test alone, and σ of 0.02, 0.05 and 0.10.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

import numpy as np
import torch
from _architectures import DEPTHS, LLAMA, MOE, QWEN3, TINY, Architecture, Weights, load
from _experiment import new_figure, options, write
from _forward import Prover, in_units_of_s, round_of
from _judging import judge_distances, round_for
from _power import Errors, Sample, area_under_roc, combined_p_value, doubling, roc
from _tampering import Attack, attacks, distil, tampered
from matplotlib.figure import Figure
from torch import Tensor

from hallmark.poc.offline.model import last_hidden
from hallmark.poc.protocol.law import distance_std
from hallmark.poc.specification import RandomProjection
from hallmark.poc.verdict.judge import Verdict

SIGMAS = (0.02, 0.05, 0.10)
SIGMA = 0.05
"""Of honest noise where only one is shown; a published mean between GPU types is 0.07."""
THRESHOLDS = (0.01, 1e-7)
SIZES = (16, 64, 256)
"""Nonces of the batches that ROC curves are of."""
TARGETS = 64
"""Targets that each nonce's hidden states meet."""
CONTRAST = ("FP8", "INT8", "INT4", "layer", "noise")
"""Kinds of attack that are tried on random weights as well."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that is attacked, with everything that the attacks share.

    Attributes:
        label: For tables.
        model: Honest.
        prover: On it.
        inputs: Of all nonces, batch by batch.
        outputs: Unit vectors after the block's projection, float64 [n, D].
        distances: Of the nonces, [n].
    """

    label: Mapping[str, str]
    model: Any
    prover: Prover
    nonces: range
    inputs: Sequence[Tensor]
    outputs: Errors
    distances: Errors

    @classmethod
    def of(cls, architecture: Architecture, weights: Weights, count: int) -> "Subject":
        """Run the honest model on the first nonces, by the protocol's defaults."""
        model = load(architecture, weights)
        prover = Prover(model, round_of(model))
        nonces = range(count)
        inputs = [batch for _, batch in prover.batches(nonces)]
        states = hidden_states(model, inputs)
        return cls(
            label={"model": architecture.name, "weights": weights},
            model=model,
            prover=prover,
            nonces=nonces,
            inputs=inputs,
            outputs=unit_outputs(states, prover),
            distances=prover.distances(states, nonces),
        )

    @property
    def hidden_size(self) -> int:
        """D."""
        return self.prover.spec.hidden_size


@dataclass(frozen=True, slots=True)
class Cheating:
    """What came of an attack on a model.

    Attributes:
        row: Of the results.
        errors: Received − computed in units of s, without honest noise, many for each nonce.
    """

    row: dict[str, Any]
    errors: Errors


def hidden_states(model: Any, inputs: Iterable[Tensor]) -> Tensor:
    """Final hidden states of batches of inputs, [n, D]."""
    return torch.cat([last_hidden(model, batch) for batch in inputs])


def unit_outputs(states: Tensor, prover: Prover) -> Errors:
    """The unit vectors that targets are compared with, float64 [n, D]."""
    spec = prover.spec
    projection = RandomProjection(spec.block_hash, spec.hidden_size, spec.projection_scale)
    with torch.inference_mode():
        outputs = projection.post(states).double()
        return np.asarray((outputs / outputs.norm(dim=-1, keepdim=True)).numpy())


def errors_against_targets(received: Errors, computed: Errors, targets: int, seed: int) -> Errors:
    """The errors in units of s of unit vectors against targets of their own.

    Args:
        received: The cheater's unit vectors, [n, D].
        computed: The honest ones, [n, D].
        targets: How many uniform targets each pair meets.
        seed: Of the targets.

    Returns:
        [targets · n].
    """
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(targets):
        target = draw.standard_normal(received.shape)
        target /= np.linalg.norm(target, axis=1, keepdims=True)
        distances = [
            np.sqrt(np.maximum(0.0, 2 - 2 * np.einsum("nd,nd->n", outputs, target)))
            for outputs in (received, computed)
        ]
        found.append(distances[0] - distances[1])
    errors: Errors = np.concatenate(found) / distance_std(received.shape[1])
    return errors


def corrected(received: Errors, computed: Errors) -> Errors:
    """Unit vectors [n/2, D] of the second half, without the mean difference of the first half."""
    half = len(received) // 2
    shifted = received[half:] - (received[:half] - computed[:half]).mean(axis=0)
    outputs: Errors = shifted / np.linalg.norm(shifted, axis=1, keepdims=True)
    return outputs


def forged_errors(subject: Subject) -> Iterator[tuple[str, str, Errors]]:
    """Yield name, kind and errors of the attacks that run no other model."""
    draw = np.random.default_rng(3)
    shape = (subject.hidden_size - 1) / 2
    honest = np.tile(subject.distances, TARGETS)
    law = 2 * np.sqrt(draw.beta(shape, shape, len(honest)))
    width = subject.hidden_size
    yield "distances drawn from the law", "fabricated", in_units_of_s(law, honest, width)
    same = np.full(len(honest), np.sqrt(2.0))
    yield "the square root of 2 for everything", "fabricated", in_units_of_s(same, honest, width)
    replayed = np.roll(subject.distances, 1)
    yield (
        "the last nonce's distance",
        "replay",
        in_units_of_s(replayed, subject.distances, width),
    )
    other = Prover(subject.model, subject.prover.spec, "another prover").run(subject.nonces).distances
    yield "another key's proofs", "replay", in_units_of_s(other, subject.distances, width)
    spec = round_of(subject.model, block_hash="another block")
    other = Prover(subject.model, spec).run(subject.nonces).distances
    yield "another block's proofs", "replay", in_units_of_s(other, subject.distances, width)


def honest_p_values(count: int) -> dict[int, Errors]:
    """p-values of the combined verdict on honest batches of each size."""
    draw = np.random.default_rng(4)
    return {
        n: np.array([combined_p_value(SIGMA * draw.standard_normal(n), SIGMA) for _ in range(count)])
        for n in SIZES
    }


def describe(
    label: Mapping[str, str], name: str, kind: str, errors: Errors, honest: Mapping[int, Errors]
) -> Cheating:
    """The row of an attack.

    Args:
        label: The model's.
        name: The attack's.
        kind: What it is an instance of.
        errors: In units of s, without honest noise.
        honest: p-values of honest batches, by their size.
    """
    mean_square = float(np.mean(errors**2))
    row: dict[str, Any] = {**label, "attack": name, "kind": kind}
    row |= {"rms": mean_square**0.5, "mean": float(errors.mean())}
    row["kurtosis"] = float(np.mean(errors**4)) / mean_square**2
    sample = Sample(with_noise(errors, SIGMA))
    for threshold in THRESHOLDS:
        row[f"nonces_{threshold:g}"] = sample.combined_nonces(threshold, SIGMA)
    for n, p_values in honest.items():
        cheating = [combined_p_value(batch, SIGMA) for batch in sample.batches(len(p_values), n, seed=n)]
        row[f"auc_{n}"] = area_under_roc(p_values, np.array(cheating))
    return Cheating(row, errors)


def with_noise(errors: Errors, sigma: float) -> Errors:
    """Errors with honest noise beside them, four draws each."""
    draw = np.random.default_rng(5)
    repeated = np.tile(errors, 4)
    return repeated + sigma * draw.standard_normal(len(repeated))


def swapped_weights(
    subject: Subject, models: Iterable[tuple[str, str, Callable[[], Any]]], honest: Mapping[int, Errors]
) -> Iterator[Cheating]:
    """Yield what came of running other models in the place of the subject's."""
    for name, kind, make in models:
        states = hidden_states(make(), subject.inputs)
        outputs = unit_outputs(states, subject.prover)
        errors = errors_against_targets(outputs, subject.outputs, TARGETS, seed=6)
        found = describe(subject.label, name, kind, errors, honest)
        half = len(outputs) // 2
        left = errors_against_targets(corrected(outputs, subject.outputs), subject.outputs[half:], TARGETS, 7)
        found.row["rms_corrected"] = float(np.sqrt(np.mean(left**2)))
        # The protocol's own targets, one a nonce, have to tell the same.
        direct = in_units_of_s(
            subject.prover.distances(states, subject.nonces), subject.distances, subject.hidden_size
        )
        ratio = float(np.sqrt(np.mean(direct**2))) / found.row["rms"]
        margin = 6 * np.sqrt(max(2.0, found.row["kurtosis"] - 1) / len(direct)) / 2
        assert abs(ratio - 1) < margin, f"{name}: the protocol's targets give {ratio} of the error"
        yield found


def lazily(model: Any, attack: Attack) -> tuple[str, str, Callable[[], Any]]:
    """An attack on a model that is carried out when its turn has come."""
    return attack.name, attack.kind, lambda: tampered(model, attack)


def smaller_models(subject: Subject, steps: int) -> list[tuple[str, str, Callable[[], Any]]]:
    """Distilled models in the place of the subject's."""
    spec = subject.prover.spec
    depth = len(subject.model.base_model.layers)

    def student(layers: int) -> Callable[[], Any]:
        return lambda: distil(
            subject.model,
            layers,
            steps,
            input_scale=spec.input_scale,
            seq_len=spec.seq_len,
            batch_size=16,
        )

    return [
        (f"distilled to {layers} of {depth} layers", "smaller", student(layers))
        for layers in (2, 1)
        if layers < depth
    ]


def attacked(subject: Subject, honest: Mapping[int, Errors], *, more: bool, steps: int) -> Iterator[Cheating]:
    """Yield what came of every attack on a model.

    Args:
        subject: The model.
        honest: p-values of honest batches.
        more: Whether to forge distances and prune as well, rather than only those of `CONTRAST`.
        steps: Of training distilled models; 0: none.
    """
    if more:
        for name, kind, errors in forged_errors(subject):
            yield describe(subject.label, name, kind, errors, honest)
    chosen = [
        lazily(subject.model, attack)
        for attack in attacks(subject.model.config.num_attention_heads)
        if more or attack.kind in CONTRAST
    ]
    if steps:
        chosen += smaller_models(subject, steps)
    if subject.label["model"] == QWEN3.name and subject.label["weights"] == "trained":
        shallow = DEPTHS[0]
        chosen.append((f"another model, {shallow.name}", "smaller", lambda: load(shallow, "trained")))
    yield from swapped_weights(subject, chosen, honest)


def nonces_needed(found: Sequence[Cheating]) -> list[dict[str, Any]]:
    """Nonces for 99 % power, by test, threshold and honest noise."""
    rows: list[dict[str, Any]] = []
    for cheating in found:
        for sigma in SIGMAS:
            sample = Sample(with_noise(cheating.errors, sigma))
            rows.extend(
                {
                    **{key: cheating.row[key] for key in ("model", "weights", "attack")},
                    "sigma": sigma,
                    "threshold": threshold,
                    "binomial": sample.binomial_nonces(threshold),
                    "rms": sample.rms_nonces(threshold, sigma),
                    "combined": sample.combined_nonces(threshold, sigma),
                }
                for threshold in THRESHOLDS
            )
    return rows


def judged_ladder(found: Sequence[Cheating], subject: Subject, n: int) -> list[dict[str, Any]]:
    """The product's own verdict on one batch of n nonces of each attack, and of an honest one."""
    round_ = round_for(subject.hidden_size, fraud_threshold=1e-7, honest_sigma=SIGMA)
    draw = np.random.default_rng(8)
    honest = Cheating({**subject.label, "attack": "none", "rms": 0.0}, np.zeros(1))
    rows = []
    for cheating in (honest, *found):
        errors = draw.choice(cheating.errors, n) + SIGMA * draw.standard_normal(n)
        computed = draw.choice(subject.distances, n)
        received = np.clip(computed + errors * distance_std(subject.hidden_size), 0, 2)
        judged = judge_distances(round_, range(n), received, dict(enumerate(computed)))
        rows.append(
            {
                **{key: cheating.row[key] for key in ("model", "weights", "attack", "rms")},
                "n": n,
                "error_rms": judged.error_rms,
                "n_invalid": judged.n_invalid,
                "probability_honest": judged.probability_honest,
                "verdict": str(judged.verdict),
                "spoke": ", ".join(judged.rejected_by),
            }
        )
    assert rows[0]["verdict"] == Verdict.HONEST, "the honest batch is convicted"
    return rows


def findings(rows: Sequence[Mapping[str, Any]], nonces: Sequence[Mapping[str, Any]], n: int) -> list[str]:
    """What the numbers say, in sentences."""
    trained = [row for row in rows if row["weights"] == "trained"] or list(rows)

    of_models = "trained models" if trained[0]["weights"] == "trained" else "random weights"

    def span(kind: str, column: str) -> str:
        values = [row[column] for row in trained if row["kind"] == kind]
        if None in values:
            known = [value for value in values if value is not None]
            return f"{min(known):,} to more than 100,000" if known else "more than 100,000"
        low, high = min(values), max(values)
        shown = "{:,}" if isinstance(low, int) else "{:.3f}"
        return shown.format(low) if low == high else f"{shown.format(low)} to {shown.format(high)}"

    forged = [row for row in trained if row["kind"] in ("fabricated", "replay")]
    said = [
        f"Distances that were never computed (drawn from the law, √2 for everything) or that belong to "
        f"another nonce, key or block are off by {min(row['rms'] for row in forged):.2f} to "
        f"{max(row['rms'] for row in forged):.2f} s; {max(row['nonces_1e-07'] for row in forged)} nonces "
        f"convict each of them at threshold 1e-7 with 99 % power, honest noise being {SIGMA} s."
    ]
    for kind, words in (
        ("INT4", "INT4 weights by rounding to nearest (six group sizes and grids)"),
        ("INT8", "INT8 weights with a scale a channel"),
        ("FP8", "FP8 (e4m3) weights"),
    ):
        said.append(
            f"{words} are off by {span(kind, 'rms')} s on {of_models}; with honest noise of {SIGMA} s the "
            f"combined verdict takes {span(kind, 'nonces_0.01')} nonces at threshold 0.01 and "
            f"{span(kind, 'nonces_1e-07')} at 1e-7."
        )
    ladder = sorted((row for row in trained if row["kind"] == "noise"), key=lambda row: float(row["rms"]))
    missed = [row for row in ladder if row["auc_256"] <= 0.99]
    found = [row for row in ladder if not missed or row["rms"] > missed[-1]["rms"]]
    sentence = (
        f"On the ladder of noise on the weights, errors run from {ladder[0]['rms']:.2g} to "
        f"{ladder[-1]['rms']:.2g} s. With batches of 256 nonces "
    )
    if found:
        sentence += f"what is off by {found[0]['rms']:.3f} s or more is told from honest (AUC above 0.99)"
    if found and missed:
        sentence += ", while "
    if missed:
        sentence += f"an error of {missed[-1]['rms']:.3f} s still is not (AUC {missed[-1]['auc_256']:.2f})"
    said.append(sentence + f", honest noise being {SIGMA} s.")
    said.append(_what_gets_through(nonces))
    gained = [row for row in trained if "rms_corrected" in row and row["rms"] > 0.05]
    best = min(gained, key=lambda row: float(row["rms_corrected"] / row["rms"]))
    said.append(
        f"A cheater who owns the true model can learn the mean difference of his cheap model's outputs from "
        f"{n // 2} nonces and take it off: at best ({best['attack']}, {best['model']}) that brings the error "
        f"from {best['rms']:.3f} to {best['rms_corrected']:.3f} s."
    )
    smaller = [row for row in trained if row["kind"] == "smaller"]
    if smaller:
        closest = min(smaller, key=lambda row: float(row["rms"]))
        said.append(
            f"The smaller model that comes closest ({closest['attack']}) is off by {closest['rms']:.2f} s "
            f"and takes {closest['nonces_1e-07']} nonces at 1e-7."
        )
    return said


def _what_gets_through(nonces: Sequence[Mapping[str, Any]], enough: int = 10_000) -> str:
    """The attacks on trained models that `enough` nonces do not convict at threshold 1e-7."""
    trained = [row for row in nonces if row["weights"] == "trained"] or list(nonces)

    def through(sigma: float) -> list[str]:
        hit = [row for row in trained if row["sigma"] == sigma and row["threshold"] == 1e-7]
        names = [row["attack"] for row in hit if row["combined"] is None or row["combined"] > enough]
        return sorted(set(names))

    parts = [f"{', '.join(through(sigma)) or 'nothing'} with {sigma} s of it" for sigma in SIGMAS]
    return (
        f"Honest noise hides what is fainter. Attacks that {enough:,} nonces do not convict at threshold "
        f"1e-7, on one of the models at least: {'; '.join(parts)}."
    )


def draw_figure(found: Sequence[Cheating], honest: Mapping[int, Errors], n: int) -> Figure:
    """Power against nonces for one attack of each kind, and ROC curves of the faint ones."""
    figure, (powers, curves) = new_figure(2, width=5.2, height=4.2)
    first = [cheating for cheating in found if cheating.row["model"] == found[0].row["model"]]
    first = [cheating for cheating in first if cheating.row["weights"] == found[0].row["weights"]]
    shown = {cheating.row["kind"]: cheating for cheating in first}.values()
    shown_by_error = sorted(shown, key=lambda cheating: -cheating.row["rms"])
    sizes = [*doubling(1, 65_536)]
    for cheating in shown_by_error:
        sample = Sample(with_noise(cheating.errors, SIGMA))
        label = f"{cheating.row['attack']} ({cheating.row['rms']:.2g} s)"
        powers.plot(sizes, [sample.combined_power(size, 1e-7, SIGMA) for size in sizes], label=label)
    powers.set_xscale("log", base=2)
    powers.set_xlabel(f"nonces, honest noise {SIGMA} s, threshold 1e-7")
    powers.set_ylabel("power of the combined verdict")
    powers.legend(fontsize=6)
    faint = sorted(first, key=lambda cheating: abs(cheating.row[f"auc_{n}"] - 0.85))[:5]
    for cheating in sorted(faint, key=lambda cheating: -cheating.row["rms"]):
        sample = Sample(with_noise(cheating.errors, SIGMA))
        batches = sample.batches(len(honest[n]), n, seed=n)
        curve = roc(honest[n], np.array([combined_p_value(batch, SIGMA) for batch in batches]))
        curves.plot(*curve, label=f"{cheating.row['attack']} ({cheating.row['rms']:.2g} s)")
    curves.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    curves.set_xlabel(f"false alarms, batches of {n} nonces")
    curves.set_ylabel("detections")
    curves.legend(fontsize=6)
    return figure


def check_ladders(rows: Sequence[Mapping[str, Any]]) -> None:
    """More noise on the weights has to give a larger error, on every model."""
    ladders: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["kind"] == "noise":
            ladders.setdefault((row["model"], row["weights"]), []).append(row["rms"])
    for label, ladder in ladders.items():
        assert ladder == sorted(ladder), f"{label}: more noise on the weights gives a smaller error"


def main() -> None:
    chosen = options(__doc__)
    count, batches = (64, 40) if chosen.small else (256, 400)
    if chosen.small:
        torch.set_num_threads(1)  # the model is too small to share
    models: list[tuple[Architecture, Weights, bool, int]] = [(TINY, "fresh", True, 3)]
    if not chosen.small:
        models = [
            (QWEN3, "trained", True, 120),
            (LLAMA, "trained", True, 0),
            (MOE, "trained", True, 0),
            (QWEN3, "fresh", False, 0),
            (QWEN3, "strong", False, 0),
        ]
    honest = honest_p_values(batches)
    found, judged = [], []
    for architecture, weights, more, steps in models:
        subject = Subject.of(architecture, weights, count)
        here = [*attacked(subject, honest, more=more, steps=steps)]
        judged += judged_ladder(here, subject, 256)
        found += here
    nonces = nonces_needed(found)
    rows = [cheating.row for cheating in found]
    check_ladders(rows)
    false_alarms = [
        {
            "n": n,
            "batches": batches,
            **{f"below_{level:g}": float(np.mean(values < level)) for level in (0.05, 0.01, 1e-7)},
        }
        for n, values in honest.items()
    ]
    write(
        "detection",
        chosen,
        draw_figure(found, honest, 64),
        about="Errors in units of s before honest noise, and nonces of the combined verdict for 99 % power.",
        rows=rows,
        nonces=nonces,
        judged=judged,
        false_alarms=false_alarms,
        sigma=SIGMA,
        findings=findings(rows, nonces, count),
    )


if __name__ == "__main__":
    main()
