"""The runtime on a small transformers model, its HTTP API, and a receiver of its callbacks."""

import asyncio
import json
import math
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, cast

import httpx
import torch
import uvicorn
from builders import about, make_batch
from clock import Clock
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse
from transformers import Qwen3ForCausalLM
from transformers_engine import TransformersEngine, tiny_model

from hallmark.poc.core.errors import EngineError
from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.round_spec import RoundSpec
from hallmark.poc.rounds.engine_protocol import ComputedBatch, Slice
from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager
from hallmark.server.http import status as status_view
from hallmark.server.http.app import attach_manager, mount

POC = "/api/v1/pow"
QUICK = Settings(callback_interval=0.0, callback_backoff_base=0.0, callback_backoff_cap=0.0)
"""Settings that do not wait for anything."""

_PATIENCE = 60.0


@cache
def shared_model() -> Qwen3ForCausalLM:
    """A small model that no test changes."""
    return tiny_model()


async def eventually(condition: Callable[[], Any]) -> Any:
    """The first true value of a condition; an error where it stays false for a minute."""
    async with asyncio.timeout(_PATIENCE):
        while not (value := condition()):  # noqa: ASYNC110  # it is about what others do, not about an event
            await asyncio.sleep(0.002)
        return value


class Engine(TransformersEngine):
    """A real engine whose batches can be held back, and that fails on request.

    Attributes:
        calls: What was called, in order: `open`, `start`, `advance`, `close`.
        keys: The keys of every computed batch.
        is_idle: Whether a call may compute several batches; at first none may.
        overlapped: Whether a call began while another one was running, which the engine must not see.
        fail_open: The error the next opening ends with.
        fail_compute: The error that computing ends with.
        failed_nonces: Nonces that come back as NaN.
    """

    def __init__(self, model: Qwen3ForCausalLM | None = None, **limits: Any) -> None:
        super().__init__(shared_model() if model is None else model, **limits)
        self.calls: list[str] = []
        self.keys: list[list[NonceKey]] = []
        self._is_idle = False
        self.overlapped = False
        self.fail_open: Exception | None = None
        self.fail_compute: Exception | None = None
        self.failed_nonces: set[int] = set()
        self._may_compute = asyncio.Event()
        self._may_compute.set()
        self._busy = False

    @property
    def is_idle(self) -> bool:
        return self._is_idle

    @is_idle.setter
    def is_idle(self, idle: bool) -> None:
        self._is_idle = idle

    def hold(self) -> None:
        """Let no batch come to its end until `release`."""
        self._may_compute.clear()

    def release(self) -> None:
        """Let batches come to their end."""
        self._may_compute.set()

    @asynccontextmanager
    async def _call(self, name: str) -> AsyncIterator[None]:
        self.overlapped |= self._busy
        self._busy = True
        self.calls.append(name)
        try:
            yield
        finally:
            self._busy = False

    async def open_round(self, spec: RoundSpec) -> int:
        async with self._call("open"):
            if self.fail_open is not None:
                raise self.fail_open
            return await super().open_round(spec)

    async def start(self, batches: Sequence[Sequence[NonceKey]], layers: int | None) -> Slice:
        async with self._call("start"):
            self.keys += [list(keys) for keys in batches]
            return await self._end(await super().start(batches, layers))

    async def advance(self, layers: int | None) -> Slice:
        async with self._call("advance"):
            return await self._end(await super().advance(layers))

    async def _end(self, done: Slice) -> Slice:
        await self._may_compute.wait()
        if self.fail_compute is not None:
            raise self.fail_compute
        if done.batches is None:
            return done
        batches = zip(self.keys[-len(done.batches) :], done.batches, strict=True)
        return done._replace(
            batches=[
                ComputedBatch(self._with_failures(keys, batch.numbers), batch.host_seconds)
                for keys, batch in batches
            ]
        )

    def _with_failures(self, keys: Sequence[NonceKey], numbers: Sequence[list[float]]) -> list[list[float]]:
        return [
            [math.nan] * len(of_nonce) if nonce in self.failed_nonces else of_nonce
            for (_, nonce), of_nonce in zip(keys, numbers, strict=True)
        ]

    async def close_round(self) -> None:
        async with self._call("close"):
            await super().close_round()


