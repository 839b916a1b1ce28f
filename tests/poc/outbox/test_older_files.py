"""An outbox that an older Hallmark has left: nothing of it is lost."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from clock import Clock
from older_files import written_by_734b105
from runtime import Engine, eventually, snapshot

from hallmark.poc.core.errors import OutboxError
from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.poc.outbox.delivery_queue import DeliveryQueue
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.protocol.config import PoCState
from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager

DIGEST = "c9aa4c885636046ca0d531fa50c541e9e8859e508d8fc8fbaf682a9bb0e427e8"
WRITTEN = 1_795_732_452.0
# Whenever the tests run, it is not too old to be gone on with.
SETTINGS = Settings(callback_interval=0.0, callback_max_age=1e12)


class Receivers:
    """All receivers there are, which take everything.

    Attributes:
        taken: The webhook-id, the host, the path and the body of each callback.
    """

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, str, bytes]] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.extensions["target"].decode()
        self.taken.append((request.headers["webhook-id"], request.url.host, path, request.content))
        return httpx.Response(200)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self.answer))

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for *_, body in self.taken]


@asynccontextmanager
async def server(path: Path, receivers: Receivers, **settings: Any) -> AsyncIterator[PoCManager]:
    """A server on the file, an hour after what it waits for."""
    chosen = SETTINGS.model_copy(update=settings)
    store = OutboxStore.bounded_by(chosen, path)
    clock = Clock(WRITTEN + 7200)
    outbox = Outbox(chosen, store, connect=receivers.client, clock=clock, steady=clock)
    engine = Engine()
    manager = PoCManager(engine, chosen, outbox, now=clock)
    await manager.recover()
    try:
        yield manager
    finally:
        engine.release()
        await manager.shutdown()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written_by_734b105("outbox.db", tmp_path)


async def test_what_was_queued_is_delivered_to_the_byte_and_what_was_found_after_it(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        queued = raw.execute(
            "SELECT webhook_id, kind, body FROM deliveries WHERE given_up IS NULL ORDER BY id"
        ).fetchall()
        [(first,), (second,)] = raw.execute("SELECT found FROM findings ORDER BY id").fetchall()
    assert len(queued) == 3
    receivers = Receivers()
    async with server(path, receivers) as manager:
        await eventually(lambda: manager.outbox.stats()["delivered"] == 4)
        assert manager.outbox.stats()["dead_letters"] == 1
    assert receivers.taken[:3] == [
        (webhook_id, "receiver.example", f"/v2/{kind}", body) for webhook_id, kind, body in queued
    ]
    merged = receivers.bodies[3]
    assert merged["block_hash"] == "a block"
    assert merged["covered"] == [0, 15]
    nonces, dist, failed = json.loads(first)
    assert merged["nonces"] == nonces + json.loads(second)[0]
    assert merged["dist"] == dist + json.loads(second)[1]
    assert merged["failed_nonces"] == failed == []


def test_a_dead_letter_is_listed_and_can_be_retried_once_a_server_has_had_the_file(path: Path) -> None:
    with pytest.raises(OutboxError, match="is not up to date: start the server with it once"):
        OutboxDatabase(path, for_server=False)
    OutboxDatabase(path).close()
    with closing(OutboxDatabase(path, for_server=False)) as tool:
        queue = DeliveryQueue(tool)
        [dead] = [delivery for delivery in queue.listed() if delivery.dead_reason is not None]
        assert (dead.url, dead.dead_reason, dead.attempts) == ("http://refusing.example", "rejected", 1)
        assert dead.last_error == "HTTP 404"
        assert queue.retry([dead.id]) == 1
        assert queue.receivers()["http://refusing.example"].queued == 1


@pytest.mark.parametrize("resume", [False, True])
async def test_the_interrupted_round_of_another_protocol_is_refused(
    path: Path, caplog: pytest.LogCaptureFixture, resume: bool
) -> None:
    receivers = Receivers()
    async with server(path, receivers, resume_on_start=resume) as manager:
        assert manager.state is PoCState.IDLE
        assert snapshot(manager)["interrupted_round"] is None
        assert isinstance(manager.engine, Engine)
        assert manager.engine.calls == []
        await eventually(lambda: manager.outbox.stats()["delivered"] == 4)
    assert "begun by protocol hallmark/1 and is not gone on with: this is hallmark/2" in caplog.text
    merged = receivers.bodies[3]
    assert (merged["protocol"], merged["round"], merged["covered"]) == ("hallmark/1", DIGEST, [0, 15])
    assert "vectors" not in merged
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT count(*) FROM findings").fetchone() == (0,)
        assert raw.execute("SELECT is_over FROM rounds").fetchall() == [(2,)]
