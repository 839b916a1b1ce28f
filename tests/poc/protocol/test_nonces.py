import pytest

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.protocol.nonces import NonceSchedule


@pytest.mark.parametrize(
    ("node_id", "group_id", "expected"),
    [(0, 0, (0, 4, 8)), (1, 0, (1, 5, 9)), (0, 1, (2, 6, 10)), (1, 1, (3, 7, 11))],
)
def test_the_walks_of_two_nodes_with_two_groups_are_those_of_the_older_systems(
    node_id: int, group_id: int, expected: tuple[int, ...]
) -> None:
    assert NonceSchedule(node_id, 2, group_id, 2).take(3).nonces == expected


@pytest.mark.parametrize(("node_count", "n_groups"), [(1, 1), (3, 1), (2, 4), (5, 3)])
def test_the_walks_of_all_nodes_and_groups_are_disjoint_and_leave_nothing_out(
    node_count: int, n_groups: int
) -> None:
    walks = [
        NonceSchedule(node, node_count, group, n_groups).take(7).nonces
        for node in range(node_count)
        for group in range(n_groups)
    ]
    nonces = [nonce for walk in walks for nonce in walk]
    assert sorted(nonces) == list(range(7 * node_count * n_groups))


def test_covered_counts_the_walks_own_steps() -> None:
    walk = NonceSchedule(2, 10)
    assert walk.take(3) == ((0, 2), (2, 12, 22))
    assert walk.take(2) == ((3, 4), (32, 42))
    assert walk.position == 5


def test_the_walk_ends_below_2_to_the_63() -> None:
    walk = NonceSchedule(2**63 - 3, 2)
    assert walk.take(8).nonces == (2**63 - 3, 2**63 - 1)
    with pytest.raises(StateError, match="at its end: nonce number 2"):
        walk.take(1)


def test_a_node_whose_first_nonce_is_too_large_is_refused() -> None:
    with pytest.raises(FieldError, match=r"node_id: 9223372036854775807 is not allowed; allowed: .* 2\^63"):
        NonceSchedule(2**63 - 1, 2**62, 1, 2)


def test_several_stretches_follow_one_another() -> None:
    walk = NonceSchedule(node_id=1, node_count=3)
    several = walk.take_several(3, 2)
    assert [span.covered for span in several] == [(0, 1), (2, 3), (4, 5)]
    assert [nonce for span in several for nonce in span.nonces] == [1, 4, 7, 10, 13, 16]
    assert walk.position == 6


def test_several_stretches_end_with_the_walk() -> None:
    walk = NonceSchedule(node_id=2**63 - 3, node_count=1)
    assert [span.nonces for span in walk.take_several(5, 2)] == [
        (2**63 - 3, 2**63 - 2),
        (2**63 - 1,),
    ]
    with pytest.raises(StateError, match="at its end"):
        walk.take_several(5, 2)
