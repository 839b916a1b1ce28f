"""What the page of a receiver shows: the latest, and no more than a page holds."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from builders import nth_body
from clock import Clock
from judged import make_verdict
from store_databases import execute

from hallmark.server.receiver import overview
from hallmark.server.receiver.database import Address
from hallmark.server.receiver.overview import Overview
from hallmark.server.receiver.store import BatchStore

HONEST = make_verdict()
FRAUD = make_verdict(range(100, 164), 5.0)


@pytest.fixture
def store(database: Address) -> Iterator[BatchStore]:
    with closing(BatchStore(database)) as store:
        yield store


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
    clock = Clock(time.time())
    seen = Overview(store, clock)
    store.add("generated", nth_body(0), None)
    assert seen.read()["totals"]["generated"] == {"batches": 1, "nonces": 3}
    store.add("generated", nth_body(1), None)
    store.add("generated", nth_body(1), None)
    shown = seen.read()
    assert shown["totals"]["generated"] == {"batches": 2, "nonces": 6}
    assert [each["id"] for each in shown["batches"]] == [2, 1]
    assert shown == Overview(store, clock).read()


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
    store.add("generated", nth_body(0), None)
    [prover] = Overview(store).read()["provers"]
    assert (prover["generated"], prover["record"]) == (3, None)


def test_rates_are_by_prover_and_minute_and_those_of_few_are_one(store: BatchStore) -> None:
    for prover in range(8):
        for number in range(8 - prover):
            store.add("generated", nth_body(number, public_key=f"key {prover}"), None)
    # Two minutes later all of it is in minutes that are over.
    rates = Overview(store, Clock(time.time() + 120)).read()["rates"]
    assert [each["public_key"] for each in rates] == [*(f"key {place}" for place in range(6)), None]
    assert [round(60 * sum(each["rates"])) for each in rates] == [24, 21, 18, 15, 12, 9, 9]


def test_the_minute_that_is_not_over_is_no_whole_one(store: BatchStore) -> None:
    store.add("generated", nth_body(0), None)
    came = store.find()[0]["received_at"]
    minute = came // 60 * 60
    [rate] = Overview(store, Clock(minute + 30)).read()["rates"]
    assert rate["rates"][-1] == 0.1


def test_of_very_many_provers_in_a_minute_none_is_left_out(store: BatchStore) -> None:
    for prover in range(120):
        store.add("generated", nth_body(0, public_key=f"key {prover}"), None)
    rates = Overview(store, Clock(time.time() + 120)).read()["rates"]
    assert round(60 * sum(sum(each["rates"]) for each in rates)) == pytest.approx(360, abs=1)


def test_a_verdict_of_before_there_were_rules_is_neither_honest_nor_fraud(
    store: BatchStore, database: Address
) -> None:
    store.add("validated", HONEST, None)
    is_file = isinstance(database, Path)
    in_file = "UPDATE batches SET body = json_set(body, '$.fraud_detected', NULL)"
    execute(database, in_file if is_file else "UPDATE batches SET fraud_detected = NULL")
    shown = Overview(store).read()
    assert shown["batches"][0]["fraud_detected"] is None
    assert not any(shown["verdicts"]["honest"] + shown["verdicts"]["fraud"])
    assert (shown["provers"][0]["verdicts"], shown["provers"][0]["fraud"]) == (1, 0)


def test_a_record_is_shown_though_its_verdicts_are_long_ago(
    store: BatchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "_READ_BATCHES", 3)
    store.add("validated", FRAUD, None)
    for number in range(5):
        store.add("generated", nth_body(number, public_key=FRAUD["public_key"]), None)
    [prover] = Overview(store).read()["provers"]
    assert prover["verdicts"] == 0
    assert prover["record"]["batches"] == 1


def test_large_numbers_are_told_as_text_and_long_keys_are_cut(store: BatchStore) -> None:
    store.add("generated", nth_body(0, block_height=2**63 - 1, public_key="k" * 1000), None)
    shown = Overview(store).read()
    assert shown["batches"][0]["block_height"] == shown["blocks"][0]["block_height"] == str(2**63 - 1)
    assert shown["provers"][0]["public_key"] == "k" * 200


def test_what_is_older_than_three_hours_is_not_charted(store: BatchStore) -> None:
    clock = Clock(0.0)
    seen = Overview(store, clock)
    store.add("generated", nth_body(0), None)
    store.add("validated", HONEST, None)
    clock.now = store.find()[0]["received_at"]
    assert len(seen.read()["rates"]) == 1
    clock.advance(3 * 3600 + 60)
    later = seen.read()
    assert later["rates"] == []
    assert sum(later["verdicts"]["honest"]) == 0
    assert len(later["batches"]) == 2


def test_of_many_batches_the_latest_are_read_and_all_are_counted(
    store: BatchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "_READ_BATCHES", 40)
    for number in range(100):
        store.add("generated", nth_body(number, block_height=number), None)
    seen = Overview(store, Clock(time.time() + 120))
    shown = seen.read()
    assert shown["totals"]["generated"] == {"batches": 100, "nonces": 300}
    assert [each["id"] for each in shown["batches"]] == [*range(100, 75, -1)]
    assert [each["block_height"] for each in shown["blocks"]] == [str(height) for height in range(99, 79, -1)]
    assert sum(round(60 * sum(each["rates"])) for each in shown["rates"]) == 120
    for number in range(100, 700):
        store.add("generated", nth_body(number), None)
    assert seen.read()["totals"]["generated"] == {"batches": 700, "nonces": 2100}
