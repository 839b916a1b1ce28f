"""How the inputs of a batch are made, and how all ranks get all of them.

With a projection three ways. Tokens whose embeddings are plain rows of the model's table: each rank projects
the rows that it has, and one collective adds the ranks' results up. Tokens that the model embeds by its own
function: the ranks look them up together, each projects those of its share of the nonces, and one more
collective gives all of them to all. Drawn inputs: each rank draws and projects those of its share. Without a
projection the model embeds tokens itself, and each rank draws all that is drawn.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hallmark.poc.engine.embedding_table import EmbeddingTable
from hallmark.poc.engine.forward import ModelForward
from hallmark.poc.engine.input_share import InputShare
from hallmark.poc.engine.rank_vote import RankVote
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.round_tensors import RoundTensors
from hallmark.poc.protocol.transfer import to_device

__all__ = ["BatchInputs", "PreparedInputs"]


class PreparedInputs(NamedTuple):
    """What a rank has of a batch's inputs before any collective.

    Attributes:
        tokens: int64 `[batch_size, seq_len]` on the device, what they are made of; None where they are drawn.
        part: what this rank has of them, projected; None where the model has yet to embed the tokens.
    """

    tokens: Tensor | None
    part: Tensor | None


class BatchInputs:
    """Makes a batch's inputs on one rank of several, or on the only one.

    Args:
        forward: the model's.
        table: its embedding table.
        share: which nonces are this rank's.
        rank_vote: the ranks' vote.
        device: where the model takes its inputs.

    Attributes:
        are_rows: whether embeddings are taken from the table, and not from the model's own function.
    """

    def __init__(
        self,
        forward: ModelForward,
        table: EmbeddingTable,
        share: InputShare,
        rank_vote: RankVote,
        device: torch.device,
    ) -> None:
        self._forward = forward
        self._table = table
        self._share = share
        self._rank_vote = rank_vote
        self._device = device
        self.are_rows = False

    def try_rows(self, at_once: int) -> None:
        """Take embeddings from the table from now on, if they are to the bit what the model makes of tokens.

        All rows are tried: a function may make something else of a few tokens.

        Args:
            at_once: how many tokens it may be asked for, a whole batch's.
        """
        weight = self._table.weight
        if weight is None:
            return
        _, rows = self._table.vocabulary

        def compare() -> bool:
            are_equal = True
            for first in range(0, rows, at_once):
                some = torch.arange(first, min(first + at_once, rows)).unsqueeze(0)
                own = self._forward.embed(to_device(some, self._device))
                are_equal &= torch.equal(self._table.look_up(weight, some, self._device), own)
            return are_equal

        are_equal = self._rank_vote.with_collectives("comparing embeddings", compare)
        self.are_rows = self._rank_vote.is_everywhere("comparing embeddings", are_equal)

    def prepare_tokens(self, tensors: RoundTensors, keys: Sequence[NonceKey]) -> PreparedInputs:
        """Draw the tokens alone, where a stage that is given the rest reads them."""
        are_read = tensors.reads_tokens and self._forward.reads_tokens
        return PreparedInputs(to_device(tensors.host_tokens(keys), self._device) if are_read else None, None)

    def prepare(self, tensors: RoundTensors, keys: Sequence[NonceKey]) -> PreparedInputs:
        """Do what needs no other rank.

        Args:
            tensors: the round's.
            keys: the nonces of a whole batch.
        """
        if not tensors.reads_tokens:
            # Drawing alone is faster on every rank than a collective.
            own = [keys[place] for place in self._share.places(len(keys))] if tensors.projects else keys
            return PreparedInputs(None, tensors.project(tensors.normal(own)))
        host_tokens = tensors.host_tokens(keys)
        tokens = to_device(host_tokens, self._device)
        weight = self._table.weight
        if not (self.are_rows and tensors.projects and weight is not None):
            return PreparedInputs(tokens, None)
        rows = self._table.rows(host_tokens, tokens)
        part = tensors.embed(weight, rows.tokens, rows.places, tokens.numel())
        return PreparedInputs(tokens, part.view(*tokens.shape, -1))

    def combine(self, tensors: RoundTensors, prepared: PreparedInputs) -> Tensor:
        """Give all ranks the inputs of all nonces, a collective where there are several.

        Returns:
            `[batch_size, seq_len, hidden_size]` in the model's dtype.
        """
        tokens, part = prepared
        if part is None and tokens is not None:
            part = self._forward.embed(tokens)
            if tensors.projects:
                part = self._share.gather(tensors.project(self._share.of(part)), tensors.batch_size)
            return part
        if part is None:
            raise ValueError("neither tokens nor inputs")
        if tokens is not None:
            return self._table.combine(part)
        return self._share.gather(part, tensors.batch_size) if tensors.projects else part
