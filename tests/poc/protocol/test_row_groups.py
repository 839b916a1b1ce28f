"""Groups of rows: each row that is read in one of them, balanced, in the order of the random words."""

import independent_verifier
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hallmark.kernels.draw_normals import streams_tensor
from hallmark.kernels.norm_sums import norm_sums_reference
from hallmark.poc.protocol import row_groups
from hallmark.poc.protocol.row_groups import row_order
from hallmark.poc.protocol.streams import Stream

WORD = st.integers(0, 2**32 - 1)
NAME = st.builds(Stream, WORD, WORD, WORD, WORD)


def signs_of_rows(names: list[Stream], numbers: int, seq_len: int) -> Tensor:
    """[names, numbers, seq_len]: with which sign each number counts which row, by sums of unit vectors."""
    order = row_order(streams_tensor(names), seq_len).int()
    return norm_sums_reference(torch.eye(seq_len).repeat(len(names), 1), None, order, numbers)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int]:
    """(seq_len, numbers) that a round may have."""
    seq_len = 2 * draw(st.integers(5, 150))
    return seq_len, draw(st.integers(1, (seq_len - 8) // 2))


@settings(max_examples=200, deadline=None)
@given(names=st.lists(NAME, min_size=1, max_size=3), shape=shapes())
def test_each_row_that_is_read_is_in_exactly_one_balanced_group(
    names: list[Stream], shape: tuple[int, int]
) -> None:
    seq_len, numbers = shape
    matrix = signs_of_rows(names, numbers, seq_len)
    assert matrix.shape == (len(names), numbers, seq_len)
    assert matrix.dtype == torch.float32
    assert set(matrix.flatten().tolist()) <= {-1.0, 0.0, 1.0}
    groups_of_a_row = matrix.abs().sum(dim=1)
    assert not bool(groups_of_a_row[:, :8].any()), "rows 0 to 7 are not read"
    assert bool((groups_of_a_row[:, 8:] == 1).all())
    assert not bool(matrix.sum(dim=2).any()), "as many plus as minus"
    pairs = matrix.abs().sum(dim=2) / 2
    assert bool((pairs >= 1).all())
    assert float(pairs.max() - pairs.min()) <= 1, "groups differ by one pair at most"


@settings(max_examples=200, deadline=None)
@given(name=NAME, shape=shapes())
def test_groups_are_those_of_a_plain_sort(name: Stream, shape: tuple[int, int]) -> None:
    seq_len, numbers = shape
    order = row_order(streams_tensor([name]), seq_len)
    keys = independent_verifier.words(name, seq_len - 8)
    assert order[0].tolist() == sorted(range(8, seq_len), key=lambda row: (keys[row - 8], row))
    matrix = signs_of_rows([name], numbers, seq_len)[0]
    for row, (group, sign) in enumerate(independent_verifier.groups(name, seq_len, numbers), start=8):
        assert matrix[:, row].tolist() == [float(sign) if j == group else 0.0 for j in range(numbers)]


@settings(max_examples=100, deadline=None)
@given(keys=st.lists(st.sampled_from([0, 1, 2, 2**32 - 2, 2**32 - 1]), min_size=2, max_size=40))
def test_rows_with_the_same_word_keep_their_order(keys: list[int]) -> None:
    def few_words(streams: Tensor, count: int) -> Tensor:
        return torch.tensor([keys[:count]])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_groups, "draw_words", few_words)
        order = row_order(streams_tensor([(1, 2, 3, 4)]), len(keys) + 8)
    assert order[0].tolist() == sorted(range(8, len(keys) + 8), key=lambda row: (keys[row - 8], row))


def test_a_nonce_does_not_depend_on_its_neighbours() -> None:
    names = [(1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12)]
    alone = [row_order(streams_tensor([name]), 64) for name in names]
    assert torch.equal(row_order(streams_tensor(names), 64), torch.cat(alone))


def test_two_rows_are_a_group_as_often_as_any_other_two() -> None:
    """Over 4,000 nonces of 14 rows and three groups of one pair each: 1 pair in 15, and each sign half."""
    names = [(nonce, 0, 0, 0) for nonce in range(4000)]
    order = row_order(streams_tensor(names), 14) - 8
    counts = torch.zeros(6, 6)
    counts.index_put_((order[:, 0], order[:, 1]), torch.ones(len(order)), accumulate=True)
    expected = len(names) / 30
    assert not bool(counts.diagonal().any())
    apart = (counts + expected * torch.eye(6) - expected).abs()
    assert float(apart.max()) < 4.5 * expected**0.5
