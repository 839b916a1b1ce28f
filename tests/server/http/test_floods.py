"""Hundreds of hostile requests leave nothing behind: no round, nothing queued, nothing held open."""

import asyncio
import gzip
import json
from typing import Any
from urllib.parse import urlsplit

import httpx
from builders import small_config, small_request
from runtime import POC, Engine, eventually, honest_proof, snapshot

from hallmark.poc.specification import PoCManager

WITH_A_BODY = [f"{POC}{path}" for path in ("/init", "/init/generate", "/init/validate", "/validate")]
WITHOUT = [f"{POC}/phase/generate", f"{POC}/phase/validate"]
WHOLE = json.dumps(small_request()).encode()
NUMBERS = [
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "9" * 5000,
    "1e-400",
    "0x10",
    "07",
    "--1",
    "٣",
    "1_0",
    "+1",
    ".5",
]
NO_TEXTS: list[Any] = [None, 7, [], {}, "", "x" * 5000]


def raw(field: str, literal: str) -> bytes:
    return json.dumps({**small_request(), field: "@"}).replace('"@"', literal).encode()


BODIES = [
    *(raw(field, literal) for field in ("block_height", "node_id", "r_target") for literal in NUMBERS),
    *(raw(field, "[" * depth + "]" * depth) for field in ("params", "model") for depth in (1, 100, 5000)),
    *(b'{"a":' * depth for depth in (1, 1000, 100_000)),
    *(b"[" * depth for depth in (1, 1000, 100_000)),
    *(
        WHOLE.decode().encode(encoding)
        for encoding in ("utf-16", "utf-16-le", "utf-32", "utf-32-be", "cp037")
    ),
    *(
        gzip.compress(WHOLE),
        b"\xff" + WHOLE,
        WHOLE + b"\0",
        b"\xef\xbb\xbf" * 2 + WHOLE,
        b'{"a": "\xc0\x80"}',
    ),
    *(b"", b"null", b"true", b'""', b"[]", b"{}", b"{", b"}", b" ", WHOLE[:-1], WHOLE + WHOLE, b"a=b&c=d"),
    *(WHOLE[:-1] + rest for rest in (b",}", b', "block_hash": "x"}', b', "x": NaN}', b', "x": "\\ud800}')),
    *(json.dumps({**small_request(), "block_hash": value}).encode() for value in NO_TEXTS),
    *(json.dumps({**small_request(), "bacth_size": 1, **{str(key): 1 for key in range(5000)}}).encode(),),
]
HEADERS: list[dict[bytes, bytes]] = [
    {},
    {b"Content-Type": b"application/json"},
    {b"Content-Type": b"application/json; charset=utf-16"},
    {b"Content-Type": b"multipart/form-data; boundary=x", b"Content-Encoding": b"gzip"},
    {b"Content-Type": b"\xff", b"Accept": b"\xff", b"X-Request-Id": b"\xff" * 1000},
]


async def leave_in_the_middle(url: str, path: str, body: bytes) -> None:
    address = urlsplit(url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST {path} HTTP/1.1\r\nHost: node\r\nContent-Length: {len(body) + 10}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    writer.transport.abort()


async def test_after_hundreds_of_bad_requests_all_is_zero_and_a_good_round_runs(
    url: str, manager: PoCManager, engine: Engine
) -> None:
    sent = 0
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for path in WITH_A_BODY:
            for place, body in enumerate(BODIES):
                answer = await http.post(path, content=body, headers=HEADERS[place % 5])
                assert answer.status_code == 400, (path, body[:100], answer.text[:300])
                sent += 1
            for body in BODIES[::8]:
                await leave_in_the_middle(url, path, body)
                sent += 1
        for path in WITHOUT:
            for body in BODIES:
                answer = await http.post(path, content=body)
                assert answer.status_code == 409, (path, body[:100], answer.text[:300])
                sent += 1
        for path in (*WITH_A_BODY, *WITHOUT, f"{POC}/status", f"{POC}/validate/x", "/ready", "/api/v1/state"):
            for method in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "QUERY"):
                answer = await http.request(method, path, content=BODIES[sent % len(BODIES)])
                assert answer.status_code == 405, (method, path)
                sent += 1
        assert sent > 500
        status = (await http.get(f"{POC}/status")).json()
        assert (status["state"], status["config"], status["reason"]) == ("IDLE", None, None)
        assert status["total_checked"] == status["total_valid"] == status["total_failed"] == 0
        assert status["inference"]["connections"] == 0
        assert status["inference"]["is_active"] is not engine.is_idle
        counted = ("queued_jobs", "queued_nonces", "completed_jobs", "cancelled_jobs")
        assert [status["validation"][name] for name in counted] == [0] * 4
        assert status["callbacks"]["queued"] == 0
        assert engine.calls == []
        assert manager.active is None

        assert (await http.post(f"{POC}/init/generate", json=small_request())).status_code == 200
        await eventually(lambda: snapshot(manager)["total_valid"] >= 8)
        assert (await http.post(f"{POC}/phase/validate")).status_code == 200
        proof = (await honest_proof(small_config(), range(8))).as_dict()
        assert (await http.post(f"{POC}/validate", json=proof)).json()["verdict"] == "honest"
        assert (await http.post("/v1/completions", json=[1, 2])).status_code == 200
