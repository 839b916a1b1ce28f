"""A receiver of callbacks that misbehaves on the wire as it is told, in a process of its own.

Run with `--port` and `--database`. Under each name of one path segment it is a receiver by itself, whose URL
is `http://127.0.0.1:{port}/{name}`:

- `POST /{name}/generated` and `/{name}/validated` take callbacks, and keep them in a `BatchStore`;
- `POST /{name}/script` sets what happens to the next ones, a list of steps (`Step`), after which all is well;
- `GET /{name}/log` has every callback that came, whatever became of it, those before a restart too;
- `GET /{name}/batches` has what is stored with `public_key` = name, in the order of its arrival.

A receiver that refuses connections is one that has been stopped.
"""

import argparse
import asyncio
import hashlib
import json
import socket
import ssl
import struct
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from hallmark.poc.core.errors import StateError
from hallmark.server.receiver.store import BatchStore

_MAX_BODY = 2**26
_MAX_HEAD = 2**16


@dataclass(frozen=True)
class Step:
    """What happens to a callback.

    Attributes:
        fault: `none`: it is stored and answered. `status`: answered with `status` and `headers`, not stored.
            `slow`: stored, and answered after `seconds`. `slow head`, `slow body`: stored, and that part of
            the answer comes a byte each `seconds`. Connections closed too early: `cut before` at once,
            `cut stored` after it was stored, `cut head` in the status line, `cut body` after the headers;
            `reset` is `cut before` with a reset. `garbage`: something that is not HTTP. `close`: all is well,
            but the connection is closed although nobody said so.
        status: The status of the answer.
        headers: More headers of the answer.
        seconds: How slow.
        times: For how many callbacks.
    """

    fault: str = "none"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    times: int = 1


@dataclass(frozen=True)
class Request:
    """A request that came in full."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class FaultyReceiver:
    """The connections of one process.

    Args:
        database: The file of what is stored; beside it, with the suffix `.log`, lies what came.
    """

    def __init__(self, database: Path) -> None:
        self._store = BatchStore(database)
        self._log = database.with_suffix(".log")
        self._scripts: dict[str, deque[Step]] = defaultdict(deque)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until one of both sides closes it."""
        try:
            while (request := await _read(reader)) is not None and await self._answer(request, writer):
                pass
        except (ConnectionError, TimeoutError, ssl.SSLError):
            pass  # the sender left, which is its right
        finally:
            writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection goes on."""
        _, name, what = request.path.split("/", 2)
        if what in ("generated", "validated"):
            script = self._scripts[name]
            return await self._misbehave(script.popleft() if script else Step(), name, what, request, writer)
        if what == "script":
            steps = [Step(**step) for step in json.loads(request.body)]
            self._scripts[name] = deque(step for step in steps for _ in range(step.times))
            answer: Any = len(self._scripts[name])
        elif what == "log":
            lines = self._log.read_text().splitlines() if self._log.exists() else []
            answer = [entry for entry in map(json.loads, lines) if entry["name"] == name]
        else:
            found = self._store.find(public_key=name, limit=10_000)
            answer = [self._store.get(summary["id"]) for summary in found]
        writer.write(_response(200, json.dumps(answer).encode()))
        await writer.drain()
        return True

    async def _misbehave(
        self, step: Step, name: str, what: Any, request: Request, writer: asyncio.StreamWriter
    ) -> bool:
        status = step.status
        if step.fault not in ("status", "cut before", "cut head", "reset", "garbage"):
            try:
                self._store.add(what, json.loads(request.body), request.headers["webhook-id"])
            except StateError:
                status = 409
        self._note(step, name, what, request, status)
        if step.fault == "slow":
            await asyncio.sleep(step.seconds)
        elif step.fault == "slow head":
            await _drip(writer, _response(status, b"{}"), step.seconds)
        elif step.fault == "slow body":
            writer.write(_response(status, b"", {"Content-Length": "1000"}))
            await _drip(writer, b" " * 1000, step.seconds)
        elif step.fault == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.write(_answers(step, status))
        await writer.drain()
        return step.fault in ("none", "status", "slow")

    def _note(self, step: Step, name: str, what: str, request: Request, status: int) -> None:
        entry = {
            "time": time.time(),
            "name": name,
            "kind": what,
            "fault": step.fault,
            "status": status,
            "webhook_id": request.headers.get("webhook-id"),
            "headers": request.headers,
            "digest": hashlib.sha256(request.body).hexdigest(),
            "body": request.body.decode("utf-8", "replace"),
        }
        with self._log.open("a") as file:
            file.write(json.dumps(entry) + "\n")


async def _read(reader: asyncio.StreamReader) -> Request | None:
    """The next request; None where there is none, or not all of it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = first.split(" ")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.lower(): value.strip() for name, value in pairs}
        length = int(headers.get("content-length", 0))
        if length > _MAX_BODY:
            return None
        return Request(method, target, headers, await reader.readexactly(length))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        return None


def _answers(step: Step, status: int) -> bytes:
    """What is sent at last; nothing where it has been sent, or the connection is cut."""
    whole = _response(status, b"{}", step.headers)
    return {
        "cut head": whole[:7],
        "cut body": _response(status, b"{", {"Content-Length": "1000"}),
        "garbage": b"\x16\x03\x01\xff\x00 this is not HTTP\r\n\r\n",
        **dict.fromkeys(("cut before", "cut stored", "reset", "slow head", "slow body"), b""),
    }.get(step.fault, whole)


def _response(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    all_ = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{k}: {v}" for k, v in all_.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def _drip(writer: asyncio.StreamWriter, content: bytes, seconds: float) -> None:
    for byte in content:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(seconds)


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--certificate", type=Path, help="for TLS: the chain, in PEM")
    parser.add_argument("--key", type=Path, help="for TLS: its key, in PEM")
    arguments = parser.parse_args()
    context = None
    if arguments.certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(arguments.certificate, arguments.key)
    receiver = FaultyReceiver(arguments.database)
    server = await asyncio.start_server(
        receiver.serve, "127.0.0.1", arguments.port, ssl=context, limit=_MAX_HEAD
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
