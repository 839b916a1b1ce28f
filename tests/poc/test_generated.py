"""Stretches of a walk, and their merging into reports."""

import asyncio
import math

import pytest
from rounds import make_round
from runtime import eventually

from hallmark.poc.generated import GeneratedBuffer, WalkedBatch
from hallmark.poc.nonces import NonceWalk

NEVER = 3600.0


def walked(first: int, nonces: tuple[int, ...], failed: tuple[int, ...] = (), count: int = 4) -> WalkedBatch:
    return WalkedBatch(
        covered=(first, first + count - 1), nonces=nonces, dist=(1.25,) * len(nonces), failed_nonces=failed
    )


def test_every_nonce_of_a_stretch_is_valid_or_failed_or_above_the_target() -> None:
    round_ = make_round(node_id=0, node_count=10, r_target=1.4)
    stretch = NonceWalk(3, 10).take(5)
    batch = WalkedBatch.sort_out(stretch, [1.3, math.nan, 1.4, 1.5, math.inf], round_)
    assert batch == WalkedBatch(covered=(0, 4), nonces=(3,), dist=(1.3,), failed_nonces=(13, 43))
    assert batch.n_checked == 5


def test_at_rate_1_a_distance_of_2_counts_and_an_infinite_one_has_failed() -> None:
    round_ = make_round(node_id=0, node_count=1)
    batch = WalkedBatch.sort_out(NonceWalk(0, 1).take(2), [2.0, math.inf], round_)
    assert (batch.nonces, batch.failed_nonces) == ((0,), (1,))


@pytest.mark.parametrize("count", [1, 3])
def test_a_distance_too_few_or_too_many_is_an_error(count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        WalkedBatch.sort_out(NonceWalk(0, 1).take(2), [1.0] * count, make_round())


def test_the_report_of_a_stretch_holds_against_its_round() -> None:
    round_ = make_round(node_id=1, node_count=3, n_groups=2, group_id=1)
    stretch = NonceWalk(1, 3, 1, 2).take(4)
    numerics = {"dtype": "bfloat16"}
    proof = WalkedBatch.sort_out(stretch, [1.0, 1.1, math.nan, 1.3], round_).proof(round_, numerics)
    assert proof is not None
    proof.check_against(round_)
    assert (proof.node_id, proof.nonces, proof.dist) == (1, (4, 10, 22), (1.0, 1.1, 1.3))
    assert (proof.covered, proof.failed_nonces, proof.numerics) == ((0, 3), (16,), numerics)
    assert proof.round == round_.digest


def test_a_stretch_without_valid_and_failed_nonces_is_no_report() -> None:
    assert walked(0, ()).proof(make_round(), {}) is None
    assert walked(0, (), (3,)).proof(make_round(), {}) is not None


class TestBuffer:
    """What is merged, and when it is reported."""

    async def test_what_comes_within_the_interval_is_one_report(self) -> None:
        reports: list[WalkedBatch] = []
        buffer = GeneratedBuffer(reports.append, NEVER)
        for batch in (walked(0, (0, 2)), walked(4, (), (5,)), walked(8, (9,), (10, 11))):
            buffer.add(batch)
        await asyncio.sleep(0)
        assert reports == []
        buffer.flush()
        assert reports == [
            WalkedBatch(covered=(0, 11), nonces=(0, 2, 9), dist=(1.25,) * 3, failed_nonces=(5, 10, 11))
        ]
        buffer.flush()
        assert len(reports) == 1, "nothing is reported twice"

    async def test_the_interval_brings_the_report_by_itself(self) -> None:
        reports: list[WalkedBatch] = []
        buffer = GeneratedBuffer(reports.append, 0.0)
        buffer.add(walked(0, (1,)))
        await eventually(lambda: reports)
        buffer.add(walked(4, (5,)))
        await eventually(lambda: len(reports) == 2)
        assert [report.covered for report in reports] == [(0, 3), (4, 7)]

    async def test_a_stretch_without_nonces_waits_for_one_but_not_for_ever(self) -> None:
        reports: list[WalkedBatch] = []
        buffer = GeneratedBuffer(reports.append, 0.0)
        buffer.add(walked(0, ()))
        await asyncio.sleep(0.02)
        assert reports == []
        buffer.add(walked(4, (5,)))
        await eventually(lambda: reports)
        assert reports[0].covered == (0, 7), "what was covered without a nonce is told with the next"

    async def test_failed_nonces_are_reported_without_a_valid_one(self) -> None:
        reports: list[WalkedBatch] = []
        buffer = GeneratedBuffer(reports.append, 0.0)
        buffer.add(walked(0, (), (1, 3)))
        await eventually(lambda: reports)
        assert reports == [WalkedBatch(covered=(0, 3), nonces=(), dist=(), failed_nonces=(1, 3))]
