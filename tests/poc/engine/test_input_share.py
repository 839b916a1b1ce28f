"""Ranks make the inputs of a batch together: every nonce once, in the batch's order, the same everywhere."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from hallmark.poc.engine.input_share import InputShare


@dataclass
class Ranks:
    """Ranks whose collective is done here, from what each of them would give."""

    world_size: int
    rank_in_group: int = 0
    shares: tuple[Tensor, ...] = ()

    def all_gather(self, input_: Tensor, dim: int) -> Tensor:
        assert torch.equal(input_, self.shares[self.rank_in_group])
        return torch.cat(self.shares, dim)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("nonces", [1, 2, 8, 9])
def test_every_nonce_is_made_once_and_all_ranks_have_all(ranks: int, nonces: int) -> None:
    inputs = torch.arange(nonces * 6.0).view(nonces, 2, 3)
    shares = tuple(InputShare(Ranks(ranks, rank)).of(inputs) for rank in range(ranks))
    assert len({len(share) for share in shares}) == 1, "a collective wants as many of each"
    assert sum(map(len, shares)) < nonces + ranks
    for rank in range(ranks):
        assert torch.equal(inputs[InputShare(Ranks(ranks, rank)).places(nonces)], shares[rank])
        assert torch.equal(InputShare(Ranks(ranks, rank, shares)).gather(shares[rank], nonces), inputs)


def test_a_single_rank_gathers_nothing() -> None:
    inputs = torch.zeros(2, 3, 4)
    assert InputShare(Ranks(1)).gather(inputs, 2) is inputs
