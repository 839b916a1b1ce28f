"""The entry point, as far as it goes without an engine; tests/e2e starts it on vLLM."""

from argparse import Namespace
from importlib.metadata import entry_points
from typing import Any

import pytest
from builders import small_request
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from runtime import POC, Engine, client_of, running_manager

from hallmark.poc.core.errors import FieldError, UnsupportedError
from hallmark.server.http.app import attach_manager
from hallmark.server.http.plugin import create_plugin

LOOPBACK = Namespace(host="127.0.0.1", port=8000, uds=None)


class EngineClient:
    """Only the configuration: what is refused here is refused before the engine is asked."""

    def __init__(self, **settings: Any) -> None:
        self.vllm_config = Namespace(additional_config={"hallmark": {"outbox_path": "memory", **settings}})


def test_vllm_finds_the_plugin_by_its_entry_point() -> None:
    (found,) = entry_points(group="vllm.endpoint_plugins", name="hallmark_api")
    plugin = found.load()()
    assert plugin.name == "hallmark_api"
    assert plugin.required_tasks == ("generate",)


async def test_a_server_without_an_engine_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="needs an engine"):
        await create_plugin().init_state(None, FastAPI().state, LOOPBACK)


async def test_a_wrong_setting_is_refused_by_name() -> None:
    with pytest.raises(FieldError, match=r"hallmark\.max_batch_size: 0"):
        await create_plugin().init_state(EngineClient(batch_size=0), FastAPI().state, LOOPBACK)


async def test_a_network_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HALLMARK_API_KEY", raising=False)
    everywhere = Namespace(host=None, uds=None)
    with pytest.raises(UnsupportedError, match="every address"):
        await create_plugin().init_state(EngineClient(), FastAPI().state, everywhere)


@pytest.mark.parametrize("directory", [None, "/somewhere"])
async def test_the_metrics_are_shown_from_the_set_up_to_the_shutdown(
    directory: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the registry that vLLM's /metrics shows, or the log says why not; a process may set up again."""

    async def connect(*_: object) -> Engine:
        return Engine()

    monkeypatch.setattr("hallmark.poc.engine.client.connect", connect)
    if directory is not None:
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", directory)
    for _ in range(2):
        app, plugin = FastAPI(), create_plugin()
        plugin.attach_router(app)
        await plugin.init_state(EngineClient(), app.state, LOOPBACK)
        async with app.router.lifespan_context(app):
            assert b'hallmark_state{state="IDLE"} 1.0' in generate_latest()
        assert b"hallmark" not in generate_latest()
    warned = [record for record in caplog.records if "PROMETHEUS_MULTIPROC_DIR" in record.message]
    assert len(warned) == (0 if directory is None else 2)


async def test_the_apps_own_error_handlers_do_not_change_our_answers() -> None:
    """vLLM's app turns a ValueError, and every HTTPException, into an error of OpenAI's shape."""
    app = FastAPI()

    async def handle(_: Request, exc: Exception) -> JSONResponse:
        return JSONResponse({"error": {"message": str(exc)}}, 400)

    create_plugin().attach_router(app)
    for error in (HTTPException, ValueError, TypeError, Exception):
        app.add_exception_handler(error, handle)
    async with running_manager(Engine()) as manager, client_of(app) as http:
        answers = [await http.get(f"{POC}/status")]
        attach_manager(app, manager)
        answers += [
            await http.post(f"{POC}/init", json=small_request(block_height=-1)),
            await http.post(f"{POC}/phase/generate"),
            await http.get(f"{POC}/validate/unknown"),
            await http.post(f"{POC}/validate?wait=perhaps", json={}),
        ]
    assert [answer.status_code for answer in answers] == [503, 400, 409, 404, 400]
    assert all(answer.json().keys() == {"detail", "request_id"} for answer in answers)
    assert answers[-1].json()["detail"] == "wait: 'perhaps' is not allowed; allowed: true or false"
