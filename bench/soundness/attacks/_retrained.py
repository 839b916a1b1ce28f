"""Weights that were trained further: students of fewer layers, fine-tuned models, low-rank changes."""

from collections.abc import Sequence

import torch
from _altered import BATCH_SIZE, layers_of, matrices_of
from _calibration import Passage
from torch import Tensor, nn

from hallmark.poc.offline.model import OfflineModel


def student(
    model: OfflineModel, taught: Passage, left_out: Sequence[int], *, steps: int, rate: float
) -> dict[nn.Linear, Tensor]:
    """Train the layer before each one that is left out to give what that one gave.

    Args:
        model: The teacher.
        taught: Its states.
        left_out: Layers that the student does not have; none is layer 0, no two follow one another.
        steps: Of AdamW, for each, on `BATCH_SIZE` sequences; by the squared error of the states.
        rate: The first of the learning rates, which fall to 0 along a cosine.

    Returns:
        The trained matrices. The model's own are as they were.
    """
    found: dict[nn.Linear, Tensor] = {}
    for place in left_out:
        layer = layers_of(model)[place - 1]
        matrices = [module for module in layer.modules() if isinstance(module, nn.Linear)]
        own = {module: module.weight.data for module in matrices}
        for module in matrices:
            module.weight.data = module.weight.data.clone()
        optimiser = torch.optim.AdamW([module.weight for module in matrices], lr=rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        given = torch.split(taught.states[place - 1], BATCH_SIZE)
        wanted = torch.split(taught.states[place + 1], BATCH_SIZE)
        for step in range(steps):
            i = step % len(given)
            off = layer(given[i], **taught.arguments[place - 1]) - wanted[i]
            # Rows that are huge everywhere, as the first often is, would drown the others.
            loss = (off.square().sum(-1) / wanted[i].square().sum(-1)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        found |= {module: module.weight.data for module in matrices}
        for module, weight in own.items():
            module.weight.data = weight
            module.weight.grad = None
    return found


def fine_tuned(model: OfflineModel, *, steps: int, rate: float, seed: int = 0) -> dict[nn.Linear, Tensor]:
    """Train all matrices of the layers for a few steps to continue repeated random tokens.

    Args:
        model: The deployed one.
        steps: Of AdamW, each on `BATCH_SIZE` sequences of 64 tokens, 16 that are repeated.
        rate: The learning rate.
        seed: Of the tokens.

    Returns:
        The trained matrices. The model's own are as they were.
    """
    draw = torch.Generator().manual_seed(seed)
    matrices = list(matrices_of(model).values())
    trained = {id(module.weight) for module in matrices}
    parameters = list(model.model.parameters())
    own = {module: module.weight.data for module in matrices}
    for parameter in parameters:
        parameter.requires_grad_(id(parameter) in trained)
    for module in matrices:
        module.weight.data = module.weight.data.clone()
    optimiser = torch.optim.AdamW([module.weight for module in matrices], lr=rate, weight_decay=0.0)
    for _ in range(steps):
        tokens = torch.randint(model.deployed("", 1).vocabulary, (BATCH_SIZE, 16), generator=draw).repeat(
            1, 4
        )
        loss = model.model(input_ids=tokens, labels=tokens, use_cache=False).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = {module: module.weight.data for module in matrices}
    for module, weight in own.items():
        module.weight.data = weight
    for parameter in parameters:
        parameter.grad = None
        parameter.requires_grad_(True)
    return found


def low_rank_change(weight: Tensor, rank: int, size: float, draw: torch.Generator) -> Tensor:
    """Add a random product of two thin matrices, whose norm is a share `size` of the weight's own."""
    outputs, inputs = weight.shape
    change = torch.randn(outputs, rank, generator=draw) @ torch.randn(rank, inputs, generator=draw)
    return weight + change * float(size * weight.norm() / change.norm())
