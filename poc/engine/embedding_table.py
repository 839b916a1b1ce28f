"""The model's embedding table, as far as this rank has it: its vocabulary is divided between ranks."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from vllm.config import ModelConfig
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

from hallmark.poc.protocol.transfer import to_device

__all__ = ["EmbeddingTable", "TableRows"]


class TableRows(NamedTuple):
    """Which rows of a rank's share of the table some tokens are.

    Attributes:
        tokens: int64 `[m]` on the device, rows of the share.
        places: int64 `[m]` on the device, which of all tokens these are; None where all of them are.
    """

    tokens: Tensor
    places: Tensor | None


class EmbeddingTable:
    """The one embedding table of a model, if it has one.

    Args:
        model: As vLLM loaded it.
        config: Its configuration.
        group: vLLM's group of the tensor-parallel ranks.
    """

    def __init__(self, model: nn.Module, config: ModelConfig, group: Any) -> None:
        tables = [
            module
            for module in model.modules()
            if isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead)
        ]
        self._layer: Any = tables[0] if len(tables) == 1 else None
        self._config = config
        self._group = group

    @property
    def vocabulary(self) -> tuple[int, int]:
        """How many tokens there are rows for, and how many rows there are; no padding.

        The first is 0 where rows are of another width than the hidden state.
        """
        vocabulary = int(self._config.get_vocab_size())
        if self._layer is None:
            return vocabulary, vocabulary
        if self._layer.embedding_dim != self._config.get_hidden_size():
            return 0, 0
        rows = int(self._layer.org_vocab_size)
        return min(vocabulary, rows), rows

    @property
    def weight(self) -> Tensor | None:
        """This rank's rows, in the model's dtype; None where they are no plain matrix of it.

        New weights may be another tensor: it is not to be kept.
        """
        weight = None if self._layer is None else getattr(self._layer, "weight", None)
        width, dtype = self._config.get_hidden_size(), self._config.dtype
        if not isinstance(weight, Tensor) or weight.dtype != dtype or weight.shape[1:] != (width,):
            return None
        return weight.data

    @property
    def _is_divided(self) -> bool:
        return int(self._layer.tp_size) > 1

    def rows(self, host_tokens: Tensor, tokens: Tensor) -> TableRows:
        """Say which of some tokens this rank has the rows of.

        Args:
            host_tokens: int64, on the host.
            tokens: The same on the device.
        """
        if not self._is_divided:
            return TableRows(tokens.reshape(-1), None)
        shard, flat = self._layer.shard_indices, host_tokens.reshape(-1)
        first, end = int(shard.org_vocab_start_index), int(shard.org_vocab_end_index)
        places = ((flat >= first) & (flat < end)).nonzero().squeeze(1)
        return TableRows(to_device(flat[places] - first, tokens.device), to_device(places, tokens.device))

    def combine(self, part: Tensor) -> Tensor:
        """Add up what the ranks have made of their rows, each row by one of them: a collective.

        Args:
            part: Of the same shape on each rank, zeros in the rows of others.

        Returns:
            The sum, exact but for the sign of zeros; where every rank has the whole table, the rank's own.
        """
        if not self._is_divided:
            return part
        combined: Tensor = self._group.all_reduce(part)
        return combined

    def look_up(self, weight: Tensor, host_tokens: Tensor, device: torch.device) -> Tensor:
        """Look tokens up in the table itself, a collective.

        Args:
            weight: This rank's rows.
            host_tokens: int64, on the host.
            device: Where the rows are.

        Returns:
            The shape of the tokens and `[hidden_size]`.
        """
        rows = self.rows(host_tokens, to_device(host_tokens, device))
        found = weight[rows.tokens]
        if rows.places is not None:
            part = weight.new_zeros((host_tokens.numel(), weight.shape[1]))
            found = self.combine(part.index_copy_(0, rows.places, found))
        return found.view(*host_tokens.shape, -1)
