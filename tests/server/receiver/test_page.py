"""The page of a receiver, and what is exported from it."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from builders import BATCH
from fastapi.testclient import TestClient
from runtime import eventually, serving

from hallmark.server.receiver.app import create_app
from hallmark.server.receiver.database import Address
from hallmark.server.receiver.store import BatchStore


def test_the_page_is_found_and_shows_what_came(client: TestClient) -> None:
    assert client.get("/").url.path == "/poc"
    page = client.get("/poc")
    assert "Hallmark receiver" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert client.get("/poc/files/receiver.js").status_code == 200
    client.post("/generated", json=BATCH)
    assert client.get("/poc/moment").json()["totals"]["generated"] == {"batches": 1, "nonces": 3}


def test_there_may_be_no_page(tmp_path: Path) -> None:
    with TestClient(create_app(tmp_path / "receiver.db", has_page=False)) as client:
        for path in ("/", "/poc", "/poc/moment", "/poc/events", "/poc/files/page.css"):
            assert client.get(path).status_code == 404
        assert client.get("/stats").status_code == 200


async def test_those_who_look_are_told_what_comes_until_the_receiver_ends(tmp_path: Path) -> None:
    app = create_app(tmp_path / "receiver.db")
    async with serving(app) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        app.state.server = type("Ending", (), {"should_exit": False})()
        totals = []
        async with http.stream("GET", "/poc/events") as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    totals.append(json.loads(line.removeprefix("data: "))["totals"]["generated"]["batches"])
                    if len(totals) == 1:
                        await http.post("/generated", json=BATCH)
                    app.state.server.should_exit = len(totals) == 2
        # What is published while it ends may still come.
        assert totals in ([0, 1], [0, 1, 1])


async def test_a_file_that_cannot_be_read_is_logged_and_the_page_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "receiver.db"
    async with (
        serving(create_app(path)) as url,
        httpx.AsyncClient(base_url=url, timeout=60) as http,
        http.stream("GET", "/poc/events"),
    ):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE batches")
        await eventually(lambda: "The page cannot show what came" in caplog.text)
        assert (await http.get("/poc/moment")).status_code == 503
        assert (await http.get("/poc")).status_code == 200


def test_an_export_has_a_batch_a_line_with_its_body(client: TestClient, database: Address) -> None:
    for number in range(250):
        client.post("/generated", json={**BATCH, "block_hash": f"block {number % 2}", "block_height": number})
    answer = client.get("/export", params={"kind": "", "public_key": "", "block_hash": ""})
    assert answer.headers["content-disposition"] == 'attachment; filename="batches.jsonl"'
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    with closing(BatchStore(database, makes=False)) as store:
        assert lines == [store.get(identifier) for identifier in range(1, 251)]
    some = client.get("/export", params={"block_hash": "block 1", "kind": "generated"})
    assert [json.loads(line)["id"] for line in some.text.splitlines()] == [*range(2, 251, 2)]
    assert client.get("/export", params={"kind": "validated"}).text == ""
    assert client.get("/export", params={"kind": "other"}).status_code == 400
