"""One attempt: what it says of its failure, to people who have nothing else to go by."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from hallmark.poc.webhooks.attempt import Failure, attempt, describe
from hallmark.poc.webhooks.transport import callback_client

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


async def tried(transport: httpx.AsyncBaseTransport | None, url: str, timeout: float = 5.0) -> Failure | None:  # noqa: ASYNC109
    client = callback_client() if transport is None else httpx.AsyncClient(transport=transport)
    async with client:
        return await attempt(
            client,
            url,
            "generated",
            b"{}",
            webhook_id="msg_1",
            timestamp=1000,
            secrets=(),
            timeout=timeout,
        )


async def reason(answer: httpx.Response | Exception) -> str:
    """What is said of an answer or an error of the transport."""

    def handle(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    failure = await tried(httpx.MockTransport(handle), "http://receiver.example")
    assert failure is not None
    assert not failure.is_permanent
    return failure.reason


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (httpx.ConnectTimeout(""), "ConnectTimeout: no connection in time"),
        (httpx.ReadTimeout(""), "ReadTimeout: no answer in time"),
        (httpx.ConnectError(""), "ConnectError: no connection"),
        (httpx.ReadError(""), "ReadError: the connection broke before the answer had come"),
        (httpx.ReadError(" \n"), "ReadError: the connection broke before the answer had come"),
        (httpx.WriteError(""), "WriteError: the connection broke while the request was sent"),
        (httpx.RemoteProtocolError(""), "RemoteProtocolError: the answer is no HTTP, or was cut off"),
        (httpx.CloseError(""), "CloseError: it gives no reason"),
        (ZeroDivisionError(), "ZeroDivisionError: it gives no reason"),
        (caused(httpx.ReadError(""), ConnectionResetError(104, "reset")), "ReadError: [Errno 104] reset"),
        (caused(httpx.ReadError("two\nlines"), OSError("unused")), "ReadError: two lines"),
        (httpx.ReadError("\x1b[31mred é"), "ReadError: ?[31mred é"),
    ],
)
async def test_an_error_says_something_in_one_line(error: Exception, told: str) -> None:
    assert await reason(error) == told
    assert describe(error) == told


async def test_what_an_error_says_is_bounded() -> None:
    assert len(await reason(httpx.ReadError("x" * 10_000))) == 200


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308, 399])
@pytest.mark.parametrize(
    ("location", "told"),
    [
        (None, ""),
        ("", ""),
        ("https://new.example/v2/generated", ": https://new.example/v2/generated"),
        ("/elsewhere", ": /elsewhere"),
        ("https://new.example/x?token=hunter2", ": https://new.example/x?…"),
        ("https://new.example/x#access_token=hunter2", ": https://new.example/x"),
        ("https://user:hunter2@new.example/x", ": …@new.example/x"),
        ("https://new.example/é", ": https://new.example/é"),
    ],
)
async def test_a_redirect_is_said_not_to_be_followed_and_where_it_leads(
    status: int, location: str | None, told: str
) -> None:
    headers = {} if location is None else {b"Location": location.encode()}
    text = await reason(httpx.Response(status, headers=headers))
    assert text == f"HTTP {status}: redirects are not followed{told}"


async def test_a_long_location_is_cut() -> None:
    text = await reason(httpx.Response(307, headers={"Location": f"http://a.example/{'x' * 10_000}"}))
    assert len(text) == 200
    assert text.startswith("HTTP 307: redirects are not followed: http://a.example/xxx")


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[str]:
    """A receiver on loopback that does what it likes with each connection."""
    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()


def answering(content: bytes, *, resets: bool = False) -> Serve:
    """Answer a request with some bytes, and close the connection, or reset it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(content)
        await writer.drain()
        if resets:
            writer.transport.abort()
        writer.close()

    return serve


@pytest.mark.parametrize(
    "content",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nwhatever comes",
        b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 \r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxyz",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    ],
)
async def test_what_says_2xx_is_a_delivery_however_it_says_it(content: bytes) -> None:
    """HTTP/1.0, no reason phrase, an answer that is cut off after its head."""
    async with listening(answering(content)) as url:
        assert await tried(None, url) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/9.9 banana\r\n\r\n",
        b"\x16\x03\x01\xff\x00",
        b"\r\n" * 9,
    ],
)
@pytest.mark.parametrize("resets", [False, True])
async def test_what_does_not_say_it_is_a_failure_that_says_so(content: bytes, resets: bool) -> None:
    async with listening(answering(content, resets=resets)) as url:
        failure = await tried(None, url)
    assert failure is not None
    assert not failure.is_permanent
    name, _, text = failure.reason.partition(": ")
    assert name in ("RemoteProtocolError", "ReadError")
    assert text.strip()


async def test_a_head_without_an_end_costs_no_more_than_is_bounded() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n")
        try:
            while True:
                writer.write(b"X-Filler: " + b"x" * 10_000 + b"\r\n")
                await writer.drain()
        except ConnectionError:
            writer.close()

    async with listening(serve) as url:
        failure = await tried(None, url, timeout=60.0)
    assert failure is not None
    assert failure.reason.startswith("RemoteProtocolError: ")


@pytest.mark.parametrize("pause", [0.0, 0.01], ids=["huge", "dripping"])
async def test_a_body_without_an_end_is_left_and_its_connection_closed(pause: float) -> None:
    sent, gone = 0, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * (1 if pause else 2**16))
                await writer.drain()
                sent += 1
                await asyncio.sleep(pause)
        except ConnectionError:
            gone.set()
            writer.close()

    async with listening(serve) as url:
        assert await tried(None, url, timeout=60.0) is None
        await asyncio.wait_for(gone.wait(), 60)
    # What the system's buffers took of the huge one is more than was read of it.
    assert pause or sent < 1000
