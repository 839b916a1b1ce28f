"""Parts of a forward that are left out or replaced; each is a context in which the loaded model is altered.

Rows are named by a selection of positions: a slice, the same for all nonces, or a function that is asked in
each batch for a bool [nonces, rows].
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from _altered import BATCH_SIZE, Deployed, Forward, together, with_forward
from torch import Tensor, nn

from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.round_tensors import RoundTensors, pad_keys

UNREAD: Final = 8
"""Rows that the readout never reads, at the beginning."""

Selection = slice | Callable[[], Tensor]
Mask = Callable[[Tensor], Tensor]
"""From what attention adds to its scores, [..., queries, keys], to what it adds instead."""


def _of(selection: Selection) -> Any:
    """Return an index of rows in [nonces, rows, ...]."""
    return (slice(None), selection) if isinstance(selection, slice) else selection()


def without_layers(layers: Sequence[Any], places: Sequence[int]) -> AbstractContextManager[None]:
    """Leave layers out."""
    return together(*(with_forward(layers[i], _identity) for i in places))


def _identity(_: Forward) -> Forward:
    return lambda hidden_states, *_, **__: hidden_states


def stopped(layers: Sequence[Any], count: int, rows: Selection) -> AbstractContextManager[None]:
    """Keep the state that rows have before the last so many layers; keys and values are made of that."""

    def make(own: Forward) -> Forward:
        def forward(hidden_states: Tensor, *more: Any, **named: Any) -> Tensor:
            given = hidden_states.clone()
            returned: Tensor = own(hidden_states, *more, **named)
            chosen = _of(rows)
            returned[chosen] = given[chosen]
            return returned

        return forward

    return together(*(with_forward(layer, make) for layer in layers[len(layers) - count :]))


def without_mlp(layers: Sequence[Any], rows: Selection) -> AbstractContextManager[None]:
    """Add nothing of the MLP to some rows."""

    def make(own: Forward) -> Forward:
        def forward(x: Tensor) -> Tensor:
            returned: Tensor = own(x)
            returned[_of(rows)] = 0.0
            return returned

        return forward

    return together(*(with_forward(layer.mlp, make) for layer in layers))


def masked(layers: Sequence[Any], mask: Mask) -> AbstractContextManager[None]:
    """Let attention see fewer keys."""

    def make(own: Forward) -> Forward:
        def forward(*given: Any, attention_mask: Tensor, **named: Any) -> Any:
            return own(*given, attention_mask=mask(attention_mask), **named)

        return forward

    return together(*(with_forward(layer, make) for layer in layers))


def window(size: int, sinks: int) -> Mask:
    """See the latest keys, the own one included, and the first ones."""

    def mask(added: Tensor) -> Tensor:
        query = torch.arange(added.shape[-2]).unsqueeze(1)
        key = torch.arange(added.shape[-1])
        return _blocked(added, (query - key >= size) & (key >= sinks))

    return mask


def early_keys(count: int) -> Mask:
    """See the first keys only: rows after them have none of their own."""
    return lambda added: _blocked(added, torch.arange(added.shape[-1]) >= count)


def _blocked(added: Tensor, blocked: Tensor) -> Tensor:
    return added.masked_fill(blocked, torch.finfo(added.dtype).min)


def top_neurons(layers: Sequence[Any], kept: float) -> AbstractContextManager[None]:
    """Keep only the neurons of an MLP whose gates are largest, token by token; gates are all computed."""

    def make_for(mlp: Any) -> Callable[[Forward], Forward]:
        def forward(x: Tensor) -> Any:
            gates = mlp.act_fn(mlp.gate_proj(x))
            chosen = gates.abs().topk(round(kept * gates.shape[-1]), dim=-1).indices
            return mlp.down_proj(
                torch.zeros_like(gates).scatter(-1, chosen, gates.gather(-1, chosen)) * mlp.up_proj(x)
            )

        return lambda _: forward

    return together(*(with_forward(layer.mlp, make_for(layer.mlp)) for layer in layers))


def without_least_inputs(weight: Tensor, moments: Tensor, share: float) -> Tensor:
    """Set whole inputs of a matrix to zero, those that add least to its outputs.

    Args:
        weight: [outputs, inputs].
        moments: Σ xxᵀ of the inputs that it is calibrated on, [inputs, inputs].
        share: Of the inputs.
    """
    count = round(share * weight.shape[1])
    return weight.index_fill(1, input_scores(weight, moments).topk(count, largest=False).indices, 0.0)


def input_scores(weight: Tensor, moments: Tensor) -> Tensor:
    """Mean square of what each input adds to the outputs, up to a factor: [inputs]."""
    return weight.square().sum(0) * moments.diagonal()


def low_rank(weight: Tensor, moments: Tensor, kept: float) -> Tensor:
    """Replace a matrix by a product of two thin ones that cost a share `kept` of it.

    The product has the least error on the inputs whose second moments are given: an SVD of W·S, Σ xxᵀ = S·Sᵀ.
    """
    outputs, inputs = weight.shape
    rank = max(1, int(kept * outputs * inputs / (outputs + inputs)))
    damping = 1e-4 * moments.diagonal().mean() * torch.eye(inputs)
    root = torch.linalg.cholesky(moments + damping)
    left, sizes, right = torch.linalg.svd(weight @ root, full_matrices=False)
    thin = torch.linalg.solve_triangular(root, right[:rank], upper=False, left=False)
    found: Tensor = (left[:, :rank] * sizes[:rank]) @ thin
    return found


def without_heads(attention: Any, moments: Tensor, count: int) -> dict[nn.Linear, Tensor]:
    """Return the output matrix of an attention without the heads that add least to it."""
    matrix: nn.Linear = attention.o_proj
    weight = matrix.weight.data
    heads = matrix.in_features // attention.head_dim
    scores = input_scores(weight, moments).view(heads, -1).sum(1)
    dropped = torch.zeros(heads, dtype=torch.bool)
    dropped[scores.topk(count, largest=False).indices] = True
    return {matrix: weight.masked_fill(dropped.repeat_interleave(attention.head_dim), 0.0)}


def with_linear_map(
    layers: Sequence[Any], first: int, last: int, given: Tensor, wanted: Tensor
) -> AbstractContextManager[None]:
    """Replace layers by one linear map with a bias, for rows from row 8 on, fitted by least squares.

    The rows before go the model's way: there are few of them, none is read, and other rows look at them.

    Args:
        layers: Of the model.
        first: The first layer that is replaced.
        last: The last one.
        given: States before the first, [sequences, rows, D].
        wanted: States after the last.
    """
    x, y = (states[:, UNREAD:].flatten(0, 1).double() for states in (given, wanted))
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    moments = x.T @ x
    ridge = 1e-3 * moments.diagonal().mean() * torch.eye(len(moments), dtype=x.dtype)
    # From what the state changes by: a ridge draws towards leaving it as it is.
    fitted = torch.linalg.solve(moments + ridge, x.T @ (y - x[:, :-1])).float()

    def mapped(own: Forward) -> Forward:
        def forward(hidden_states: Tensor, *more: Any, **named: Any) -> Tensor:
            late = hidden_states[:, UNREAD:]
            late = late + late @ fitted[:-1] + fitted[-1]
            returned: Tensor = own(hidden_states, *more, **named)
            returned[:, UNREAD:] = late
            return returned

        return forward

    rest = [stopped([layers[i]], 1, slice(UNREAD, None)) for i in range(first + 1, last + 1)]
    return together(with_forward(layers[first], mapped), *rest)


class ChosenRows:
    """Rows of each nonce that a prover chooses by their groups: it leaves out a share of each group's pairs.

    Args:
        deployed: Whose nonces run.
        share: Of the pairs of a + and a − in each group.
    """

    def __init__(self, deployed: Deployed, share: float) -> None:
        self._deployed = deployed
        self._share = share
        self._tensors = RoundTensors(deployed.round.spec(), torch.float32, "cpu")

    def __call__(self) -> Tensor:
        """Say which rows of the batch that runs are left out: bool [nonces, rows]."""
        round_ = self._deployed.round
        keys: list[NonceKey] = [(round_.config.public_key, nonce) for nonce in self._deployed.running]
        order = self._tensors.order(pad_keys(keys, BATCH_SIZE)).long()
        # Pairs follow each other in this order, and go to the groups in turns.
        first = 2 * round((1 - self._share) * order.shape[1] / 2)
        none = torch.zeros(BATCH_SIZE, round_.spec().seq_len, dtype=torch.bool)
        return none.scatter(1, order[:, first:], True)

    def unread(self) -> AbstractContextManager[None]:
        """Leave the rows out of the sums."""

        def make(own: Forward) -> Forward:
            def forward(x: Tensor) -> Tensor:
                returned: Tensor = own(x)
                returned[self()] = 0.0
                return returned

            return forward

        return with_forward(self._deployed.model.model.base_model.norm, make)

    def unseen(self, added: Tensor) -> Tensor:
        """Let no other row look at the rows: a `Mask`."""
        key = self()[:, None, None, :]
        own = torch.eye(added.shape[-1], dtype=torch.bool)
        return _blocked(added, key & ~own)
