"""The request that sets a round asks its receiver once, and says whether it answered."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from builders import small_request
from runtime import POC, QUICK, Engine, application, client_of, eventually, running_receiver

from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager

URL = "http://receiver.example/v1"
STARTS = ["/init", "/init/generate", "/init/validate"]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no test depends on how fast this machine is."""
    monkeypatch.setattr("hallmark.poc.webhooks.reach._SECONDS", 60.0)


class Node:
    """A server whose receiver answers questions as it is told.

    Attributes:
        asked: The questions that came.
        answer: What each is answered with.
        callbacks: How many callbacks came.
    """

    def __init__(self, settings: Settings) -> None:
        self.engine = Engine()
        self.asked: list[httpx.Request] = []
        self.callbacks = 0
        self.answer: Callable[[], Awaitable[httpx.Response]] = self._at_once
        self.manager = PoCManager(self.engine, settings, Outbox(settings, connect=self._connect))

    @staticmethod
    async def _at_once() -> httpx.Response:
        return httpx.Response(405)

    def _connect(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self._take))

    async def _take(self, asked: httpx.Request) -> httpx.Response:
        if asked.method == "HEAD":
            self.asked.append(asked)
            return await self.answer()
        self.callbacks += 1
        return httpx.Response(200)

    async def set(self, http: httpx.AsyncClient, path: str = "/init/generate", **changes: Any) -> Any:
        """What the answer to a request for a round says of its receiver."""
        answer = await http.post(POC + path, json=small_request(callback_url=URL, **changes))
        assert answer.status_code == 200, answer.text
        return answer.json()["callback"]


@asynccontextmanager
async def running(settings: Settings = QUICK) -> AsyncIterator[tuple[Node, httpx.AsyncClient]]:
    node = Node(settings)
    try:
        async with client_of(application(node.manager)) as http:
            yield node, http
    finally:
        await node.manager.shutdown()


@pytest.mark.parametrize("path", STARTS)
async def test_a_receiver_that_answers_is_reachable_and_gets_no_proof_by_that(path: str) -> None:
    async with running() as (node, http):
        assert await node.set(http, path) == {"reachable": True, "error": None}
        [asked] = node.asked
        assert (asked.method, asked.content) == ("HEAD", b"")
        assert asked.extensions["target"] == b"/v1/generated"
        assert not {name for name in asked.headers if name.startswith("webhook-")}


@pytest.mark.parametrize("path", STARTS)
async def test_one_that_does_not_is_not_and_the_round_is_set_all_the_same(path: str) -> None:
    async with running() as (node, http):

        async def refuse() -> httpx.Response:
            raise httpx.ConnectError("refused")

        node.answer = refuse
        assert await node.set(http, path) == {"reachable": False, "error": "ConnectError: refused"}
        assert node.manager.active is not None
        assert node.manager.active.is_open


async def test_without_a_callback_url_there_is_nobody_to_ask() -> None:
    async with running() as (node, http):
        for path in STARTS:
            answer = (await http.post(POC + path, json=small_request(block_hash=path))).json()
            assert answer["callback"] is None
        assert node.asked == []


async def test_the_same_request_is_told_the_same_and_asks_no_second_time() -> None:
    async with running() as (node, http):
        first = await node.set(http)
        assert await node.set(http) == await node.set(http, "/init/validate") == first
        await http.post(f"{POC}/phase/generate")
        assert len(node.asked) == 1
        await node.set(http, block_hash="another")
        assert len(node.asked) == 2


async def test_it_is_asked_beside_the_opening_and_holds_up_nothing_of_the_round() -> None:
    async with running() as (node, http):

        async def answer_late() -> httpx.Response:
            await eventually(lambda: node.callbacks)
            return httpx.Response(200)

        node.answer = answer_late
        assert (await node.set(http))["reachable"]


async def test_nobody_is_asked_who_must_not_be() -> None:
    async with running(QUICK.model_copy(update={"callback_allowed_hosts": ("other.example",)})) as (
        node,
        http,
    ):
        refused = await http.post(f"{POC}/init", json=small_request(callback_url=URL))
        assert refused.status_code == 400
        assert node.asked == []


async def test_a_server_that_shuts_down_waits_for_no_answer() -> None:
    async with running() as (node, http):

        async def never() -> httpx.Response:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        node.answer = never
        setting = asyncio.create_task(node.set(http, "/init"))
        await eventually(lambda: node.asked and node.manager.active and node.manager.active.is_open)
        await node.manager.shutdown()
        told = {"reachable": False, "error": "the server is shutting down"}
        assert await setting == told


async def test_a_real_receiver_is_reached_and_a_stopped_one_is_not() -> None:
    manager = PoCManager(Engine(), QUICK)
    try:
        async with client_of(application(manager)) as http:
            async with running_receiver() as receiver:
                body = small_request(callback_url=receiver.url)
                assert (await http.post(f"{POC}/init", json=body)).json()["callback"]["reachable"]
                assert receiver.requests == []
            callback = (await http.post(f"{POC}/init", json=body)).json()["callback"]
            assert not callback["reachable"]
            assert callback["error"].startswith("ConnectError: ")
    finally:
        await manager.shutdown()
