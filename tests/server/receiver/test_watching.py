"""What a receiver says of itself to those who watch over it."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import BATCH
from fastapi.testclient import TestClient
from judged import make_verdict
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from store_databases import broken_inserts

from hallmark.poc.core.request_id import REQUEST_ID
from hallmark.poc.webhooks.signature import generate_secret, parse_secret
from hallmark.server.receiver import app as receiver_app
from hallmark.server.receiver.app import create_app
from hallmark.server.receiver.database import Address

HONEST = make_verdict()


@pytest.fixture
def on_a_file(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(tmp_path / "receiver.db")) as client:
        yield client


def samples(client: TestClient) -> dict[str, float]:
    """Every sample of `/metrics` but those of the machine, by its name without the prefix and its label."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            assert sample.name.startswith("hallmark_receiver_")
            name = sample.name.removeprefix("hallmark_receiver_")
            found[" ".join([name, *sample.labels.values()])] = sample.value
    del found["clock_seconds"]
    found.pop("free_bytes", None)  # of a file only
    return found


NOTHING = {
    f"{name}_total {kind}": 0.0
    for name in ("batches", "nonces", "duplicates")
    for kind in ("generated", "validated")
} | {"fraud_verdicts_total": 0.0}
NOTHING |= {f"refused_total {status}": 0.0 for status in (400, 401, 409, 413, 503)}


def test_nothing_has_come(client: TestClient) -> None:
    assert samples(client) == NOTHING


def test_what_comes_is_counted_by_kind_and_a_duplicate_apart(client: TestClient) -> None:
    before = time.time()
    for path, body in (
        ("/generated", BATCH),
        ("/generated", BATCH),
        ("/generated", {**BATCH, "node_id": 1}),
        ("/validated", HONEST),
        ("/validated", {**HONEST, "fraud_detected": True}),
        ("/validated", {**HONEST, "fraud_detected": True}),
    ):
        client.post(path, json=body).raise_for_status()
    found = samples(client)
    assert before <= found.pop("last_batch_timestamp_seconds") <= time.time()
    assert found == {
        **NOTHING,
        "batches_total generated": 2,
        "batches_total validated": 2,
        "nonces_total generated": 6,
        "nonces_total validated": 32,
        "duplicates_total generated": 1,
        "duplicates_total validated": 1,
        "fraud_verdicts_total": 1,
    }
    assert {kind: each["batches"] for kind, each in client.get("/stats").json().items()} == {
        "generated": 2,
        "validated": 2,
    }


def test_what_is_refused_is_counted_by_its_status(
    monkeypatch: pytest.MonkeyPatch, client: TestClient
) -> None:
    monkeypatch.setattr(receiver_app, "_MAX_BODY_BYTES", 1000)
    client.post("/generated", json=BATCH, headers={"webhook-id": "msg_1"}).raise_for_status()
    refused = [
        client.post("/generated", json={**BATCH, "node_id": -2}),
        client.post("/validated", json=BATCH),
        client.post("/generated", json={**BATCH, "node_id": 2}, headers={"webhook-id": "msg_1"}),
        client.post("/generated", content=b" " * 1001),
    ]
    assert [answer.status_code for answer in refused] == [400, 400, 409, 413]
    for question in ("/batches?limit=0", "/batches/9", "/nothing"):
        assert client.get(question).is_client_error, "no delivery"
    found = samples(client)
    assert {name: value for name, value in found.items() if "refused" in name} == {
        "refused_total 400": 2,
        "refused_total 401": 0,
        "refused_total 409": 1,
        "refused_total 413": 1,
        "refused_total 503": 0,
    }
    assert found["batches_total generated"] == 1


def test_what_is_not_signed_is_counted(database: Address) -> None:
    with TestClient(create_app(database, [parse_secret(generate_secret())])) as client:
        assert client.post("/generated", json=BATCH).status_code == 401
        assert samples(client) == {**NOTHING, "refused_total 401": 1}


def test_each_application_counts_for_itself_and_from_its_start(client: TestClient, database: Address) -> None:
    client.post("/generated", json=BATCH).raise_for_status()
    with TestClient(create_app(database)) as another:
        assert samples(another) == NOTHING
    assert not [each for each in REGISTRY.collect() if each.name.startswith("hallmark_receiver")]


def test_the_machine_is_told_of(on_a_file: TestClient, tmp_path: Path) -> None:
    before = time.time()
    told = dict(line.split() for line in on_a_file.get("/metrics").text.splitlines() if line[0] != "#")
    assert before <= float(told["hallmark_receiver_clock_seconds"]) <= time.time()
    assert 0 < float(told["hallmark_receiver_free_bytes"]) < shutil.disk_usage(tmp_path).total


def test_it_is_healthy(client: TestClient) -> None:
    for _ in range(2):
        answer = client.get("/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        client.post("/generated", json=BATCH)


def test_it_is_not_where_the_file_cannot_be_read(
    on_a_file: TestClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "receiver.db"
    path.rename(path.with_suffix(".away"))
    for question in ("/health", "/stats", "/batches"):
        answer = on_a_file.get(question)
        assert answer.status_code == 503
        assert answer.json() == {"detail": "the batches could not be read; the receiver's log says why"}
    assert str(path) in caplog.text
    path.with_suffix(".away").rename(path)
    assert on_a_file.get("/health").status_code == 200


def test_what_could_not_be_written_is_a_refused_delivery(
    client: TestClient, database: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    about: list[str | None] = []
    monkeypatch.setattr(receiver_app.logger, "error", lambda *_: about.append(REQUEST_ID.get()))
    with broken_inserts(database, "batches"):
        answer = client.post("/generated", content=json.dumps(BATCH), headers={"X-Request-Id": "round-1"})
        assert client.get("/health").status_code == 200, "what is there can still be read"
    assert answer.status_code == 503
    assert about == ["round-1"]
    assert answer.json() == {"detail": "the batch could not be written; the receiver's log says why"}
    assert samples(client) == {**NOTHING, "refused_total 503": 1}
