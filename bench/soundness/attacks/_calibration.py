"""What an attacker learns of the model beforehand from inputs of the round's own kind."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from _altered import BATCH_SIZE, calibration_inputs, layers_of, matrices_of, with_weights
from torch import Tensor, nn

from hallmark.poc.offline.model import OfflineModel, final_hidden


@dataclass(frozen=True, slots=True)
class Passage:
    """What layers were given and gave, over all sequences.

    Attributes:
        states: fp32 [sequences, rows, D] before each layer, and last what the last layer gave.
        arguments: What else the layers were given for a batch of `BATCH_SIZE` sequences, layer by layer.
    """

    states: list[Tensor]
    arguments: list[dict[str, Any]]


class Attacker:
    """A model, and what an attacker learns of it before the block, each when it is asked for first.

    Args:
        model: Unaltered.
        sequences: Of 64 rows, to learn from.

    Attributes:
        matrices: `matrices_of` the model.
        layers: Its decoder layers.
    """

    def __init__(self, model: OfflineModel, sequences: int) -> None:
        self.model = model
        self.matrices = matrices_of(model)
        self.layers = layers_of(model)
        self._sequences = sequences

    @cached_property
    def inputs(self) -> Tensor:
        """Inputs of earlier blocks, [sequences, 64, D]."""
        return calibration_inputs(self.model, self._sequences)

    @cached_property
    def moments(self) -> dict[nn.Linear, Tensor]:
        """Σ xxᵀ of what each matrix is given."""
        return second_moments(self.model, self.inputs)

    @cached_property
    def taught(self) -> Passage:
        """The model's states on the inputs."""
        return passage(self.model, self.inputs)

    def changed(
        self, change: Callable[[Tensor, Tensor], Tensor], kinds: Iterable[str] = ("",)
    ) -> AbstractContextManager[None]:
        """Change matrices of the layers.

        Args:
            change: From a matrix, [outputs, inputs], and Σ xxᵀ of its inputs to another one.
            kinds: How the names of those end that are changed; all by default.
        """
        chosen = [module for name, module in self.matrices.items() if name.endswith(tuple(kinds))]
        return with_weights({each: change(each.weight.data, self.moments[each]) for each in chosen})


def second_moments(model: OfflineModel, inputs: Tensor) -> dict[nn.Linear, Tensor]:
    """Return Σ xxᵀ of what each linear map of the layers is given: fp32 [inputs, inputs].

    Args:
        model: Unaltered.
        inputs: [sequences, rows, D].
    """
    found = {
        module: torch.zeros(module.in_features, module.in_features) for module in matrices_of(model).values()
    }

    def add(module: nn.Linear, given: tuple[Tensor]) -> None:
        x = given[0].flatten(0, -2)
        found[module] += x.T @ x

    hooks = [module.register_forward_pre_hook(add) for module in found]
    _run(model, inputs, hooks)
    return found


def passage(model: OfflineModel, inputs: Tensor) -> Passage:
    """Run inputs, [sequences, rows, D] with whole batches of sequences, and keep what passes the layers."""
    layers = layers_of(model)
    states: list[list[Tensor]] = [[] for _ in range(len(layers) + 1)]
    arguments: list[dict[str, Any]] = [{} for _ in layers]

    def keep(place: int) -> Any:
        def kept(_: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any], returned: Tensor) -> None:
            states[place].append(given[0])
            arguments[place] = named
            if place + 1 == len(layers):
                states[-1].append(returned)

        return kept

    hooks = [layer.register_forward_hook(keep(i), with_kwargs=True) for i, layer in enumerate(layers)]
    _run(model, inputs, hooks)
    # Copies, which unlike the tensors of inference mode may take part in training.
    return Passage([torch.cat(parts).clone() for parts in states], [_copied(each) for each in arguments])


def _run(model: OfflineModel, inputs: Tensor, hooks: Iterable[Any]) -> None:
    for batch in torch.split(inputs, BATCH_SIZE):
        final_hidden(model.model, inputs=batch)
    for hook in hooks:
        hook.remove()


def _copied(named: dict[str, Any]) -> dict[str, Any]:
    """Copy tensors, also in tuples."""
    return {
        key: value.clone()
        if isinstance(value, Tensor)
        else tuple(part.clone() for part in value)
        if isinstance(value, tuple)
        else value
        for key, value in named.items()
    }
