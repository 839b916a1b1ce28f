"""Parts of a model that return what is kept by token, in the place of what they would compute."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from _altered import BATCH_SIZE, layers_of, with_forward
from torch import Tensor, nn

from hallmark.poc.offline.model import OfflineModel, final_hidden
from hallmark.poc.protocol.round_spec import RoundSpec
from hallmark.poc.protocol.round_tensors import RoundTensors

Lookup = Callable[[Tensor], Tensor]
"""From tokens, int64 [n, rows], to what a part of the model returns for them, [n, rows, F]."""


class ExactTable:
    """What linear maps of the first layer return for tokens, one table each, as they compute it.

    Args:
        model: The model.
        spec: The round, whose block gives P: a table lasts one block.
        tokens: int64, those that are kept.
    """

    def __init__(self, model: OfflineModel, spec: RoundSpec, tokens: Tensor) -> None:
        self._model = model
        self._tokens: Tensor = torch.unique(tokens)
        projected = RoundTensors(spec, model.torch_dtype, model.device).project(model.embed(self._tokens))
        with torch.inference_mode():
            self._normed = layers_of(model)[0].input_layernorm(projected)

    def lookups(self) -> dict[nn.Module, Lookup]:
        """Return the tables of q, k and v."""
        attention = layers_of(self._model)[0].self_attn
        return {each: self._lookup(each) for each in (attention.q_proj, attention.k_proj, attention.v_proj)}

    def _lookup(self, module: nn.Module) -> Lookup:
        with torch.inference_mode():
            table: Tensor = module(self._normed)
        return lambda tokens: table[torch.searchsorted(self._tokens, tokens)]


def first_row_lookups(outputs: Mapping[nn.Module, Tensor]) -> dict[nn.Module, Lookup]:
    """Return lookups that give row 0 of a sequence, whatever the tokens.

    Args:
        outputs: What parts returned for one or more sequences that begin with the same token, [n, rows, F].
    """

    def lookup(row: Tensor) -> Lookup:
        return lambda tokens: row.expand(*tokens.shape, -1)

    return {module: lookup(states[0, 0]) for module, states in outputs.items()}


def final_from_tables(
    model: OfflineModel,
    spec: RoundSpec,
    tokens: Tensor,
    lookups: Mapping[nn.Module, Lookup],
    rows: slice = slice(None),
) -> Tensor:
    """Run nonces with parts of the model replaced by lookups.

    Args:
        model: The model.
        spec: The round.
        tokens: int64 [n, rows].
        lookups: The parts; of a tuple that one returns, the first is replaced.
        rows: In which rows; the others are what the part computes, of rows before them alone.

    Returns:
        Final hidden states, [n, rows, D].
    """
    tensors = RoundTensors(spec, model.torch_dtype, model.device)
    found = []
    for batch in torch.split(tokens, BATCH_SIZE):
        with ExitStack() as stack:
            for module, lookup in lookups.items():
                make = partial(_looked_up, looked_up=lookup(batch), rows=rows)
                stack.enter_context(with_forward(module, make))
            found.append(final_hidden(model.model, inputs=tensors.project(model.embed(batch))))
    return torch.cat(found)


def _looked_up(own: Callable[..., Any], *, looked_up: Tensor, rows: slice) -> Callable[..., Any]:
    """Return a forward that computes what a part computes and puts other values into some rows of it."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        returned = own(*args, **kwargs)
        states = (returned[0] if isinstance(returned, tuple) else returned).clone()
        states[:, rows] = looked_up[:, rows]
        return (states, *returned[1:]) if isinstance(returned, tuple) else states

    return forward
