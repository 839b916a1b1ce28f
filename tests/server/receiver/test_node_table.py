"""The nodes that the page of a receiver shows: those of a fleet, their rates and what was judged of them."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from builders import BATCH

from hallmark.server.receiver import node_table
from hallmark.server.receiver.node_table import NodeTable
from hallmark.server.receiver.overview import Overview
from hallmark.server.receiver.store import BatchStore

MINUTE = 60.0
NOON = 1_000 * MINUTE


def outline(node_id: int, at: float = NOON, nonces: int = 600, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "generated",
        "public_key": "key",
        "node_id": node_id,
        "received_at": at,
        "n_nonces": nonces,
        "fraud_detected": None,
        **changes,
    }


def table(*outlines: dict[str, Any]) -> NodeTable:
    nodes = NodeTable(20)
    for each in outlines:
        nodes.take(each)
    return nodes


def test_nodes_of_a_key_and_of_several_keys_are_told_apart() -> None:
    nodes = table(outline(2), outline(10), outline(2), outline(2, public_key="another"))
    shown = nodes.nodes(NOON + MINUTE)
    assert [(each["public_key"], each["node_id"], each["rate"]) for each in shown] == [
        ("another", "2", 10.0),
        ("key", "2", 20.0),
        ("key", "10", 10.0),
    ]
    assert nodes.fleet(NOON + MINUTE) == {"rate": 40.0, "minutes": 5, "nodes": 3, "nodes_lately": 3}


def test_rates_are_of_the_latest_minutes_and_a_node_may_be_silent() -> None:
    nodes = table(*(outline(0, NOON + minute * MINUTE) for minute in range(20)), outline(1, NOON))
    # Of 5 minutes and a half, since the beginning of minute 14.
    now = NOON + 19.5 * MINUTE
    busy, silent = nodes.nodes(now)
    assert busy["rate"] == round(6 * 600 / 330, 3)
    assert (silent["rate"], silent["received_at"]) == (0.0, NOON)
    assert nodes.fleet(now) == {"rate": busy["rate"], "minutes": 5, "nodes": 2, "nodes_lately": 1}
    assert nodes.fleet(now + 10 * MINUTE)["rate"] == 0.0


def test_verdicts_count_for_the_node_that_they_are_about() -> None:
    kinds: list[bool | None] = [False, False, True, None]
    verdicts = [outline(1, kind="validated", fraud_detected=fraud) for fraud in kinds]
    shown = table(*verdicts, outline(0)).nodes(NOON + MINUTE)
    assert [(each["honest"], each["fraud"], each["received_at"]) for each in shown] == [
        (0, 0, NOON),
        (2, 1, None),
    ]
    assert shown[1]["rate"] == 0.0, "who judges has computed those nonces too, and is not this node"


def test_of_very_many_the_latest_are_kept_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_table, "_KEPT_NODES", 30)
    monkeypatch.setattr(node_table, "_SHOWN_NODES", 20)
    nodes = table(*(outline(number) for number in range(50)), outline(21))
    shown = [int(each["node_id"]) for each in nodes.nodes(NOON)]
    assert shown == [21, *range(31, 50)]
    assert nodes.fleet(NOON + MINUTE)["nodes"] == 30
    assert nodes.fleet(NOON + MINUTE)["rate"] == 51 * 10.0, "of all that came, those of others too"


def test_the_page_is_told_of_them(tmp_path: Path) -> None:
    with closing(BatchStore(tmp_path / "receiver.db")) as store:
        seen = Overview(store)
        assert seen.read()["fleet"] == {"rate": 0.0, "minutes": 5, "nodes": 0, "nodes_lately": 0}
        for node_id in (1, 0):
            store.add("generated", {**BATCH, "node_id": node_id}, None)
        shown = seen.read()
    assert [each["node_id"] for each in shown["nodes"]] == ["0", "1"]
    assert shown["fleet"]["nodes_lately"] == 2
    assert shown["fleet"]["rate"] > 0


def test_large_numbers_are_told_as_text_and_long_keys_are_cut() -> None:
    [shown] = table(outline(2**63 - 1, public_key="k" * 99)).nodes(NOON)
    assert (shown["public_key"], shown["node_id"]) == ("k" * 20, str(2**63 - 1))
