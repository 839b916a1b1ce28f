"""What batches cover together."""

from dataclasses import replace

import pytest
from builders import BLOCK, KEY, make_batch

from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.verdict.sampling import covered_together, draw_sample, drawing_order, gaps


def covering(covered: tuple[int, int] | None, nonce: int = 0, node_id: int = 0) -> ProofBatch:
    """A batch that says from where to where of its node's walk it reaches."""
    return make_batch([nonce], covered=covered, node_id=node_id)


@pytest.mark.parametrize(
    ("batches", "length", "unstated"),
    [
        ([covering((0, 3), 1)], 4, 4),
        ([covering((4, 4), 4), covering((0, 3), 1)], 5, 5),
        ([covering((0, 3), 1), covering((0, 3), 1), covering((4, 7), 5)], 8, 8),
        ([covering((0, 3), 1), covering((3, 7), 5)], 8, None),
        ([covering((0, 3), 1), covering((0, 3), 2)], 4, None),
        ([covering((0, 3), 1), covering((5, 7), 5)], None, None),
        ([covering((0, 3), 1), covering(None, 5)], None, None),
    ],
    ids=["one", "in any order", "twice", "overlap", "other claims", "gap", "not said"],
)
def test_batches_that_leave_no_gap_cover_a_stretch_together(
    batches: list[ProofBatch], length: int | None, unstated: int | None
) -> None:
    """What overlaps counts once; of walks that are not known it may be other nonces."""
    assert covered_together(batches, 1, 1) == length
    assert covered_together(batches, None, 1) == unstated


def test_walks_of_several_nodes_and_groups_are_counted_apart() -> None:
    """Two nodes of two groups each: node 0 walks 0, 4, 8 and 2, 6, 10."""
    batches = [covering((0, 3), 8), covering((0, 1), 2), covering((2, 5), 22), covering((1, 1), 5, node_id=1)]
    assert covered_together(batches, 2, 2) == 4 + 6 + 1
    assert covered_together(batches, None, 2) is None
    assert covered_together([*batches, covering((7, 7), 30)], 2, 2) is None, "a gap in the second one"


def test_a_node_that_is_none_of_the_rounds_walks_a_nonce_of_another_once() -> None:
    """Node 2 of 2 walks 2, 4, 6, which are numbers 1 to 3 of node 0."""
    assert covered_together([covering((0, 3), 0), covering((0, 2), 2, node_id=2)], 2, 1) == 4
    assert covered_together([covering((0, 3), 0), covering((0, 4), 2, node_id=2)], 2, 1) == 6


def test_a_batch_of_failed_nonces_covers_what_it_says() -> None:
    failed = replace(covering((4, 7)), nonces=(), dist=(), failed_nonces=(4, 5))
    assert covered_together([covering((0, 3)), failed], 1, 1) == 8


@pytest.mark.parametrize(
    ("ranges", "between"),
    [
        ([], []),
        ([(3, 5)], []),
        ([(3, 5), (0, 2)], []),
        ([(0, 2), (4, 4), (9, 12)], [(3, 3), (5, 8)]),
        ([(0, 20), (3, 5), (22, 22)], [(21, 21)]),
    ],
)
def test_gaps_lie_between_what_is_covered(
    ranges: list[tuple[int, int]], between: list[tuple[int, int]]
) -> None:
    assert [*gaps(ranges)] == between


def test_the_sample_of_a_batch_is_the_first_of_the_order() -> None:
    proof = make_batch(range(50))
    order = drawing_order(proof.nonces, "s", BLOCK, KEY)
    assert sorted(order) == list(range(50))
    for count in (1, 7, 50, 99):
        assert set(draw_sample(proof, count, "s")) == set(order[:count])


def test_the_order_depends_on_seed_block_and_key_and_on_no_batch() -> None:
    order = drawing_order(range(50), "s", "block", "key")
    assert drawing_order([*reversed(range(50)), 3, 4], "s", "block", "key") == order
    others = [("t", "block", "key"), ("s", "b", "key"), ("s", "block", "k"), ("sb", "lock", "key")]
    assert len({drawing_order(range(50), *each) for each in others} | {order}) == 5
    some = drawing_order(range(0, 50, 2), "s", "block", "key")
    assert some == tuple(nonce for nonce in order if nonce % 2 == 0)
