"""What is told, and the oldest clients' state and stop."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from builders import small_request
from runtime import (
    POC,
    QUICK,
    Engine,
    application,
    client_of,
    eventually,
    running_manager,
    running_receiver,
    snapshot,
)

from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager
from hallmark.server.http.examples import STATUS


async def status(http: httpx.AsyncClient) -> Any:
    answer = await http.get(f"{POC}/status")
    assert answer.status_code == 200
    return answer.json()


async def test_before_any_round(http: httpx.AsyncClient) -> None:
    shown = await status(http)
    assert (shown["status"], shown["state"], shown["is_model_initialized"]) == ("IDLE", "IDLE", False)
    assert (shown["config"], shown["stats"], shown["reason"]) == (None, None, None)
    assert (shown["total_checked"], shown["valid_nonces"]) == (0, [])


async def test_while_generating(http: httpx.AsyncClient, manager: PoCManager, engine: Engine) -> None:
    await http.post(f"{POC}/init/generate", json=small_request(valid_rate=0.5))
    await eventually(lambda: snapshot(manager)["total_valid"] > 4)
    shown = await status(http)
    assert (shown["status"], shown["state"], shown["is_model_initialized"]) == (
        "GENERATING",
        "GENERATING",
        True,
    )
    assert shown["total_checked"] >= shown["total_valid"] > 4
    assert len(shown["valid_nonces"]) == len(shown["valid_distances"]) == min(shown["total_valid"], 1000)
    assert shown["rate_per_second"] > 0
    assert shown["elapsed_seconds"] > 0
    assert shown["stats"] == {
        "total_processed": shown["total_checked"],
        "nonces_per_second": shown["rate_per_second"],
    }
    assert shown["config"].keys() >= {
        *("block_hash", "block_height", "public_key", "node_id", "node_count"),
        *("group_id", "n_groups", "seq_len", "batch_size", "r_target", "valid_rate", "fraud_threshold"),
    }
    assert shown["projection"] == {"enabled": True, "bytes": 2 * 64 * 64 * 2}, "two matrices of bf16"
    assert shown["numerics"] == {**engine.numerics, "batch_size": 8, "seq_len": 8}
    await http.post(f"{POC}/stop")
    assert (await status(http))["numerics"] == engine.numerics, "without a round there is no batch shape"


async def test_the_plain_poc_holds_no_projection(http: httpx.AsyncClient) -> None:
    await http.post(f"{POC}/init/validate", json=small_request(use_random_projection=False))
    assert (await status(http))["projection"] == {"enabled": False, "bytes": 0}


async def test_a_stopped_round_says_idle_to_older_clients_and_keeps_its_numbers(
    http: httpx.AsyncClient, manager: PoCManager
) -> None:
    await http.post(f"{POC}/init/generate", json=small_request())
    await eventually(lambda: snapshot(manager)["total_checked"])
    await http.post(f"{POC}/stop")
    shown = await status(http)
    assert (shown["status"], shown["state"]) == ("IDLE", "STOPPED")
    assert shown["reason"] == "stopped by request"
    assert not shown["is_model_initialized"]
    assert shown["total_checked"] > 0
    assert shown["stats"] is None
    assert (await status(http))["elapsed_seconds"] == shown["elapsed_seconds"]


async def test_callback_and_retry_numbers_are_shown(http: httpx.AsyncClient, manager: PoCManager) -> None:
    """Specification 6.3: retry stats exposed in /status endpoint."""
    async with running_receiver() as receiver:
        receiver.answers = [503, 500]
        await http.post(f"{POC}/init/generate", json=small_request(url=f"{receiver.url}/org%252Fmodel"))
        await eventually(lambda: manager.outbox.stats()["delivered"] > 2)
        await http.post(f"{POC}/stop")
        await eventually(lambda: not manager.outbox.stats()["queued"])
        callbacks = (await status(http))["callbacks"]
        assert callbacks["retried"] == 2
        assert callbacks["delivered"] == len(receiver.requests) - 2
        assert (callbacks["queued"], callbacks["dropped"], callbacks["oldest_age"]) == (0, 0, None)
        assert callbacks["last_error"] == "HTTP 500"
        assert callbacks["receivers"].keys() == {f"{receiver.url}/org%252Fmodel"}


async def test_the_round_in_which_the_last_server_ended_is_shown_until_a_stop(tmp_path: Path) -> None:
    first = PoCManager(Engine(), QUICK, Outbox(QUICK, OutboxStore(tmp_path / "outbox.db")))
    async with client_of(application(first)) as http:
        await http.post(f"{POC}/init/generate", json=small_request(block_hash="0xabc", valid_rate=0.5))
        await eventually(lambda: snapshot(first)["total_checked"] > 16)
        assert (await status(http))["interrupted_round"] is None
        await first.shutdown()
        last = await status(http)
    second = PoCManager(Engine(), QUICK, Outbox(QUICK, OutboxStore(tmp_path / "outbox.db")))
    await second.recover()
    async with client_of(application(second)) as http:
        shown = await status(http)
        assert (shown["state"], shown["total_checked"]) == ("IDLE", 0)
        interrupted = shown["interrupted_round"]
        assert (interrupted["block_hash"], interrupted["phase"]) == ("0xabc", "GENERATING")
        assert (interrupted["reason"], interrupted["is_resumed"]) == ("the server is shutting down", False)
        for field in ("total_checked", "total_valid", "total_failed"):
            assert interrupted[field] == last[field]
        assert interrupted["round"] == last["config"]["round"]
        await http.post(f"{POC}/stop")
        assert (await status(http))["interrupted_round"] is None
    await second.shutdown()


async def test_no_secret_is_told(engine: Engine) -> None:
    settings = Settings.from_additional_config({"hallmark": {}}, {"HALLMARK_API_KEY": "hunter2-hunter2"})
    async with (
        running_manager(engine, settings) as manager,
        client_of(application(manager), headers={"Authorization": "Bearer hunter2-hunter2"}) as http,
    ):
        answers = [
            await http.post(f"{POC}/init/generate", json=small_request()),
            await http.get(f"{POC}/status"),
            await http.get(f"{POC}/versions"),
            await http.post(f"{POC}/init", json=small_request(url="http://user:hunter2@a.example")),
            await http.get("/openapi.json"),
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 400, 200]
    assert "hunter2" not in "".join(answer.text for answer in answers)


async def test_versions(http: httpx.AsyncClient) -> None:
    versions = (await http.get(f"{POC}/versions")).json()
    assert versions["poc_validation_inference"] is True
    assert versions["protocol"] == "hallmark/2"
    assert versions["version"] == versions["hallmark_version"] != ""
    assert versions["torch_version"].startswith("2.")
    assert "vllm_version" in versions


async def test_the_node_is_in_pow_mode_while_a_round_generates_or_validates(http: httpx.AsyncClient) -> None:
    async def mode() -> str:
        answer = await http.get("/api/v1/state")
        assert answer.status_code == 200
        return str(answer.json()["state"])

    assert await mode() == "INFERENCE"
    await http.post(f"{POC}/init", json=small_request())
    assert await mode() == "INFERENCE"
    for path in ("/phase/generate", "/phase/validate"):
        await http.post(POC + path)
        assert await mode() == "POW"
    stopped = await http.post("/api/v1/stop")
    assert (stopped.status_code, stopped.json()["status"]) == (200, "OK")
    assert await mode() == "INFERENCE"
    assert (await status(http))["state"] == "STOPPED"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/init"),
        ("POST", "/init/generate"),
        ("POST", "/init/validate"),
        ("POST", "/phase/generate"),
        ("POST", "/phase/validate"),
        ("POST", "/stop"),
        ("POST", "/validate"),
        ("GET", "/validate/some-id"),
        ("GET", "/status"),
        ("GET", "/versions"),
    ],
)
async def test_before_the_engine_is_up_every_route_is_a_503(method: str, path: str) -> None:
    async with client_of(application(None)) as http:
        answer = await http.request(method, POC + path, json=small_request())
        assert answer.status_code == 503
        told = {"detail": "the engine is not ready yet", "request_id": answer.headers["X-Request-Id"]}
        assert answer.json() == told
        assert int(answer.headers["Retry-After"]) > 0


async def test_the_api_is_documented_with_examples_that_are_true(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    ours = {path: item for path, item in document["paths"].items() if path.startswith("/api/v1/")}
    assert len(ours) == 12
    for path, item in ours.items():
        for operation in item.values():
            assert operation["description"], path
            responses = operation["responses"]
            assert "422" not in responses, "schema errors are 400 here"
            assert responses["default"]["content"]["application/json"]["example"]["detail"]
            assert responses["200"]["content"]["application/json"]["example"]
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is not None:
                assert body["schema"]["properties"].keys() >= body["example"].keys()
    example = ours[f"{POC}/init/generate"]["post"]["requestBody"]["content"]["application/json"]["example"]
    started = await http.post(f"{POC}/init/generate", json=example)
    assert started.status_code == 200
    assert started.json()["pow_status"].keys() == STATUS.keys()
    json.dumps(document, allow_nan=False)
