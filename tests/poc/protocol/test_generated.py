"""Stretches of a walk, and their merging into reports."""

import json
import math
from dataclasses import replace
from typing import ClassVar

import pytest
from builders import make_round, with_numbers
from hypothesis import given
from hypothesis import strategies as st

from hallmark.poc.protocol.generated import ComputedSpan, merged_bodies
from hallmark.poc.protocol.law import distance_of, number_of
from hallmark.poc.protocol.nonces import NonceSchedule
from hallmark.poc.protocol.vectors import encode, encoding_of


def walked(first: int, nonces: tuple[int, ...], failed: tuple[int, ...] = (), count: int = 4) -> ComputedSpan:
    return ComputedSpan(
        covered=(first, first + count - 1),
        nonces=nonces,
        dist=(1.25,) * len(nonces),
        vectors=("AAA=",) * len(nonces),
        failed_nonces=failed,
    )


def computed(*distances: float) -> list[list[float]]:
    """The single number of each nonce, at width 256."""
    return [[number_of(distance, 256)] for distance in distances]


def test_every_nonce_of_a_stretch_is_valid_or_failed_or_above_the_target() -> None:
    round_ = make_round(numbers=1, node_id=0, node_count=10, r_target=1.4)
    span = NonceSchedule(3, 10).take(5)
    batch = ComputedSpan.sort_out(span, computed(1.3, math.nan, 1.4001, 1.5, math.inf), round_)
    assert (batch.covered, batch.nonces, batch.failed_nonces) == ((0, 4), (3,), (13, 43))
    assert batch.dist == pytest.approx((1.3,))
    assert batch.vectors == encode([[number_of(1.3, 256)]])
    assert batch.n_checked == 5


def test_a_nonce_with_a_number_that_failed_has_failed() -> None:
    round_ = with_numbers(make_round(node_id=0, node_count=1), 3)
    numbers = [[0.5, 1.0, -1.0], [0.5, math.nan, -1.0], [-0.5, 2.0, math.inf]]
    batch = ComputedSpan.sort_out(NonceSchedule(0, 1).take(3), numbers, round_)
    assert (batch.nonces, batch.failed_nonces) == ((0,), (1, 2))
    assert batch.dist == (distance_of(0.5, 256),)
    assert batch.vectors == encode(numbers[:1])


def test_at_rate_1_a_distance_of_2_counts() -> None:
    round_ = make_round(numbers=1, node_id=0, node_count=1)
    batch = ComputedSpan.sort_out(NonceSchedule(0, 1).take(2), [[-16.0], [math.inf]], round_)
    assert (batch.nonces, batch.dist, batch.failed_nonces) == ((0,), (2.0,), (1,))


