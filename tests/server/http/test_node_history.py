"""The history of a node: rates between rows, through new rounds and restarts, and no more rows than hours."""

import json
from typing import Any

import pytest
from builders import small_config
from clock import Clock
from prometheus_client import CollectorRegistry, Counter
from runtime import eventually

from hallmark.poc.specification import PoCManager
from hallmark.server.http.inference_tokens import generated_tokens
from hallmark.server.http.node_history import COLUMNS, ROW_SECONDS, NodeHistory


def row(history: NodeHistory) -> dict[str, Any]:
    assert history.latest is not None
    return dict(zip(COLUMNS, history.latest, strict=True))


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_rates_are_of_the_time_between_two_rows(manager: PoCManager, clock: Clock) -> None:
    tokens = [100.0]
    history = NodeHistory(clock, lambda: 1e9 + clock(), lambda: tokens[0])
    history.note(manager)
    assert row(history)["generated_per_second"] is None
    active = await manager.start_round(small_config())
    await eventually(lambda: active.statistics.total_checked >= 100)
    await manager.stop()
    clock.advance(5)
    tokens[0] += 60
    history.note(manager)
    checked = active.statistics.total_checked
    assert row(history)["generated_per_second"] == pytest.approx(checked / 5, abs=1e-3)
    assert row(history)["tokens_per_second"] == 12
    assert row(history)["time"] == 1e9 + clock()
    clock.advance(5)
    history.note(manager)
    assert row(history)["generated_per_second"] == 0


async def test_a_new_round_begins_with_what_it_has_checked_itself(manager: PoCManager, clock: Clock) -> None:
    history = NodeHistory(clock, tokens=lambda: None)
    first = await manager.start_round(small_config())
    await eventually(lambda: first.statistics.total_checked >= 200)
    history.note(manager)
    second = await manager.start_round(small_config(block_hash="0xother"))
    await eventually(lambda: second.statistics.total_checked >= 16)
    await manager.stop()
    clock.advance(4)
    history.note(manager)
    assert row(history)["generated_per_second"] == pytest.approx(
        second.statistics.total_checked / 4, abs=1e-3
    )
    assert row(history)["tokens_per_second"] is None


async def test_three_hours_are_kept(manager: PoCManager, clock: Clock) -> None:
    history = NodeHistory(clock, clock, lambda: None)
    for _ in range(3 * 3600 // ROW_SECONDS + 7):
        clock.advance(ROW_SECONDS)
        history.note(manager)
    told = json.loads(history.encoded())
    assert len(told["rows"]) == 3 * 3600 // ROW_SECONDS == told["kept_seconds"] // told["row_seconds"]
    assert told["rows"][-1][0] == clock.now
    assert all(len(each) == len(told["columns"]) for each in told["rows"])


def test_tokens_are_summed_over_engines_and_unknown_where_nobody_counts() -> None:
    registry = CollectorRegistry()
    assert generated_tokens(registry) is None
    counter = Counter("vllm:generation_tokens", "Tokens.", ["engine"], registry=registry)
    counter.labels("0").inc(3)
    counter.labels("1").inc(4)
    assert generated_tokens(registry) == 7
