"""The inference gate, on an app with inference of its own on the same model."""

import asyncio

import httpx
import pytest
from runtime import POC, Engine, application, client_of, config, honest_proof, request, running_manager

from hallmark.poc.config import PoCState
from hallmark.poc.manager import PoCManager
from hallmark.poc.settings import Settings
from hallmark.server.gate import stays_open

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
    ("POST", "/v1/models"),
    ("DELETE", "/health"),
    ("GET", "/a/route/of/a/later/version"),
    ("POST", "/api/v1/generate"),
    ("GET", "/v1/models/../chat/completions"),
    ("GET", "//v1/models"),
]
OPEN_ROUTES = [
    ("GET", "/v1/models"),
    ("GET", "/health"),
    ("HEAD", "/health"),
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


@pytest.mark.parametrize(("method", "path"), ENGINE_ROUTES)
async def test_what_reaches_the_engine_is_refused_while_generating(
    http: httpx.AsyncClient, method: str, path: str
) -> None:
    await http.post(f"{POC}/init/generate", json=request())
    answer = await http.request(method, path)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    if method != "HEAD":
        error = answer.json()["error"]
        assert "PoC generation is active" in error["message"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["code"] == 503


@pytest.mark.parametrize(("method", "path"), OPEN_ROUTES)
async def test_what_does_not_is_served(http: httpx.AsyncClient, method: str, path: str) -> None:
    await http.post(f"{POC}/init/generate", json=request())
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
    await http.post(f"{POC}/init/generate", json=request())
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
    await http.post(f"{POC}/init/validate", json=request())
    proof = (await honest_proof(config(), range(40))).as_dict()
    verdict, *completions = await asyncio.gather(
        http.post(f"{POC}/validate", json=proof),
        *(http.post("/v1/completions", json=[1, 2, 3]) for _ in range(6)),
    )
    assert verdict.json()["computed_distances"] == proof["dist"]
    assert [answer.json() for answer in completions] == [alone] * 6


async def test_a_setting_serves_inference_while_generating(engine: Engine) -> None:
    settings = Settings(inference_while_generating=True)
    async with running_manager(engine, settings) as manager, client_of(application(manager)) as http:
        await http.post(f"{POC}/init/generate", json=request())
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
    await http.post(f"{POC}/init/generate", json=request())
    sent = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, object]) -> None:
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
