"""What balancers and orchestrators are told."""

import httpx
from builders import small_request
from runtime import POC, Engine, application, client_of, eventually, running_manager

from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager


async def test_it_is_503_while_chat_is_refused_and_200_else(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for path, status, state in (
            (None, 200, "IDLE"),
            ("/init", 200, "IDLE"),
            ("/init/generate", 503, "GENERATING"),
            ("/phase/validate", 200, "VALIDATING"),
            ("/phase/generate", 503, "GENERATING"),
            ("/stop", 200, "STOPPED"),
        ):
            if path is not None:
                assert (await http.post(POC + path, json=small_request())).status_code == 200
            answer = await http.get("/ready")
            assert (answer.status_code, answer.json()) == (status, {"state": state})
            assert ("Retry-After" in answer.headers) is (status == 503)
            assert (await http.post("/v1/completions", json=[1])).status_code == status
            head = await http.head("/ready")
            assert (head.status_code, head.content) == (status, b"")
            assert head.headers["Content-Length"] == answer.headers["Content-Length"]
            assert (await http.get("/health")).status_code == 200, "liveness is another thing"


async def test_a_round_that_fails_opens_it_again(
    http: httpx.AsyncClient, engine: Engine, manager: PoCManager
) -> None:
    engine.hold()
    await http.post(f"{POC}/init/generate", json=small_request())
    assert (await http.get("/ready")).status_code == 503
    engine.fail_compute = RuntimeError("the device is gone")
    engine.release()
    await eventually(lambda: manager.state == "STOPPED")
    answer = await http.get("/ready")
    assert (answer.status_code, answer.json()) == (200, {"state": "STOPPED"})


async def test_it_is_503_before_the_engine_is_up() -> None:
    async with client_of(application(None)) as http:
        answer = await http.get("/ready")
        assert (answer.status_code, answer.json()) == (503, {"state": None})
        assert int(answer.headers["Retry-After"]) > 0


async def test_where_chat_is_served_all_along_it_is_200_all_along(engine: Engine) -> None:
    settings = Settings(inference_while_generating=True)
    async with running_manager(engine, settings) as manager, client_of(application(manager)) as http:
        await http.post(f"{POC}/init/generate", json=small_request())
        answer = await http.get("/ready")
        assert (answer.status_code, answer.json()) == (200, {"state": "GENERATING"})


async def test_it_needs_no_token_and_takes_no_other_method(engine: Engine) -> None:
    settings = Settings.from_additional_config({}, {"HALLMARK_API_KEY": "a key"})
    async with running_manager(engine, settings) as manager, client_of(application(manager)) as http:
        assert (await http.get("/ready")).status_code == 200
        refused = await http.post("/ready")
        assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")