def oracle(config: PoCConfig, keys: Sequence[NonceKey]) -> list[float]:
    """Distances from an engine of their own, one nonce at a time."""
    engine = TransformersEngine(shared_model())
    asyncio.run(engine.open_round(Round.resolve(config, engine.model).spec()))
    return [engine.distances([key])[0] for key in keys]


async def honest_proof(config: PoCConfig, nonces: Sequence[int], **changes: Any) -> ProofBatch:
    """What an honest prover, on its own engine, says of some nonces."""
    dist = await asyncio.to_thread(oracle, config, [(config.public_key, nonce) for nonce in nonces])
    return make_batch(**{**about(config), "nonces": nonces, "dist": dist, **changes})


@asynccontextmanager
async def running_manager(
    engine: TransformersEngine, settings: Settings = QUICK, *, clock: Clock | None = None
) -> AsyncIterator[PoCManager]:
    """A manager, shut down afterwards; on the machine's clocks, where it is given none."""
    if clock is None:
        manager = PoCManager(engine, settings)
    else:
        manager = PoCManager(engine, settings, clock=clock, now=clock)
    try:
        yield manager
    finally:
        if isinstance(engine, Engine):
            engine.release()
        await manager.shutdown()


def application(manager: PoCManager | None) -> FastAPI:
    """An app with inference of its own on the manager's model, and Hallmark mounted as on vLLM's."""
    app = FastAPI()

    @app.post("/v1/completions")
    async def completions(tokens: list[int]) -> dict[str, list[int]]:
        model = getattr(manager.engine, "_model", None) if manager is not None else None
        if model is None:
            raise EngineError("no model")
        return {"tokens": await asyncio.to_thread(_complete, model, tokens)}

    @app.get("/v1/models")
    async def models() -> dict[str, list[dict[str, str]]]:
        return {"data": [{"id": "tiny"}]}

    @app.get("/health")
    async def health() -> PlainTextResponse:
        return PlainTextResponse("")

    @app.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("listening")
        await websocket.close()

    mount(app)
    if manager is not None:
        attach_manager(app, manager)
    return app


@torch.inference_mode()
def _complete(model: Qwen3ForCausalLM, tokens: list[int]) -> list[int]:
    """Four greedy tokens."""
    for _ in range(4):
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits
        tokens = [*tokens, int(logits[0, -1].argmax())]
    return tokens


@asynccontextmanager
async def client_of(app: FastAPI, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client that calls the app without a network."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://node", timeout=60, **options
    ) as client:
        yield client


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    """The app on a real server on loopback, lifespan included; yields its base URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        settings = uvicorn.Config(
            app, log_level="warning", ws="websockets-sansio", timeout_graceful_shutdown=10
        )
        server = uvicorn.Server(settings)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await eventually(lambda: server.started or task.done())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


class CallbackReceiver:
    """What came in, and how it is answered.

    Attributes:
        requests: Path, headers and parsed body of every POST, refused ones included.
        connections: Address and port of every peer.
        answers: Statuses of the next answers; 200 once they are used up.
    """

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.connections: set[tuple[str, int]] = set()
        self.answers: list[int] = []
        self.app = FastAPI()
        self.app.add_api_route("/{path:path}", self._take, methods=["POST"])

    async def _take(self, request: Request) -> PlainTextResponse:
        body = json.loads(await request.body())
        raw_path: bytes = request.scope["raw_path"]
        assert request.client is not None
        self.connections.add((request.client.host, request.client.port))
        self.requests.append((raw_path.decode("ascii"), dict(request.headers), body))
        return PlainTextResponse("", self.answers.pop(0) if self.answers else 200)

    def bodies(self, kind: str) -> list[Any]:
        """The bodies that came for `generated` or `validated`."""
        return [body for path, _, body in self.requests if path.endswith(f"/{kind}")]


@asynccontextmanager
async def running_receiver() -> AsyncIterator[CallbackReceiver]:
    """A receiver on a real server on loopback."""
    receiver = CallbackReceiver()
    async with serving(receiver.app) as url:
        receiver.url = url
        yield receiver


def snapshot(manager: PoCManager) -> dict[str, Any]:
    """The status as a client reads it, who knows no types."""
    return cast("dict[str, Any]", status_view.snapshot(manager))
