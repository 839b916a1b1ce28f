"""The embedding table between ranks: each row by the rank that has it, together what one rank would give."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

from hallmark.poc.engine.embedding_table import EmbeddingTable

WIDTH, ROWS = 16, 100
CPU = torch.device("cpu")


class Layer(VocabParallelEmbedding):  # type: ignore[misc]  # which mypy does not know
    """One rank's share of a table whose vocabulary is padded to 128 rows, without a group of ranks."""

    def __init__(self, rank: int = 0, ranks: int = 1, dtype: torch.dtype = torch.float32) -> None:
        nn.Module.__init__(self)
        each = 128 // ranks
        first, end = rank * each, min(ROWS, (rank + 1) * each)
        self.tp_size, self.embedding_dim, self.org_vocab_size = ranks, WIDTH, ROWS
        indices = SimpleNamespace(org_vocab_start_index=first, org_vocab_end_index=end)
        self.shard_indices: Any = indices
        self.weight = nn.Parameter(torch.zeros(each, WIDTH, dtype=dtype))
        self.weight.data[: end - first] = whole_table(dtype)[first:end]


def whole_table(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)


def table_of(
    *layers: nn.Module, vocabulary: int = ROWS, width: int = WIDTH, group: Any = None
) -> EmbeddingTable:
    config: Any = SimpleNamespace(
        get_vocab_size=lambda: vocabulary, get_hidden_size=lambda: width, dtype=torch.float32
    )
    return EmbeddingTable(nn.ModuleList(layers), config, group)


@pytest.mark.parametrize(
    ("vocabulary", "expected"), [(90, (90, ROWS)), (ROWS, (ROWS, ROWS)), (500, (ROWS, ROWS))]
)
def test_tokens_are_drawn_of_what_both_have(vocabulary: int, expected: tuple[int, int]) -> None:
    assert table_of(Layer(), vocabulary=vocabulary).vocabulary == expected


def test_without_one_table_the_configuration_is_believed() -> None:
    assert table_of(vocabulary=90).vocabulary == (90, 90)
    assert table_of(Layer(), Layer(), vocabulary=90).vocabulary == (90, 90)
    assert table_of().weight is None


def test_rows_of_another_width_are_no_inputs() -> None:
    table = table_of(Layer(), width=32)
    assert table.vocabulary == (0, 0)
    assert table.weight is None


def test_an_output_layer_is_no_table() -> None:
    class Head(ParallelLMHead):  # type: ignore[misc]  # which mypy does not know
        def __init__(self) -> None:
            nn.Module.__init__(self)

    layer = Layer()
    weight = table_of(Head(), layer).weight
    assert weight is not None
    assert weight.data_ptr() == layer.weight.data_ptr()


def test_a_table_of_another_dtype_or_without_weights_is_not_gathered_from() -> None:
    assert table_of(Layer(dtype=torch.float16)).weight is None
    quantised = Layer()
    del quantised.weight
    assert table_of(quantised).weight is None


def test_new_weights_are_what_is_gathered_from() -> None:
    layer = Layer()
    table = table_of(layer)
    layer.weight = nn.Parameter(torch.ones(128, WIDTH))
    weight = table.weight
    assert weight is not None
    assert bool((weight == 1).all())


class Group:
    """Ranks whose collective only notes what it is given."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def all_reduce(self, part: Tensor) -> Tensor:
        self.given.append(part)
        return part


@pytest.mark.parametrize("ranks", [2, 4])
def test_each_token_is_one_rank_s_and_together_they_are_the_whole_table_s(ranks: int) -> None:
    """With the last rows of the table, and with a rank that has none of the tokens."""
    tokens = torch.tensor([[0, 99, 31, 32, 63], [5, 5, 99, 40, 64]])
    group, found = Group(), []
    for rank in range(ranks):
        table = table_of(Layer(rank, ranks), group=group)
        weight = table.weight
        assert weight is not None
        found.append(table.look_up(weight, tokens, CPU))
    assert torch.equal(torch.stack(found).sum(dim=0), whole_table()[tokens])
    written = torch.stack([(part != 0).any(dim=1) for part in group.given])
    assert written.sum(dim=0).tolist() == [1] * 10


def test_a_rank_that_has_the_whole_table_asks_no_other() -> None:
    table, tokens = table_of(Layer()), torch.tensor([[0, 99], [5, 64]])
    weight = table.weight
    assert weight is not None
    assert table.rows(tokens, tokens).places is None
    assert torch.equal(table.look_up(weight, tokens, CPU), whole_table()[tokens])


def test_a_rank_without_any_of_the_tokens_has_no_rows() -> None:
    rows = table_of(Layer(1, 2)).rows(torch.tensor([[1, 2]]), torch.tensor([[1, 2]]))
    assert rows.tokens.numel() == 0
    assert rows.places is not None
    assert rows.places.numel() == 0
