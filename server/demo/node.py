"""The processes of the demo: a receiver, and one server after another."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from hallmark.poc.core.errors import HallmarkError
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.settings.settings import API_KEY_VARIABLE
from hallmark.server.cli.client import PoCClient, UnreachableError
from hallmark.server.models.small import fast_dtype
from hallmark.server.processes.child import ChildProcess, free_port

__all__ = [
    "BATCH_SIZE",
    "SEQ_LEN",
    "STALL_SECONDS",
    "DemoError",
    "Node",
    "Receiver",
    "running_node",
    "running_receiver",
]

STALL_SECONDS: Final = 180.0
"""The longest that anything is waited for: a verdict takes a minute where the cores are slow and busy."""

BATCH_SIZE: Final = 32
SEQ_LEN: Final = 64
"""The batch of the demo's rounds, which its servers are prepared for."""

_START_SECONDS: Final = 600.0
_CHAT_SECONDS: Final = 120.0
_COMMAND: Final = (sys.executable, "-P", "-m", "hallmark.server")
_SERVED_NAME: Final = "demo"

_FLAGS: Final = (
    *("--host", "127.0.0.1"),
    *("--served-model-name", _SERVED_NAME),
    "--enforce-eager",
    *("--max-model-len", "2048"),
    *("--max-num-seqs", "32"),
    *("--gpu-memory-utilization", "0.3"),
)

_ENVIRONMENT: Final = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB, of which the demo needs little
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # where there are two, one would be kept from the model
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


class DemoError(HallmarkError):
    """A part of the demo does not do what it should."""


@dataclass(frozen=True)
class Node:
    """A running server.

    Attributes:
        url: Where it answers.
        process: Of `hallmark serve`.
        poc: A client of its control routes.
    """

    url: str
    process: ChildProcess
    poc: PoCClient

    def chat(self, content: str) -> httpx.Response:
        """Ask for a short answer.

        Raises:
            UnreachableError: There is no answer.
        """
        body = {
            "model": _SERVED_NAME,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 12,
            "temperature": 0,
        }
        try:
            # With the token of the control routes, which vLLM does not ask for here and does not mind.
            return self.poc.http.post("/v1/chat/completions", json=body, timeout=_CHAT_SECONDS)
        except httpx.TransportError as exc:
            raise UnreachableError(f"no answer to a chat request: {exc or type(exc).__name__}") from exc


@dataclass(frozen=True)
class Receiver:
    """A running receiver.

    Attributes:
        url: Its callback URL.
        http: A client of it.
    """

    url: str
    http: httpx.Client

    def count(self, public_key: str, block_hash: str) -> int:
        """Return how many nonces of a key and a block it has."""
        stats = self._get("/stats", public_key=public_key, block_hash=block_hash)
        return int(stats["generated"]["nonces"])

    def proof(self, public_key: str, block_hash: str) -> ProofBatch:
        """Return all it has of a key and a block, joined into one batch in the order of arrival."""
        query = {"public_key": public_key, "block_hash": block_hash, "kind": "generated"}
        found: list[dict[str, Any]] = []
        while page := self._get("/batches", **query, after=str(found[-1]["id"] if found else 0)):
            found += page
        bodies = [self._get(f"/batches/{batch['id']}")["body"] for batch in found]
        if not bodies:
            raise DemoError(f"the receiver has nothing of {public_key!r} for block {block_hash!r}")
        return ProofBatch(
            public_key=public_key,
            block_hash=block_hash,
            block_height=bodies[0]["block_height"],
            node_id=bodies[0]["node_id"],
            round_digest=bodies[0].get("round"),
            nonces=tuple(nonce for body in bodies for nonce in body["nonces"]),
            dist=tuple(distance for body in bodies for distance in body["dist"]),
            vectors=tuple(vector for body in bodies for vector in body["vectors"]),
            encoding=bodies[0]["encoding"],
        )

    def _get(self, path: str, **query: str) -> Any:
        try:
            return self.http.get(path, params=query).raise_for_status().json()
        except httpx.HTTPError as exc:
            raise UnreachableError(f"the receiver does not answer GET {path}: {exc}") from exc


@contextmanager
def running_receiver(directory: Path) -> Iterator[Receiver]:
    """Run a receiver that keeps its batches and its log in a directory."""
    port = free_port()
    options = ("--port", str(port), "--database", str(directory / "receiver.db"))
    process = ChildProcess("the receiver", (*_COMMAND, "receiver", *options), log=directory / "receiver.log")
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        try:
            return http.get("/stats").is_success
        except httpx.TransportError:
            return False

    with process, httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
        process.wait_until(is_up, seconds=_START_SECONDS)
        yield Receiver(url, http)


@contextmanager
def running_node(model: Path, log: Path, api_key: str) -> Iterator[Node]:
    """Run `hallmark serve` on a model until the block ends.

    Args:
        model: Its directory.
        log: Where the server writes.
        api_key: The token of its control routes.

    Raises:
        ProcessError: It does not get ready.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {
        "max_batch_size": BATCH_SIZE,
        "seq_len": SEQ_LEN,
        "callback_interval": 1.0,
        "outbox_path": str(log.with_suffix(".outbox.db")),
    }
    process = ChildProcess(
        f"hallmark serve {model.name}",
        (
            *(*_COMMAND, "serve", str(model), "--port", str(port), "--dtype", fast_dtype(), *_FLAGS),
            *("--additional-config", json.dumps({"hallmark": settings})),
        ),
        log=log,
        environment={**_ENVIRONMENT, API_KEY_VARIABLE: api_key},
    )
    with (
        process,
        PoCClient(url, api_key, timeout=STALL_SECONDS, use_proxies=False) as poc,
    ):

        def is_up() -> bool:
            try:
                return bool(poc.get("/status"))
            except UnreachableError:
                return False

        process.wait_until(is_up, seconds=_START_SECONDS)
        yield Node(url, process, poc)
