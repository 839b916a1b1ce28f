"""Ranks make the inputs of a batch together: every nonce once, in the batch's order, the same everywhere."""

from dataclasses import dataclass

import pytest
import torch
from rounds import make_round
from torch import Tensor

from hallmark.poc.engine.input_share import InputShare
from hallmark.poc.protocol.round_tensors import RoundTensors


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
    keys = [("key", nonce) for nonce in range(nonces)]
    tensors = RoundTensors(make_round(batch_size=nonces, seq_len=4).spec(), torch.float32, "cpu")
    # Each nonce by itself: on a CPU another number of rows may be added in another order.
    one_by_one = [tensors.some_inputs([key])[0] for key in keys]
    own = [InputShare(Ranks(ranks, rank)).of(keys) for rank in range(ranks)]
    assert len({len(share) for share in own}) == 1, "a collective wants as many of each"
    assert sum(map(len, own)) < nonces + ranks
    shares = tuple(torch.stack([one_by_one[nonce] for _, nonce in share]) for share in own)
    for rank in range(ranks):
        inputs = InputShare(Ranks(ranks, rank, shares)).gather(shares[rank], nonces)
        assert torch.equal(inputs, torch.stack(one_by_one))


def test_a_single_rank_gathers_nothing() -> None:
    inputs = torch.zeros(2, 3, 4)
    assert InputShare(Ranks(1)).gather(inputs, 2) is inputs
