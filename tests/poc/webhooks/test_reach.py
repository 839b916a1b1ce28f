"""Asking a receiver whether it is there: quietly, shortly, and by the same rules as a callback."""

import asyncio
from pathlib import Path

import httpx
import pytest
from runtime import eventually, running_receiver, serving

from hallmark.poc.webhooks.reach import why_unreachable
from hallmark.poc.webhooks.transport import callback_client
from hallmark.server.processes.child import free_port
from hallmark.server.receiver.app import create_app


async def asked(url: str, **options: object) -> str | None:
    async with callback_client(**options) as client:  # type: ignore[arg-type]
        return await why_unreachable(client, url)


async def test_it_asks_by_head_for_the_path_of_callbacks_and_sends_nothing() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 501 \r\n\r\n")
        heads.append(await reader.read())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        assert await asked(f"http://127.0.0.1:{port}/v2/org%252Fmodel/a/../b/") is None
        await eventually(lambda: len(heads) == 2)
    head, rest = heads
    first, *lines = head.decode().splitlines()
    assert first == "HEAD /v2/org%252Fmodel/a/../b/generated HTTP/1.1"
    names = {line.partition(":")[0].lower() for line in lines if line}
    assert names == {"host", "accept", "accept-encoding", "connection", "user-agent"}
    assert rest == b""


@pytest.mark.parametrize("status", [100, 200, 204, 307, 400, 401, 404, 405, 500, 503])
async def test_any_answer_is_one(status: int) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status))
    async with httpx.AsyncClient(transport=transport) as client:
        assert await why_unreachable(client, "http://receiver.example") is None


async def test_a_receiver_that_takes_posts_alone_is_not_disturbed() -> None:
    async with running_receiver() as receiver:
        assert await asked(receiver.url) is None
        assert receiver.requests == []


async def test_our_receiver_says_that_it_is_there_and_has_no_more_than_before(tmp_path: Path) -> None:
    app = create_app(tmp_path / "receiver.db", [b"s" * 32])
    async with serving(app) as url, httpx.AsyncClient(base_url=url, trust_env=False) as http:
        assert await asked(url) is None
        assert [(await http.head(f"/{kind}")).status_code for kind in ("generated", "validated")] == [
            204,
            204,
        ]
        assert (await http.get("/batches")).json() == []
        assert (await http.post("/generated", content=b"{}")).status_code == 401, "a callback is still signed"


async def test_what_keeps_an_answer_away_is_told() -> None:
    assert (await asked(f"http://127.0.0.1:{free_port()}") or "").startswith("ConnectError: ")

    async def metadata(_: str, __: int) -> list[str]:
        return ["169.254.169.254"]

    told = await asked("http://receiver.example", resolver=metadata)
    assert told == ("ConnectError: receiver.example resolves to 169.254.169.254, where callbacks must not go")

    async def fail(_: str, __: int) -> list[str]:
        raise ZeroDivisionError

    assert await asked("http://receiver.example", resolver=fail) == "ZeroDivisionError: it gives no reason"


async def test_one_that_says_nothing_is_left_after_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hallmark.poc.webhooks.reach._SECONDS", 0.01)

    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async with httpx.AsyncClient(transport=httpx.MockTransport(never)) as client:
        assert await why_unreachable(client, "http://receiver.example") == "no answer within 0.01 s"
