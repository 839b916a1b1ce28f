"""Ways to serve another model than the one that was asked for, from the faintest to the grossest.

Each takes a copy of a model of transformers and changes the matrices of its decoder layers in place. The
embedding table and the output layer are left alone, since no proof runs them, and so is a router, which those
who quantise models leave alone too.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from _architectures import train
from torch import Tensor
from torch.nn import functional

Tamper = Callable[[Any], None]
"""Changes a model in place."""

FP8_LARGEST = 448.0
"""The largest number of e4m3 (Micikevicius et al., FP8 formats for deep learning, 2022)."""


@dataclass(frozen=True, slots=True)
class Attack:
    """A way to cheat by the weights.

    Attributes:
        name: For tables.
        kind: What it is an instance of.
        tamper: What it does to a model.
    """

    name: str
    kind: str
    tamper: Tamper


def matrices(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the matrix [..., out, in] of each linear layer, experts stacked in front."""
    for name, parameter in model.base_model.layers.named_parameters():
        if parameter.ndim >= 2 and not name.endswith("mlp.gate.weight"):
            yield name, parameter


def tampered(model: Any, attack: Attack) -> Any:
    """A copy of a model with an attack carried out on it."""
    changed = copy.deepcopy(model)
    attack.tamper(changed)
    return changed.eval()


def quantise_symmetric(weight: Tensor, bits: int, group: int | None) -> Tensor:
    """Round to nearest on a symmetric grid, and back.

    Args:
        weight: [..., out, in].
        bits: Of an integer; the grid is −(2^(bits−1) − 1) to 2^(bits−1) − 1.
        group: Weights of a row that share a scale; None: the whole row.
    """
    grouped = _grouped(weight, group)
    largest = 2 ** (bits - 1) - 1
    scale = (grouped.abs().amax(-1, keepdim=True) / largest).clamp_min(torch.finfo(weight.dtype).tiny)
    rounded: Tensor = (grouped / scale).round() * scale
    return rounded.reshape(weight.shape)


def quantise_asymmetric(weight: Tensor, bits: int, group: int | None) -> Tensor:
    """Round to nearest on a grid of 2^bits levels from the group's least to its largest weight, and back.

    Zero is on the grid, as in GPTQ and AWQ, so that the range is widened to hold it.

    Args:
        weight: [..., out, in].
        bits: Of an unsigned integer.
        group: As in `quantise_symmetric`.
    """
    grouped = _grouped(weight, group)
    least = grouped.amin(-1, keepdim=True).clamp_max(0)
    most = grouped.amax(-1, keepdim=True).clamp_min(0)
    levels = 2**bits - 1
    scale = ((most - least) / levels).clamp_min(torch.finfo(weight.dtype).tiny)
    zero = (-least / scale).round()
    rounded: Tensor = (((grouped / scale).round() + zero).clamp(0, levels) - zero).mul(scale)
    return rounded.reshape(weight.shape)


def quantise_fp8(weight: Tensor, *, per_channel: bool) -> Tensor:
    """Round to e4m3 with one scale for the matrix, or for each of its rows, and back."""
    largest = (
        weight.abs().amax(-1, keepdim=True) if per_channel else weight.abs().amax((-2, -1), keepdim=True)
    )
    scale = (largest / FP8_LARGEST).clamp_min(torch.finfo(weight.dtype).tiny)
    return (weight / scale).to(torch.float8_e4m3fn).to(weight.dtype) * scale


def prune_magnitude(weight: Tensor, share: float) -> Tensor:
    """Set the smallest weights of a matrix to zero: so large a share of each."""
    flat = weight.abs().flatten(-2)
    threshold = flat.kthvalue(max(1, round(share * flat.shape[-1])), dim=-1).values
    return weight.where(weight.abs() > threshold[..., None, None], 0.0)


def bf16(weight: Tensor) -> Tensor:
    """Round to bfloat16 and back."""
    return weight.bfloat16().to(weight.dtype)


def add_noise(weight: Tensor, relative: float, draw: torch.Generator) -> Tensor:
    """Add normal noise whose standard deviation is this share of the matrix's."""
    return weight + relative * weight.std() * torch.randn(weight.shape, generator=draw)


def each_matrix(change: Callable[[Tensor], Tensor]) -> Tamper:
    """Change every matrix by the same rule."""

    def tamper(model: Any) -> None:
        with torch.no_grad():
            for _, weight in matrices(model):
                weight.copy_(change(weight))

    return tamper


def noise(relative: float) -> Tamper:
    """Add noise to every matrix, from seed 0."""

    def tamper(model: Any) -> None:
        each_matrix(partial(add_noise, relative=relative, draw=torch.Generator().manual_seed(0)))(model)

    return tamper


