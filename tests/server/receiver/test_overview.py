"""What the page of a receiver shows: the latest, and no more than a page holds."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from judged import judged_batch, validated_body
from received import BATCH
from rounds import make_round

from hallmark.server.receiver import overview
from hallmark.server.receiver.overview import Overview
from hallmark.server.receiver.store import BatchStore

ROUND = make_round(honest_sigma=0.1, numbers=2, fraud_threshold=1e-7)
HONEST = {**validated_body(judged_batch(ROUND, range(16), 1.0)), "node_id": 0}
FRAUD = {**validated_body(judged_batch(ROUND, range(100, 164), 5.0)), "node_id": 0}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BatchStore]:
    with closing(BatchStore(tmp_path / "receiver.db")) as store:
        yield store


def batch(number: int, **changes: Any) -> dict[str, Any]:
    return {**BATCH, "nonces": [3 * number, 3 * number + 1, 3 * number + 2], **changes}


def test_nothing_has_come(store: BatchStore) -> None:
    shown = Overview(store).read()
    assert shown["totals"] == {
        "generated": {"batches": 0, "nonces": 0},
        "validated": {"batches": 0, "nonces": 0},
    }
    assert shown["batches"] == shown["blocks"] == shown["provers"] == shown["rates"] == []
    assert len(shown["minutes"]) == 180
    assert not any(shown["verdicts"]["honest"] + shown["verdicts"]["fraud"])


def test_what_comes_is_read_on_from_where_it_was(store: BatchStore) -> None:
    seen = Overview(store)
    store.add("generated", batch(0), None)
    assert seen.read()["totals"]["generated"] == {"batches": 1, "nonces": 3}
    store.add("generated", batch(1), None)
    store.add("generated", batch(1), None)
    shown = seen.read()
    assert shown["totals"]["generated"] == {"batches": 2, "nonces": 6}
    assert [each["id"] for each in shown["batches"]] == [2, 1]
    assert shown == {**Overview(store).read(), "now": shown["now"]}


def test_verdicts_count_for_their_block_and_their_prover(store: BatchStore) -> None:
    for body in (HONEST, FRAUD):
        store.add("validated", body, None)
    shown = Overview(store).read()
    fraud, honest = shown["batches"]
    assert (honest["fraud_detected"], fraud["fraud_detected"]) == (False, True)
    assert fraud["probability_honest"] == FRAUD["probability_honest"] < 1e-7
    assert (honest["n_invalid"], fraud["n_invalid"]) == (HONEST["n_invalid"], FRAUD["n_invalid"])
    assert (sum(shown["verdicts"]["honest"]), sum(shown["verdicts"]["fraud"])) == (1, 1)
    [prover], [block] = shown["provers"], shown["blocks"]
    assert (prover["verdicts"], prover["fraud"]) == (block["verdicts"], block["fraud"]) == (2, 1)
    assert prover["record"] == store.provers()[0].as_dict(prover["record"]["fraud_threshold"])
    assert prover["record"]["batches"] == 2


def test_a_prover_without_verdicts_has_no_record(store: BatchStore) -> None:
    store.add("generated", batch(0), None)
    [prover] = Overview(store).read()["provers"]
    assert (prover["generated"], prover["record"]) == (3, None)


def test_rates_are_by_prover_and_minute_and_those_of_few_are_one(store: BatchStore) -> None:
    for prover in range(8):
        for number in range(8 - prover):
            store.add("generated", batch(number, public_key=f"key {prover}"), None)
    rates = Overview(store).read()["rates"]
    assert [each["public_key"] for each in rates] == [*(f"key {place}" for place in range(6)), None]
    assert [round(60 * sum(each["rates"])) for each in rates] == [24, 21, 18, 15, 12, 9, 9]


def test_what_is_older_than_three_hours_is_not_charted(
    store: BatchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    seen = Overview(store, now=lambda: now[0])
    store.add("generated", batch(0), None)
    store.add("validated", HONEST, None)
    now[0] = store.find()[0]["received_at"]
    assert len(seen.read()["rates"]) == 1
    now[0] += 3 * 3600 + 60
    later = seen.read()
    assert later["rates"] == []
    assert sum(later["verdicts"]["honest"]) == 0
    assert len(later["batches"]) == 2


def test_of_many_batches_the_latest_are_read_and_all_are_counted(
    store: BatchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "_READ_BATCHES", 40)
    for number in range(100):
        store.add("generated", batch(number, block_height=number), None)
    seen = Overview(store)
    shown = seen.read()
    assert shown["totals"]["generated"] == {"batches": 100, "nonces": 300}
    assert [each["id"] for each in shown["batches"]] == [*range(100, 75, -1)]
    assert [each["block_height"] for each in shown["blocks"]] == [*range(99, 79, -1)]
    assert sum(round(60 * sum(each["rates"])) for each in shown["rates"]) == 120
    for number in range(100, 700):
        store.add("generated", batch(number), None)
    assert seen.read()["totals"]["generated"] == {"batches": 700, "nonces": 2100}
