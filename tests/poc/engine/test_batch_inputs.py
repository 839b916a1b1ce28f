"""A batch's inputs on several ranks: the same on each of them, and the same whichever way they are made."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import make_round
from torch import Tensor, nn
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

from hallmark.poc.engine.batch_inputs import BatchInputs
from hallmark.poc.engine.embedding_table import EmbeddingTable
from hallmark.poc.engine.input_share import InputShare
from hallmark.poc.engine.rank_vote import RankVote
from hallmark.poc.protocol.round_tensors import RoundTensors

WIDTH, VOCABULARY, NONCES = 256, 4096, 5
KEYS = [("key", nonce) for nonce in range(NONCES)]
CPU = torch.device("cpu")
TABLE = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(1)).bfloat16()


class Shard(VocabParallelEmbedding):  # type: ignore[misc]  # which mypy does not know
    """One rank's rows of the table."""

    def __init__(self, rank: int, ranks: int) -> None:
        nn.Module.__init__(self)
        each = VOCABULARY // ranks
        self.tp_size, self.embedding_dim, self.org_vocab_size = ranks, WIDTH, VOCABULARY
        self.shard_indices: Any = SimpleNamespace(
            org_vocab_start_index=rank * each, org_vocab_end_index=(rank + 1) * each
        )
        self.weight = nn.Parameter(TABLE[rank * each : (rank + 1) * each], requires_grad=False)


@dataclass
class Group:
    """One rank of some; its collectives are done here, on what each rank would give."""

    world_size: int
    rank_in_group: int
    given: tuple[Tensor, ...] = ()

    def all_gather(self, input_: Tensor, dim: int) -> Tensor:
        return torch.cat(self.given, dim)

    def all_reduce(self, input_: Tensor) -> Tensor:
        return torch.stack(self.given).sum(dim=0)


def ranks_of(
    ranks: int, embed: Callable[[Tensor], Tensor], *, are_rows: bool
) -> list[tuple[BatchInputs, Group]]:
    config: Any = SimpleNamespace(
        get_vocab_size=lambda: VOCABULARY, get_hidden_size=lambda: WIDTH, dtype=torch.bfloat16
    )
    forward: Any = SimpleNamespace(embed=embed)
    vote = RankVote(None, timedelta(seconds=1))
    found = []
    for rank in range(ranks):
        group = Group(ranks, rank)
        table = EmbeddingTable(nn.ModuleList([Shard(rank, ranks)]), config, group)
        inputs = BatchInputs(forward, table, InputShare(group), vote, CPU)
        inputs.are_rows = are_rows
        found.append((inputs, group))
    return found


def look_up(tokens: Tensor) -> Tensor:
    """What the model's own embedding function returns, on every rank."""
    return TABLE[tokens]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("are_rows", [True, False])
@pytest.mark.parametrize(
    "settings",
    [{}, {"use_random_projection": False, "inputs": "tokens"}, {"inputs": "normal"}],
    ids=["tokens", "not projected", "normal"],
)
def test_all_ranks_get_the_inputs_of_all_nonces(ranks: int, are_rows: bool, settings: dict[str, Any]) -> None:
    spec = make_round(**{"batch_size": NONCES, "seq_len": 32, **settings}).spec()
    tensors = RoundTensors(spec, torch.bfloat16, CPU)
    drawn = look_up(tensors.tokens(KEYS)) if tensors.reads_tokens else tensors.normal(KEYS)
    expected = tensors.project(drawn)
    made = ranks_of(ranks, look_up, are_rows=are_rows)
    prepared = [inputs.prepare(tensors, KEYS) for inputs, _ in made]
    parts = [part for _, part in prepared if part is not None]
    if not parts and tensors.projects:  # each projects its share of what the ranks have looked up together
        parts = [tensors.project(InputShare(group).of(drawn)) for _, group in made]
    for (inputs, group), own in zip(made, prepared, strict=True):
        group.given = tuple(parts)
        found = inputs.combine(tensors, own)
        assert found.shape == (NONCES, 32, WIDTH)
        # Products of other shapes may add in another order on a CPU.
        torch.testing.assert_close(found, expected, rtol=2.0**-7, atol=1e-5)


def test_each_rank_projects_its_own_rows_only() -> None:
    tensors = RoundTensors(make_round(batch_size=NONCES, seq_len=32).spec(), torch.bfloat16, CPU)
    parts = [inputs.prepare(tensors, KEYS).part for inputs, _ in ranks_of(4, look_up, are_rows=True)]
    written = torch.stack([(part != 0).any(dim=2) for part in parts if part is not None])
    assert bool((written.sum(dim=0) == 1).all())
    assert bool(written.flatten(1).any(dim=1).all())


@pytest.mark.parametrize(
    ("embed", "are_rows"),
    [
        (look_up, True),
        (lambda tokens: 16 * TABLE[tokens], False),
        (lambda tokens: TABLE[tokens] * (tokens != VOCABULARY - 1).unsqueeze(-1), False),
    ],
    ids=["rows", "multiplied", "all but the last"],
)
def test_rows_are_taken_where_they_are_what_the_model_makes_of_tokens(
    embed: Callable[[Tensor], Tensor], are_rows: bool
) -> None:
    """Gemma multiplies them; another may make something of a single token."""
    [(inputs, _)] = ranks_of(1, embed, are_rows=False)
    inputs.try_rows(1000)
    assert inputs.are_rows is are_rows


def test_rows_that_one_rank_does_not_have_are_taken_on_none(monkeypatch: pytest.MonkeyPatch) -> None:
    [(inputs, _)] = ranks_of(1, look_up, are_rows=False)
    monkeypatch.setattr(inputs._rank_vote, "_vote", lambda succeeded, step: (1, 2))
    monkeypatch.setattr(inputs._rank_vote, "with_collectives", lambda step, action: action())
    inputs.try_rows(1000)
    assert not inputs.are_rows
