"""What batches cover together."""

from dataclasses import replace

import pytest

from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.verdict.sampling import gaps, joined_range


def batch(covered: tuple[int, int] | None, nonce: int = 0, node_id: int = 0) -> ProofBatch:
    return ProofBatch(
        public_key="key",
        block_hash="block",
        block_height=1,
        node_id=node_id,
        nonces=(nonce,),
        dist=(1.4,),
        covered=covered,
    )


@pytest.mark.parametrize(
    ("batches", "range_"),
    [
        ([batch((0, 3), 1)], (0, 3)),
        ([batch((4, 4), 4), batch((0, 3), 1)], (0, 4)),
        ([batch((0, 3), 1), batch((0, 3), 1), batch((4, 7), 5)], (0, 7)),
        ([batch((0, 3), 1), batch((0, 3), 101)], None),
        ([batch((0, 3), 1), batch((3, 7), 5)], None),
        ([batch((0, 3), 1), batch((5, 7), 5)], None),
        ([batch((0, 3), 1), batch((4, 7), 5, node_id=1)], None),
        ([batch((0, 3), 1), batch(None, 5)], None),
    ],
    ids=["one", "in any order", "twice", "two groups", "overlap", "gap", "two nodes", "not said"],
)
def test_stretches_join_where_they_follow_one_another(
    batches: list[ProofBatch], range_: tuple[int, int] | None
) -> None:
    assert joined_range(batches) == range_
    # Fewer claims of the same range_ are another batch.
    assert joined_range([*batches, replace(batches[0], nonces=(9,))]) is None


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
