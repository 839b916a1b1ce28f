"""How long a stop waits: until nothing is left that can be delivered at once, and two seconds at most."""

import asyncio
from collections.abc import Callable, Coroutine

import httpx
import pytest
from builders import last_row_round
from virtual_time import VirtualTimeLoop

from hallmark.poc.core.errors import OutboxError
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.protocol.config import PoCState
from hallmark.poc.protocol.generated import ComputedSpan
from hallmark.poc.settings.settings import Settings

URL = "http://receiver.example/poc"
ROUND = last_row_round(callback_url=URL, node_id=0, node_count=1)

Receiver = Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]


async def taking(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200)


async def slow(_: httpx.Request) -> httpx.Response:
    await asyncio.sleep(0.7)
    return httpx.Response(200)


async def refusing(_: httpx.Request) -> httpx.Response:
    return httpx.Response(503)


async def silent(_: httpx.Request) -> httpx.Response:
    await asyncio.Event().wait()
    raise AssertionError("it never answers")


@pytest.mark.parametrize(
    ("receiver", "seconds", "delivered"),
    [(taking, 0.0, 3), (slow, 2.0, 2), (refusing, 0.0, 0), (silent, 2.0, 0)],
)
def test_it_waits_for_what_can_be_delivered_now(receiver: Receiver, seconds: float, delivered: int) -> None:
    async def run() -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        outbox = Outbox(
            Settings(callback_interval=3600.0),
            connect=lambda: httpx.AsyncClient(transport=httpx.MockTransport(receiver)),
            clock=loop.time,
        )
        for _ in range(2):
            await outbox.post(URL, "validated", b"{}")
        identifier, url = await outbox.begin_round(ROUND.config, ROUND.digest, {}, PoCState.GENERATING), URL
        span = ComputedSpan(covered=(0, 0), nonces=(0,), dist=(1.4,), vectors=(), failed_nonces=())
        await outbox.record(identifier, url, [span])
        outbox.end_round(identifier, url, None)
        begun = loop.time()
        await outbox.flush(url, 2.0)
        waited, found = loop.time() - begun, outbox.stats()["delivered"]
        await outbox.close(0.1)
        return waited, found

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        waited, found = runner.run(run())
    assert waited == pytest.approx(seconds)
    assert found == delivered


def test_it_waits_until_the_end_is_noted_and_no_longer_where_the_disk_is_full() -> None:
    class Full(OutboxStore):
        def end_round(self, identifier: int, reason: str | None, now: float) -> asyncio.Future[None]:
            failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            failed.set_exception(OutboxError("database or disk is full"))
            return failed

    async def run(store: OutboxStore) -> float:
        loop = asyncio.get_running_loop()
        outbox = Outbox(Settings(), store, clock=loop.time)
        outbox.end_round(1, None, None)
        begun = loop.time()
        await outbox.flush(None, 2.0)
        waited = loop.time() - begun
        await outbox.close(0.1)
        return waited

    for store, seconds in ((OutboxStore(), 0.0), (Full(), 2.0)):
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            assert runner.run(run(store)) == pytest.approx(seconds)
