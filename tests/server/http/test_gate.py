"""The inference gate, on an app with inference of its own on the same model."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import websockets
from builders import small_config, small_request
from clock import Clock
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import Response, StreamingResponse
from runtime import POC, Engine, application, client_of, eventually, honest_proof, running_manager, serving
from starlette.types import Message, Receive, Scope, Send

from hallmark.poc.protocol.config import PoCState
from hallmark.poc.rounds.inference_activity import QUIET_SECONDS, InferenceActivity
from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager
from hallmark.server.http.app import attach_manager, mount
from hallmark.server.http.gate import InferenceGate, stays_open

# Routes of vLLM 0.26 to 0.32 that reach the engine, its scheduler, its weights or its caches.
ENGINE_ROUTES = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/responses/resp_1"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v2/embed"),
    ("POST", "/cohere/v2/chat"),
    ("POST", "/pooling"),
    ("POST", "/classify"),
    ("POST", "/score"),
    ("POST", "/rerank"),
    ("POST", "/generative_scoring"),
    ("POST", "/inference/v1/generate"),
    ("POST", "/invocations"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/collective_rpc"),
    ("POST", "/sleep"),
    ("POST", "/wake_up"),
    ("POST", "/pause"),
    ("POST", "/update_weights"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/start_profile"),
    ("POST", "/scale_elastic_ep"),
    ("GET", "/a/route/of/a/later/version"),
    ("POST", "/api/v1/generate"),
    ("GET", "/static/docs.js"),
    ("GET", "/mounted/by/a/later/version"),
]
# What the app answers by itself: nothing is there, not by this method, or a slash too many.
UNROUTED = [
    ("GET", "/", 404),
    ("HEAD", "/", 404),
    ("POST", "/", 404),
    ("GET", "/favicon.ico", 404),
    ("GET", "/v2/health/ready", 404),
    ("POST", "/v1/no_such_route", 404),
    ("GET", "//v1/models", 404),
    ("GET", "/v1/chat/completions", 405),
    ("HEAD", "/v1/completions", 405),
    ("OPTIONS", "/v1/chat/completions", 405),
    ("POST", "/v1/models", 405),
    ("DELETE", "/health", 405),
    ("POST", "/v1/chat/completions/", 307),
]
OPEN_ROUTES = [
    ("GET", "/v1/models"),
    ("GET", "/health"),
    ("HEAD", "/health"),
    ("HEAD", f"{POC}/status"),
    ("GET", "/metrics"),
    ("GET", "/metrics/"),
    ("GET", "/version"),
    ("GET", "/ping"),
    ("POST", "/ping"),
    ("GET", "/load"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", f"{POC}/status"),
    ("POST", f"{POC}/stop"),
    ("POST", f"{POC}/validate"),
    ("GET", "/api/v1/state"),
    ("POST", "/api/v1/stop"),
]


class Reached:
    """An app with every route of `ENGINE_ROUTES`, the last two mounted, and what got to them."""

    def __init__(self, manager: PoCManager) -> None:
        self.paths: list[str] = []
        self.app = FastAPI()
        self.app.add_api_websocket_route("/v1/responses/live", self._take_websocket)
        for method, path in (*ENGINE_ROUTES[:-2], ("GET", "/v1/models"), ("GET", "/health")):
            self.app.add_api_route(path, self._take, methods=[method])
        mount(self.app)
        attach_manager(self.app, manager)
        self.app.mount("/static", self._take_anything)
        self.app.mount("/mounted", self._take_anything)

    async def _take(self, request: Request) -> Response:
        self.paths.append(request.url.path)
        return Response()

    async def _take_websocket(self, websocket: WebSocket) -> None:
        self.paths.append(websocket.url.path)
        await websocket.accept()
        await websocket.close()

    async def _take_anything(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        await Response()(scope, receive, send)


@pytest.fixture
def reached(manager: PoCManager) -> Reached:
    return Reached(manager)


@pytest.mark.parametrize(("method", "path"), ENGINE_ROUTES)
async def test_what_reaches_the_engine_is_refused_while_generating(
    reached: Reached, method: str, path: str
) -> None:
    async with client_of(reached.app) as http:
        assert (await http.request(method, path)).status_code == 200
        assert reached.paths == [path]
        await http.post(f"{POC}/init/generate", json=small_request())
        answer = await http.request(method, path)
    assert reached.paths == [path], "once, and not while generating"
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    error = answer.json()["error"]
    assert "PoC generation is active" in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == 503


@pytest.mark.parametrize(("method", "path", "status"), UNROUTED)
@pytest.mark.parametrize("root", ["", "/prefix"])
async def test_what_no_route_takes_is_answered_as_in_any_other_state(
    reached: Reached, method: str, path: str, status: int, root: str
) -> None:
    """Clients that probe `/` took a server that generates for dead."""
    reached.app.root_path = root
    async with client_of(reached.app) as http:
        idle = await http.request(method, f"http://node{root}{path}")
        await http.post(f"{POC}/init/generate", json=small_request())
        answer = await http.request(method, f"http://node{root}{path}")
    assert answer.status_code == idle.status_code == status
    assert (answer.content, answer.headers) == (idle.content, idle.headers)
    assert reached.paths == []


async def test_a_websocket_to_nowhere_is_refused_as_in_any_other_state(reached: Reached) -> None:
    async with serving(reached.app) as url, httpx.AsyncClient(base_url=url) as http:
        statuses = []
        for path in ("/init/validate", "/init/generate"):
            await http.post(POC + path, json=small_request())
            for target in ("/not/there", "/v1/completions", "/health"):
                with pytest.raises(websockets.InvalidStatus) as refused:
                    await websockets.connect(f"{url.replace('http', 'ws')}{target}", proxy=None)
                statuses.append(refused.value.response.status_code)
        assert statuses == [403] * 6
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{url.replace('http', 'ws')}/v1/responses/live", proxy=None)
        assert refused.value.response.status_code == 503
    assert reached.paths == []


@pytest.mark.parametrize(("method", "path"), OPEN_ROUTES)
async def test_what_does_not_is_served(http: httpx.AsyncClient, method: str, path: str) -> None:
    await http.post(f"{POC}/init/generate", json=small_request())
    answer = await http.request(method, path)
    assert answer.status_code != 503, answer.text


@pytest.mark.parametrize("root", ["", "/prefix"])
def test_the_path_is_looked_at_as_the_router_sees_it(root: str) -> None:
    def is_open(path: str) -> bool:
        return stays_open({"type": "http", "method": "GET", "path": path, "root_path": root})

    assert is_open(f"{root}/health")
    assert is_open("/health")
    assert is_open(f"{root}{POC}/status")
    assert not is_open(f"{root}/v1/chat/completions")
    assert not is_open("/prefixed/health")


async def test_inference_is_served_in_every_other_state(http: httpx.AsyncClient, manager: PoCManager) -> None:
    """Specification 6.2: inference allowed during VALIDATING state."""

    async def served() -> int:
        return (await http.post("/v1/completions", json=[1, 2, 3])).status_code

    assert (manager.state, await served()) == (PoCState.IDLE, 200)
    await http.post(f"{POC}/init/generate", json=small_request())
    assert (manager.state, await served()) == (PoCState.GENERATING, 503)
    await http.post(f"{POC}/phase/validate")
    assert (manager.state, await served()) == (PoCState.VALIDATING, 200)
    await http.post(f"{POC}/phase/generate")
    assert (manager.state, await served()) == (PoCState.GENERATING, 503)
    await http.post(f"{POC}/stop")
    assert (manager.state, await served()) == (PoCState.STOPPED, 200)


async def test_inference_and_validation_do_not_disturb_each_other(
    http: httpx.AsyncClient, manager: PoCManager
) -> None:
    """Specification 6.2: inference during validation, and validation still produces correct distances."""
    alone = (await http.post("/v1/completions", json=[1, 2, 3])).json()
    await http.post(f"{POC}/init/validate", json=small_request())
    proof = (await honest_proof(small_config(), range(40))).as_dict()
    verdict, *completions = await asyncio.gather(
        http.post(f"{POC}/validate", json=proof),
        *(http.post("/v1/completions", json=[1, 2, 3]) for _ in range(6)),
    )
    assert verdict.json()["computed_distances"] == proof["dist"]
    assert [answer.json() for answer in completions] == [alone] * 6


async def test_a_setting_serves_inference_while_generating(engine: Engine) -> None:
    settings = Settings(inference_while_generating=True)
    async with running_manager(engine, settings) as manager, client_of(application(manager)) as http:
        await http.post(f"{POC}/init/generate", json=small_request())
        assert manager.state is PoCState.GENERATING
        assert (await http.post("/v1/completions", json=[1])).status_code == 200


async def test_before_the_engine_is_up_nothing_is_refused() -> None:
    async with client_of(application(None)) as http:
        assert (await http.get("/v1/models")).status_code == 200
        assert (await http.get("/not/there")).status_code == 404


async def test_a_websocket_is_closed_where_the_server_cannot_refuse_it_with_an_answer(
    http: httpx.AsyncClient, manager: PoCManager
) -> None:
    app = application(manager)
    await http.post(f"{POC}/init/generate", json=small_request())
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/v1/realtime",
        "raw_path": b"/v1/realtime",
        "headers": [],
        "query_string": b"",
        "root_path": "",
        "subprotocols": [],
    }
    await app(scope, receive, send)
    (message,) = sent
    assert (message["type"], message["code"]) == ("websocket.close", 1013)
    assert "PoC generation is active" in str(message["reason"])
    assert len(str(message["reason"]).encode()) <= 123, "RFC 6455's limit"


class Inference:
    """An app with inference of its own that ends when it is told to."""

    def __init__(self, manager: PoCManager) -> None:
        self.activity = manager.activity
        self.may_go_on = asyncio.Event()
        self.app = FastAPI()
        self.app.add_api_route("/v1/completions", self._complete, methods=["POST"])
        self.app.add_api_route("/v1/stream", self._stream, methods=["POST"])
        self.app.add_api_route("/v1/broken", self._break, methods=["POST"])
        self.app.add_api_route("/v1/broken_stream", self._break_a_stream, methods=["POST"])
        self.app.add_api_websocket_route("/v1/realtime", self._echo)
        mount(self.app)
        attach_manager(self.app, manager)

    @property
    def is_served(self) -> bool:
        return self.activity.connections == 0 and self.activity.all_served.is_set()

    async def _complete(self) -> dict[str, str]:
        await self.may_go_on.wait()
        return {"text": "yes"}

    async def _stream(self) -> StreamingResponse:
        async def words() -> AsyncIterator[str]:
            yield "yes"
            await self.may_go_on.wait()
            yield " and no"

        return StreamingResponse(words())

    async def _break(self) -> None:
        await self.may_go_on.wait()
        raise RuntimeError("the model broke")

    async def _break_a_stream(self) -> StreamingResponse:
        async def words() -> AsyncIterator[str]:
            yield "yes"
            raise RuntimeError("the model broke")

        return StreamingResponse(words())

    async def _echo(self, websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            if text == "break":
                raise RuntimeError("the model broke")
            await websocket.send_text(text)


class TestConnectionsAreCounted:
    """Inference from its first byte to the end of its answer, and nothing else."""

    @pytest.fixture
    def inference(self, manager: PoCManager) -> Inference:
        return Inference(manager)

    @pytest.fixture
    async def url(self, inference: Inference) -> AsyncIterator[str]:
        async with serving(inference.app) as url:
            yield url
            inference.may_go_on.set()

    async def test_requests_count_until_they_are_answered(self, inference: Inference) -> None:
        async with client_of(inference.app) as client:
            asked = [asyncio.create_task(client.post("/v1/completions")) for _ in range(3)]
            await eventually(lambda: inference.activity.connections == 3)
            assert inference.activity.is_active
            assert not inference.activity.all_served.is_set()
            inference.may_go_on.set()
            assert [(await each).status_code for each in asked] == [200] * 3
        assert inference.is_served

    async def test_the_status_shows_them(self, inference: Inference, engine: Engine) -> None:
        engine.is_idle = True
        async with client_of(inference.app) as client:
            asked = asyncio.create_task(client.post("/v1/completions"))
            await eventually(lambda: inference.activity.connections)
            shown = (await client.get(f"{POC}/status")).json()["inference"]
            assert (shown["connections"], shown["quiet_connections"], shown["is_active"]) == (1, 0, True)
            inference.may_go_on.set()
            await asked
            shown = (await client.get(f"{POC}/status")).json()["inference"]
            assert (shown["connections"], shown["quiet_connections"], shown["is_active"]) == (0, 0, False)

    async def test_a_websocket_in_silence_is_not_waited_for_until_it_speaks_again(
        self, manager: PoCManager, engine: Engine
    ) -> None:
        clock = Clock()
        engine.is_idle = True
        manager.activity = InferenceActivity(engine, clock)
        inference = Inference(manager)
        async with (
            serving(inference.app) as url,
            websockets.connect(f"ws{url.removeprefix('http')}/v1/realtime") as socket,
        ):
            await socket.send("yes")
            assert await socket.recv() == "yes"
            assert inference.activity.quiet_connections == 0
            clock.advance(QUIET_SECONDS)
            assert inference.activity.quiet_connections == 1
            assert not inference.activity.is_active, "the engine has nothing to do for it"
            await socket.send("no")
            assert await socket.recv() == "no"
            assert inference.activity.quiet_connections == 0

    async def test_a_stream_counts_to_its_end(self, inference: Inference, url: str) -> None:
        async with (
            httpx.AsyncClient(base_url=url) as client,
            client.stream("POST", "/v1/stream") as answer,
        ):
            words = answer.aiter_text()
            assert await anext(words) == "yes"
            assert inference.activity.connections == 1, "the headers and the first words are not its end"
            inference.may_go_on.set()
            assert await anext(words) == " and no"
        await eventually(lambda: inference.is_served)

    async def test_a_client_that_goes_away_in_mid_stream_counts_no_longer(
        self, inference: Inference, url: str
    ) -> None:
        async with (
            httpx.AsyncClient(base_url=url) as client,
            client.stream("POST", "/v1/stream") as answer,
        ):
            assert await anext(answer.aiter_text()) == "yes"
            assert inference.activity.connections == 1
        await eventually(lambda: inference.is_served)
        assert not inference.may_go_on.is_set(), "the stream itself has not come to its end"

    async def test_a_websocket_counts_until_it_is_closed(self, inference: Inference, url: str) -> None:
        async with websockets.connect(f"{url.replace('http', 'ws')}/v1/realtime", proxy=None) as websocket:
            for text in ("one", "two"):
                await websocket.send(text)
                assert await websocket.recv() == text
                assert inference.activity.connections == 1
        await eventually(lambda: inference.is_served)

    async def test_a_websocket_that_is_cut_off_counts_no_longer(self, inference: Inference, url: str) -> None:
        websocket = await websockets.connect(f"{url.replace('http', 'ws')}/v1/realtime", proxy=None)
        await websocket.send("one")
        assert await websocket.recv() == "one"
        assert inference.activity.connections == 1
        websocket.transport.abort()
        await eventually(lambda: inference.is_served)
        await websocket.wait_closed()

    async def test_a_websocket_whose_app_fails_counts_no_longer(self, inference: Inference, url: str) -> None:
        async with websockets.connect(f"{url.replace('http', 'ws')}/v1/realtime", proxy=None) as websocket:
            await websocket.send("break")
            with pytest.raises(websockets.ConnectionClosedError):
                await websocket.recv()
        await eventually(lambda: inference.is_served)

    @pytest.mark.parametrize("path", ["/v1/broken", "/v1/broken_stream"])
    async def test_a_request_that_fails_counts_no_longer(self, inference: Inference, path: str) -> None:
        async with client_of(inference.app) as client:
            asked = asyncio.create_task(client.post(path))
            await eventually(lambda: inference.activity.connections or asked.done())
            inference.may_go_on.set()
            with pytest.raises(RuntimeError, match="the model broke"):
                await asked
        assert inference.is_served

    async def test_a_request_that_is_cancelled_counts_no_longer(self, inference: Inference) -> None:
        async with client_of(inference.app) as client:
            asked = asyncio.create_task(client.post("/v1/completions"))
            await eventually(lambda: inference.activity.connections == 1)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
        assert inference.is_served

    @pytest.mark.parametrize(("method", "path"), OPEN_ROUTES)
    async def test_what_does_not_reach_the_engine_is_not_counted(
        self, manager: PoCManager, method: str, path: str
    ) -> None:
        counts = await counted_while(manager, method, path)
        assert counts == [0]

    async def test_what_does_is_counted(self, manager: PoCManager) -> None:
        assert await counted_while(manager, "POST", "/v1/completions") == [1]
        assert manager.activity.connections == 0

    async def test_what_is_refused_is_not_counted(self, manager: PoCManager) -> None:
        await manager.start_round(small_config())
        sent: list[Any] = []
        assert await counted_while(manager, "POST", "/v1/completions", sent) == []
        assert sent[0]["status"] == 503
        assert [message["connections"] for message in sent] == [0] * len(sent)
        assert manager.activity.all_served.is_set()

    async def test_a_stream_that_began_before_the_gate_closed_still_counts(
        self, inference: Inference, manager: PoCManager
    ) -> None:
        async with client_of(inference.app) as client:
            asked = asyncio.create_task(client.post("/v1/stream"))
            await eventually(lambda: inference.activity.connections == 1)
            await manager.start_round(small_config())
            assert (await client.post("/v1/completions")).status_code == 503
            assert inference.activity.connections == 1
            inference.may_go_on.set()
            assert (await asked).text == "yes and no"
        assert inference.is_served


async def counted_while(
    manager: PoCManager, method: str, path: str, sent: list[Any] | None = None
) -> list[int]:
    """The connections that were counted while the app below the gate served a request."""
    counts = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        counts.append(manager.activity.connections)

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        if sent is not None:
            sent.append({**message, "connections": manager.activity.connections})

    outer = application(manager)
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "app": outer}
    await InferenceGate(app)(scope, receive, send)
    return counts