def prune_heads(model: Any, heads: int, layers: int | None = None) -> None:
    """Let the first heads count for nothing, in the middle layer if `layers` is 1, in all if it is None."""
    all_layers = list(model.base_model.layers)
    chosen = all_layers if layers is None else all_layers[len(all_layers) // 2 :][:layers]
    with torch.no_grad():
        for layer in chosen:
            layer.self_attn.o_proj.weight[:, : heads * layer.self_attn.head_dim] = 0.0


def redraw_layer(model: Any) -> None:
    """Draw the middle layer's matrices anew, each with its own standard deviation."""
    draw = torch.Generator().manual_seed(1)
    layer = f"{len(model.base_model.layers) // 2}."
    with torch.no_grad():
        for name, weight in matrices(model):
            if name.startswith(layer):
                weight.copy_(weight.std() * torch.randn(weight.shape, generator=draw))


def fine_tune(model: Any, steps: int) -> None:
    """Train on for some steps, at a twentieth of the rate that the model was trained with."""
    train(model, steps, learning_rate=1e-4)


def attacks(heads: int) -> list[Attack]:
    """All of them; `heads` is what the model has in a layer."""
    found = [Attack("weights in bf16", "rounding", each_matrix(bf16))]
    found += [
        Attack(f"FP8 e4m3, a scale a {'channel' if per_channel else 'tensor'}", "FP8", each_matrix(change))
        for per_channel in (True, False)
        for change in [partial(quantise_fp8, per_channel=per_channel)]
    ]
    int8 = partial(quantise_symmetric, bits=8, group=None)
    found.append(Attack("INT8, a scale a channel", "INT8", each_matrix(int8)))
    for group in (32, 64, 128):
        asymmetric = partial(quantise_asymmetric, bits=4, group=group)
        symmetric = partial(quantise_symmetric, bits=4, group=group)
        found.append(Attack(f"INT4, groups of {group}, asymmetric", "INT4", each_matrix(asymmetric)))
        found.append(Attack(f"INT4, groups of {group}, symmetric", "INT4", each_matrix(symmetric)))
    found += [
        Attack(
            f"{share:.0%} of the weights pruned", "pruned", each_matrix(partial(prune_magnitude, share=share))
        )
        for share in (0.1, 0.3, 0.5)
    ]
    half = max(1, heads // 2)
    found += [
        Attack("1 head of 1 layer pruned", "heads", partial(prune_heads, heads=1, layers=1)),
        Attack("1 head of each layer pruned", "heads", partial(prune_heads, heads=1)),
        Attack("half of the heads pruned", "heads", partial(prune_heads, heads=half)),
        Attack("1 layer redrawn", "layer", redraw_layer),
        Attack("trained on for 5 steps", "fine-tuned", partial(fine_tune, steps=5)),
        Attack("trained on for 20 steps", "fine-tuned", partial(fine_tune, steps=20)),
    ]
    found += [
        Attack(f"noise of {relative:g} on the weights", "noise", noise(relative))
        for relative in (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    ]
    return found


def distil(model: Any, layers: int, steps: int, *, input_scale: float, seq_len: int, batch_size: int) -> Any:
    """A shallower model that imitates the final hidden states, on inputs like those of a proof.

    It begins as the first layers of the model, the last one of which is the model's own last, with its final
    norm, and is trained by AdamW on the cosine between both outputs at every position. The inputs of training
    are those of no block, but of the very scale and length of the round's.

    Args:
        model: The teacher.
        layers: How many the student has.
        steps: Of training.
        input_scale: Of the inputs' elements, which are normal.
        seq_len: Rows of an input.
        batch_size: Inputs in a step.
    """
    student = copy.deepcopy(model)
    kept = list(student.base_model.layers)
    student.base_model.layers = torch.nn.ModuleList([*kept[: layers - 1], kept[-1]])
    student.config.num_hidden_layers = layers
    optimiser = torch.optim.AdamW(student.base_model.parameters(), lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, 1.2 * (1 - step / steps)))
    draw = torch.Generator().manual_seed(2)
    student.train()
    for _ in range(steps):
        inputs = input_scale * torch.randn((batch_size, seq_len, model.config.hidden_size), generator=draw)
        positions = torch.arange(seq_len).expand(batch_size, -1)
        found = student.base_model(inputs_embeds=inputs, position_ids=positions, use_cache=False)
        with torch.no_grad():
            wanted = model.base_model(inputs_embeds=inputs, position_ids=positions, use_cache=False)
        similarity = functional.cosine_similarity(found.last_hidden_state, wanted.last_hidden_state, dim=-1)
        loss = 1 - similarity.mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.base_model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return student.eval()


def _grouped(weight: Tensor, group: int | None) -> Tensor:
    # The smallest model's rows are no multiple of every group.
    width = weight.shape[-1]
    grouped: Tensor = weight.unflatten(-1, (-1, width if group is None else math.gcd(group, width)))
    return grouped
