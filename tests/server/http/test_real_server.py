"""What only a real server shows: raw requests, streamed bodies, websockets, the end of the process."""

import asyncio
import json
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx
import pytest
import websockets
from builders import small_config, small_request
from runtime import (
    POC,
    QUICK,
    Engine,
    application,
    eventually,
    honest_proof,
    running_manager,
    running_receiver,
    serving,
    snapshot,
)

from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager


async def talk(url: str, *parts: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; the status and the body of the answer."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return status, await reader.readexactly(length)
    finally:
        writer.close()


def posted(path: str, body: bytes) -> bytes:
    """A request as Go's client writes it: no Content-Type."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: node\r\nUser-Agent: Go-http-client/1.1\r\n"
        f"Content-Length: {len(body)}\r\nAccept-Encoding: gzip\r\n\r\n"
    ).encode() + body


async def test_the_go_clients_bytes_start_a_round_and_validate(url: str) -> None:
    status, answer = await talk(url, posted(f"{POC}/init/validate", json.dumps(small_request()).encode()))
    assert (status, json.loads(answer)["pow_status"]["state"]) == (200, "VALIDATING")
    proof = (await honest_proof(small_config(), range(6))).as_dict()
    status, answer = await talk(url, posted(f"{POC}/validate", json.dumps(proof).encode()))
    assert (status, json.loads(answer)["fraud_detected"]) == (200, False)
    status, answer = await talk(url, posted("/api/v1/stop", b""))
    assert (status, json.loads(answer)["status"]) == (200, "OK")


async def test_a_go_client_that_never_reads_its_answer_is_served_all_the_same(
    url: str, manager: PoCManager
) -> None:
    address = urlsplit(url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(posted(f"{POC}/init/generate", json.dumps(small_request()).encode()))
    await writer.drain()
    writer.close()
    await eventually(lambda: manager.state == "GENERATING")


@pytest.mark.parametrize("has_callback", [True, False])
async def test_a_client_that_leaves_while_it_waits_leaves_its_batch_to_whoever_hears_of_it(
    url: str, engine: Engine, manager: PoCManager, has_callback: bool
) -> None:
    """The verdict goes to the callback URL; without one nobody could ask for it, and it is given up."""
    callback = {"callback_url": f"{url}/not/there"} if has_callback else {}
    async with httpx.AsyncClient(base_url=url) as http:
        await http.post(f"{POC}/init/validate", json=small_request(**callback))
    engine.hold()
    proof = (await honest_proof(small_config(), range(6))).as_dict()
    address = urlsplit(url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(posted(f"{POC}/validate", json.dumps(proof).encode()))
    await eventually(lambda: engine.keys)
    writer.close()
    if not has_callback:
        await eventually(lambda: snapshot(manager)["validation"]["cancelled_jobs"] == 1)
    engine.release()
    await eventually(lambda: snapshot(manager)["validation"]["queued_jobs"] == 0)
    assert snapshot(manager)["validation"]["completed_jobs"] == int(has_callback)


class TestLargeBodies:
    """A body is limited while it comes in."""

    LIMIT = 10_000

    @pytest.fixture
    async def small(self, engine: Engine) -> AsyncIterator[str]:
        settings = Settings(max_body_bytes=self.LIMIT)
        async with running_manager(engine, settings) as manager, serving(application(manager)) as url:
            yield url

    @pytest.mark.parametrize("path", ["/init", "/init/generate", "/validate"])
    async def test_a_declared_length_is_refused_before_the_body_comes(self, small: str, path: str) -> None:
        head = posted(POC + path, b"").replace(b"Content-Length: 0", b"Content-Length: 100000000")
        status, answer = await talk(small, head)
        assert (status, json.loads(answer)["detail"]) == (
            413,
            f"the body is longer than max_body_bytes, {self.LIMIT}",
        )

    async def test_a_body_without_a_length_is_refused_when_it_has_come_too_far(self, small: str) -> None:
        head = (f"POST {POC}/validate HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n").encode()
        chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
        # The last chunk never comes: the answer does not wait for it.
        status, answer = await talk(small, head, chunk, chunk, chunk)
        assert status == 413
        assert "max_body_bytes" in json.loads(answer)["detail"]

    async def test_a_body_just_within_the_limit_is_read(self, small: str) -> None:
        body = json.dumps(small_request(padding="")).encode()
        body = json.dumps(small_request(padding="x" * (self.LIMIT - len(body)))).encode()
        assert len(body) == self.LIMIT
        status, _ = await talk(small, posted(f"{POC}/init", body))
        assert status == 200
        status, _ = await talk(small, posted(f"{POC}/init", body + b" "))
        assert status == 413


async def test_a_client_that_leaves_in_the_middle_of_its_body_does_no_harm(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    address = urlsplit(url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    with caplog.at_level("INFO", "hallmark"):
        writer.write(
            posted(f"{POC}/init", b"").replace(b"Content-Length: 0", b"Content-Length: 50") + b'{"block'
        )
        await writer.drain()
        writer.close()
        await eventually(lambda: "left in mid-request" in caplog.text)
    async with httpx.AsyncClient(base_url=url) as http:
        assert (await http.get(f"{POC}/status")).json()["state"] == "IDLE"


async def test_a_websocket_is_refused_with_503_while_generating_and_served_before_and_after(url: str) -> None:
    realtime = f"{url.replace('http', 'ws')}/v1/realtime"
    async with httpx.AsyncClient(base_url=url) as http:
        for path in ("/init/validate", "/init/generate", "/stop"):
            await http.post(POC + path, json=small_request())
            if path == "/init/generate":
                with pytest.raises(websockets.InvalidStatus) as refused:
                    await websockets.connect(realtime, proxy=None)
                assert refused.value.response.status_code == 503
                assert b"PoC generation is active" in (refused.value.response.body or b"")
            else:
                async with websockets.connect(realtime, proxy=None) as websocket:
                    assert await websocket.recv() == "listening"


async def test_a_whole_round_over_real_http(url: str, manager: PoCManager) -> None:
    """Generated, delivered, validated by what was delivered, and the verdicts delivered too."""
    async with running_receiver() as receiver, httpx.AsyncClient(base_url=url, timeout=60) as http:
        body = small_request(node_id=1, node_count=3, url=receiver.url)
        await http.post(f"{POC}/init/generate", json=body)
        await eventually(lambda: snapshot(manager)["total_valid"] >= 40)
        await http.post(f"{POC}/init/validate", json=body)
        await eventually(lambda: not manager.outbox.stats()["queued"])
        proofs = receiver.bodies("generated")
        for proof in proofs:
            assert (await http.post(f"{POC}/validate", json=proof)).json()["verdict"] == "honest"
        await eventually(lambda: len(receiver.bodies("validated")) == len(proofs))
        assert [body["nonces"] for body in receiver.bodies("validated")] == [
            body["nonces"] for body in proofs
        ]


async def test_the_end_of_the_server_ends_the_round_and_flushes_its_callbacks(engine: Engine) -> None:
    """The app's lifespan does it, and calls the engine no more."""
    async with running_receiver() as receiver:
        manager = PoCManager(engine, Settings(callback_interval=3600))
        async with serving(application(manager)) as url, httpx.AsyncClient(base_url=url) as http:
            await http.post(f"{POC}/init/generate", json=small_request(url=receiver.url))
            await eventually(lambda: snapshot(manager)["total_valid"] >= 16)
        assert manager.state == "STOPPED"
        assert "close" not in engine.calls
        found = [nonce for body in receiver.bodies("generated") for nonce in body["nonces"]]
        assert found == list(range(snapshot(manager)["total_valid"]))


async def test_a_request_that_waits_for_a_verdict_does_not_outlive_the_round(
    url: str, engine: Engine
) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        await http.post(f"{POC}/init/validate", json=small_request())
        engine.hold()
        proof = (await honest_proof(small_config(), range(6))).as_dict()
        waiting = asyncio.create_task(http.post(f"{POC}/validate", json=proof))
        await eventually(lambda: engine.keys)
        stopping = asyncio.create_task(http.post("/api/v1/stop"))
        assert (await waiting).status_code == 409
        engine.release()
        assert (await stopping).status_code == 200


def test_settings_of_the_tests_do_not_wait() -> None:
    assert (QUICK.callback_interval, QUICK.callback_backoff_cap) == (0.0, 0.0)
