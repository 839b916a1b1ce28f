"""Requests that are no HTTP, or do not come to their end, change nothing."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx
import pytest
from builders import small_request
from raw_http import SMUGGLING, send_raw
from runtime import POC, application, serving

from hallmark.poc.specification import PoCManager


@pytest.fixture
async def url(manager: PoCManager) -> AsyncIterator[str]:
    async with serving(application(manager)) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.post(f"{POC}/init", json=small_request())).status_code == 200
        yield url


@pytest.mark.parametrize("name", SMUGGLING)
async def test_what_is_answered_with_400_has_no_effect(url: str, manager: PoCManager, name: str) -> None:
    """The parser may notice it after the route has been called."""
    answers = await asyncio.to_thread(send_raw, url, SMUGGLING[name])
    assert answers.statuses == [400], answers.text
    await asyncio.sleep(0.05)
    assert manager.state == "IDLE"


@pytest.mark.parametrize(
    "path", [f"{POC}/phase/generate", f"{POC}/phase/validate", f"{POC}/stop", "/api/v1/stop"]
)
async def test_what_does_not_come_to_its_end_has_no_effect(url: str, manager: PoCManager, path: str) -> None:
    address = urlsplit(url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: node\r\nContent-Length: 5\r\n\r\n12".encode())
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.close()
    await asyncio.sleep(0.1)
    assert manager.state == "IDLE"


async def test_a_body_that_no_route_wants_is_limited_too(url: str, manager: PoCManager) -> None:
    for path in (f"{POC}/phase/generate", f"{POC}/stop", "/api/v1/stop"):
        head = f"POST {path} HTTP/1.1\r\nHost: node\r\nContent-Length: {10**12}\r\n\r\n".encode()
        assert (await asyncio.to_thread(send_raw, url, head)).statuses == [413]
    assert manager.state == "IDLE"