@pytest.mark.parametrize("count", [1, 3])
def test_a_nonce_too_few_or_too_many_is_an_error(count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        ComputedSpan.sort_out(NonceSchedule(0, 1).take(2), [[1.0]] * count, make_round(numbers=1))


def test_other_numbers_than_the_rounds_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 numbers for nonce 0 instead of 1"):
        ComputedSpan.sort_out(NonceSchedule(0, 1).take(2), [[1.0, 2.0]] * 2, make_round(numbers=1))


def test_the_report_of_a_stretch_holds_against_its_round() -> None:
    round_ = make_round(numbers=1, node_id=1, node_count=3, n_groups=2, group_id=1)
    span = NonceSchedule(1, 3, 1, 2).take(4)
    numerics = {"dtype": "bfloat16"}
    proof = ComputedSpan.sort_out(span, computed(1.0, 1.1, math.nan, 1.3), round_).proof(round_, numerics)
    assert proof is not None
    proof.check_against(round_)
    assert (proof.node_id, proof.nonces) == (1, (4, 10, 22))
    assert proof.dist == pytest.approx((1.0, 1.1, 1.3))
    assert (proof.covered, proof.failed_nonces, proof.numerics) == ((0, 3), (16,), numerics)
    assert proof.round_digest == round_.digest
    assert proof.encoding == encoding_of(1)


def test_what_was_found_without_numbers_says_nothing_of_vectors() -> None:
    bare = replace(walked(0, (0, 2)), vectors=())
    assert "vectors" not in bare.fields()


def test_a_stretch_without_valid_and_failed_nonces_is_no_report() -> None:
    assert walked(0, ()).proof(make_round(), {}) is None
    assert walked(0, (), (3,)).proof(make_round(), {}) is not None


class TestMergedBodies:
    """Callbacks that report several spans."""

    TEMPLATE: ClassVar = {"public_key": "02ff", "numerics": {"dtype": "bfloat16"}, "r_target": 1.4}

    def test_what_fits_is_one_body(self) -> None:
        batches = [walked(0, (0, 2)), walked(4, (), (5,)), walked(8, (9,), (10, 11))]
        [body] = merged_bodies(self.TEMPLATE, batches, 2**20)
        assert json.loads(body) == {
            **self.TEMPLATE,
            "covered": [0, 11],
            "nonces": [0, 2, 9],
            "dist": [1.25] * 3,
            "vectors": ["AAA="] * 3,
            "failed_nonces": [5, 10, 11],
        }

    def test_of_nothing_there_is_no_body(self) -> None:
        assert merged_bodies(self.TEMPLATE, [], 2**20) == []

    def test_numbers_come_back_to_the_last_bit(self) -> None:
        dist = (1.4000000000000001, 5e-324, math.nextafter(2.0, 0.0))
        batch = ComputedSpan(
            covered=(0, 2), nonces=(0, 1, 2**63 - 1), dist=dist, vectors=("AAA=",) * 3, failed_nonces=()
        )
        [body] = merged_bodies({}, [batch], 2**20)
        assert json.loads(body) == batch.fields()

    def test_a_number_that_json_does_not_have_is_an_error(self) -> None:
        batch = ComputedSpan(
            covered=(0, 0), nonces=(0,), dist=(math.nan,), vectors=("AAA=",), failed_nonces=()
        )
        with pytest.raises(ValueError, match="JSON"):
            merged_bodies({}, [batch], 2**20)

    @given(
        sizes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30),
        start=st.sampled_from([0, 2**62]),
        max_bytes=st.integers(0, 3_000),
    )
    def test_bodies_keep_within_the_size_and_lose_nothing(
        self, sizes: list[tuple[int, int]], start: int, max_bytes: int
    ) -> None:
        batches, position = [], start
        for valid, failed in sizes:
            nonces = tuple(range(position, position + valid))
            lost = tuple(range(position + valid, position + valid + failed))
            batches.append(
                ComputedSpan(
                    covered=(position, position + 80),
                    nonces=nonces,
                    dist=(1.4142135623730951,) * valid,
                    vectors=("AAA=",) * valid,
                    failed_nonces=lost,
                )
            )
            position += 81
        found = merged_bodies(self.TEMPLATE, batches, max_bytes)
        bodies = [json.loads(body) for body in found]
        for field in ("nonces", "dist", "vectors", "failed_nonces"):
            expected = [value for batch in batches for value in getattr(batch, field)]
            assert [value for body in bodies for value in body[field]] == expected
        ends = [index for body in bodies for index in body["covered"]]
        assert ends[:1] == [start][: len(sizes)]
        assert ends[-1:] == [position - 1][: len(sizes)]
        assert ends[2::2] == [last + 1 for last in ends[1:-1:2]]
        alone = [merged_bodies(self.TEMPLATE, [batch], 0)[0] for batch in batches]
        for body in found:
            assert len(body) <= max_bytes or body in alone, "only a span that does not fit alone is longer"
        if sum(map(len, alone)) <= max_bytes:
            assert len(found) <= 1, "as few as fit"
