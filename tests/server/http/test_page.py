"""The page of a node: who may look, and that looking is all that a session is good for."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from builders import small_request
from runtime import POC, QUICK, Engine, application, client_of, eventually, running_manager, serving

from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager

KEY = "s3cret kéy"
WITH_KEY = Settings.from_additional_config({}, {"HALLMARK_API_KEY": KEY})
BEARER = {b"Authorization": f"Bearer {KEY}".encode()}
CONTROL_ROUTES = [
    (method.upper(), path.replace("{request_id}", "some-id"))
    for path, methods in application(None).openapi()["paths"].items()
    if path.startswith("/api/v1/")
    for method in methods
]
LOOKED_AT = ["/poc/moment", "/poc/events"]


@pytest.fixture
async def guarded(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    async with running_manager(engine, WITH_KEY) as manager, client_of(application(manager)) as http:
        yield http


async def log_in(http: httpx.AsyncClient, token: str = KEY) -> httpx.Response:
    return await http.post("/poc/login", data={"username": "hallmark", "token": token})


async def event(lines: AsyncIterator[str], name: str) -> Any:
    """The next event of a name."""
    async for line in lines:
        if line == f"event: {name}":
            return json.loads((await anext(lines)).removeprefix("data: "))
    raise AssertionError(f"no event {name}")


async def test_without_a_session_there_is_a_form_and_nothing_else(guarded: httpx.AsyncClient) -> None:
    page = await guarded.get("/poc")
    assert page.status_code == 401
    assert 'type="password"' in page.text
    for path in LOOKED_AT:
        assert (await guarded.get(path)).status_code == 401
    # What the form needs, and no script.
    assert (await guarded.get("/poc/files/page.css")).status_code == 200
    for script in ("node.js", "plotly.min.js"):
        assert (await guarded.get(f"/poc/files/{script}")).status_code == 401


async def test_a_wrong_token_opens_nothing_and_is_logged(
    guarded: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    for token in ("wrong", "", KEY.lower() + "x", "x" * 4000):
        answer = await log_in(guarded, token)
        assert (answer.status_code, answer.headers["location"]) == (303, "../poc?wrong")
        assert "set-cookie" not in answer.headers
    assert "This is not the token." in (await guarded.get("/poc?wrong")).text
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert (await guarded.get("/poc/moment")).status_code == 401
    assert "a wrong token was given to the page" in caplog.text
    assert "xxxx" not in caplog.text


async def test_the_token_begins_a_session_whose_cookie_no_script_reads(guarded: httpx.AsyncClient) -> None:
    answer = await log_in(guarded)
    assert (answer.status_code, answer.headers["location"]) == (303, "../poc")
    cookie, *attributes = answer.headers["set-cookie"].split("; ")
    assert KEY not in cookie
    # Without a path: the browser takes the folder of /poc/login, behind a prefix of a proxy too.
    assert sorted(attributes) == ["HttpOnly", "Max-Age=43200", "SameSite=strict"]
    page = await guarded.get("/poc")
    assert page.status_code == 200
    assert "Log out" in page.text
    assert (await guarded.get("/poc/moment")).json()["status"]["state"] == "IDLE"


async def test_behind_https_the_cookie_goes_nowhere_else(engine: Engine) -> None:
    async with running_manager(engine, WITH_KEY) as manager, client_of(application(manager)) as http:
        answer = await http.post("https://node/poc/login", data={"token": KEY})
    assert "Secure" in answer.headers["set-cookie"].split("; ")


@pytest.mark.parametrize(("method", "path"), CONTROL_ROUTES)
async def test_a_session_opens_no_control_route(guarded: httpx.AsyncClient, method: str, path: str) -> None:
    secret = (await log_in(guarded)).headers["set-cookie"].partition("=")[2].partition(";")[0]
    assert (await guarded.get("/poc/moment")).status_code == 200
    assert (await guarded.request(method, path, json=small_request())).status_code == 401
    bearer = {"Authorization": f"Bearer {secret}"}
    assert (await guarded.request(method, path, json=small_request(), headers=bearer)).status_code == 401


async def test_the_token_itself_is_no_session(guarded: httpx.AsyncClient) -> None:
    assert (await guarded.get("/poc/moment", headers=BEARER)).status_code == 401


@pytest.mark.parametrize("site", ["same-site", "cross-site", "none"])
async def test_another_port_of_the_host_reads_nothing_through_the_browser(
    guarded: httpx.AsyncClient, site: str
) -> None:
    """Cookies know no ports: a page of another port of this host would send the session along."""
    await log_in(guarded)
    for path in LOOKED_AT:
        assert (await guarded.get(path, headers={"Sec-Fetch-Site": site})).status_code == 401
    assert (await guarded.get("/poc/moment", headers={"Sec-Fetch-Site": "same-origin"})).status_code == 200
    assert (await guarded.post("/poc/logout", headers={"Sec-Fetch-Site": site})).status_code == 401
    assert (await guarded.get("/poc/moment")).status_code == 200


async def test_nor_does_it_where_the_browser_names_only_its_origin(guarded: httpx.AsyncClient) -> None:
    """As browsers do without HTTPS."""
    await log_in(guarded)
    for path in LOOKED_AT:
        assert (await guarded.get(path, headers={"Origin": "http://node:9999"})).status_code == 401


async def test_logging_out_ends_the_session_itself(guarded: httpx.AsyncClient) -> None:
    await log_in(guarded)
    cookies = dict(guarded.cookies)
    answer = await guarded.post("/poc/logout")
    assert (answer.status_code, answer.headers["location"]) == (303, "../poc")
    assert not dict(guarded.cookies)
    guarded.cookies.update(cookies)
    assert (await guarded.get("/poc/moment")).status_code == 401


async def test_sessions_of_two_servers_on_one_host_do_not_meet(engine: Engine) -> None:
    async with running_manager(engine, WITH_KEY) as manager, client_of(application(manager)) as http:
        names = {
            (await http.post(f"http://node:{port}/poc/login", data={"token": KEY}))
            .headers["set-cookie"]
            .partition("=")[0]
            for port in (8000, 8001)
        }
    assert names == {"hallmark_page_8000", "hallmark_page_8001"}


@pytest.mark.parametrize("host", ["node:port", "node:99999", "[::1]:8000", "node"])
async def test_whatever_host_is_asked_for_the_form_comes(guarded: httpx.AsyncClient, host: str) -> None:
    assert (await guarded.get("/poc", headers={"Host": host})).status_code == 401


async def test_a_form_that_is_too_long_has_a_wrong_token(guarded: httpx.AsyncClient) -> None:
    assert (await log_in(guarded, "x" * 5000)).headers["location"] == "../poc?wrong"


async def test_without_a_token_everybody_may_look(http: httpx.AsyncClient) -> None:
    page = await http.get("/poc")
    assert page.status_code == 200
    assert "Log out" not in page.text
    assert (await log_in(http, "any")).headers["location"] == "../poc"
    assert (await http.get("/poc/moment")).status_code == 200


async def test_there_may_be_no_page(engine: Engine) -> None:
    settings = Settings.from_additional_config({"hallmark": {"page": False}}, {})
    async with running_manager(engine, settings) as manager, client_of(application(manager)) as http:
        for path in ("/poc", "/poc/files/page.css", *LOOKED_AT):
            assert (await http.get(path)).status_code == 404
        assert (await log_in(http)).status_code == 404


async def test_before_the_engine_is_up_there_is_no_page_yet() -> None:
    async with client_of(application(None)) as http:
        assert (await http.get("/poc")).status_code == 503


async def test_no_page_is_loaded_from_elsewhere_or_framed(guarded: httpx.AsyncClient) -> None:
    await log_in(guarded)
    for path in ("/poc", "/poc/moment", "/poc/files/node.js"):
        policy = (await guarded.get(path)).headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy


async def test_it_is_shown_while_a_round_generates_and_counts_as_no_inference(
    engine: Engine, manager: PoCManager
) -> None:
    async with serving(application(manager)) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        await http.post(f"{POC}/init/generate", json=small_request())
        assert (await http.get("/poc")).status_code == 200
        async with http.stream("GET", "/poc/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.aiter_lines()
            history = await event(lines, "history")
            assert len(history["columns"]) == 9
            moment = await event(lines, "moment")
            assert moment["status"]["state"] == "GENERATING"
            assert moment["gate_closed"] is True
            later = await event(lines, "moment")
            assert later["status"]["total_checked"] > 0
            assert manager.activity.connections == 0
        engine.release()


async def test_what_it_tells_is_what_the_status_says(http: httpx.AsyncClient, manager: PoCManager) -> None:
    await http.post(f"{POC}/init/generate", json=small_request(valid_rate=0.5))
    await eventually(lambda: manager.active is not None and manager.active.statistics.total_checked >= 200)
    await http.post(f"{POC}/stop")
    status = (await http.get(f"{POC}/status")).json()
    moment = (await http.get("/poc/moment")).json()
    assert {"valid_nonces", "valid_distances"} == set(status) - set(moment["status"])
    assert moment["status"]["total_checked"] == status["total_checked"]
    histogram = moment["histogram"]
    assert sum(histogram["counts"]) == status["total_checked"] - status["total_failed"]
    assert sum(histogram["expected"]) == pytest.approx(status["total_checked"], rel=1e-3)
    # Half of them count: those above the middle of a law that is symmetric.
    assert histogram["target"] == pytest.approx(0, abs=1e-9)
    above = sum(histogram["counts"][20:])
    assert above == status["total_valid"]
    assert status["config"]["r_target"] == histogram["r_target"]


async def test_the_latest_verdicts_come_with_their_tests(
    http: httpx.AsyncClient, manager: PoCManager
) -> None:
    await http.post(f"{POC}/init/validate", json=small_request())
    for place in range(25):
        claim = {**small_request(), "nonces": [place], "dist": [1.0]}
        answer = await http.post(f"{POC}/validate", json=claim)
        assert answer.status_code == 200, answer.text
    verdicts = (await http.get("/poc/moment")).json()["verdicts"]
    assert len(verdicts) == 20
    assert verdicts[0]["verdict"]["tests"] == answer.json()["tests"]
    assert verdicts[0]["verdict"]["probability_honest"] == answer.json()["probability_honest"]
    assert verdicts[0]["public_key"] == small_request()["public_key"]
    assert verdicts[0]["at"] >= verdicts[-1]["at"]
    assert manager.queue.recent(1)[0].settled_at == verdicts[0]["at"]


async def test_a_batch_that_was_given_up_is_shown_with_its_reason(
    http: httpx.AsyncClient, engine: Engine
) -> None:
    await http.post(f"{POC}/init/validate", json=small_request())
    engine.hold()
    claim = {**small_request(), "nonces": [1], "dist": [1.0]}
    await http.post(f"{POC}/validate?wait=false", json=claim)
    await eventually(lambda: engine.keys)
    stopping = asyncio.create_task(http.post(f"{POC}/stop"))
    await asyncio.sleep(0.05)
    engine.release()
    await stopping
    [shown] = (await http.get("/poc/moment")).json()["verdicts"]
    assert shown["verdict"] is None
    assert "has ended" in shown["error"]


async def test_a_stream_ends_with_its_session(engine: Engine) -> None:
    settings = WITH_KEY.model_copy(update=QUICK.model_dump(include={"callback_interval"}))
    async with (
        running_manager(engine, settings) as manager,
        serving(application(manager)) as url,
        httpx.AsyncClient(base_url=url, timeout=60) as http,
    ):
        await log_in(http)
        async with http.stream("GET", "/poc/events") as answer:
            lines = answer.aiter_lines()
            await event(lines, "history")
            await http.post("/poc/logout")
            async with asyncio.timeout(10):
                assert [line async for line in lines]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_stream_ends_with_the_server(
    manager: PoCManager, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """uvicorn waits for every answer to end, and tells none that it should."""
    app = application(manager)
    server = Ending()
    async with serving(app) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        app.state.server = server
        async with http.stream("GET", "/poc/events") as answer:
            lines = answer.aiter_lines()
            await event(lines, "history")
            if fails:
                monkeypatch.setattr(app.state.hallmark_page, "moment", fail)
            server.should_exit = True
            async with asyncio.timeout(30):
                assert [line async for line in lines]


class Ending:
    """What vLLM has in the app's state: its uvicorn server."""

    def __init__(self) -> None:
        self.should_exit = False


def fail(_: PoCManager) -> None:
    raise RuntimeError("not today")


async def test_asked_by_head_the_stream_has_no_body_to_wait_for(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(10):
        answer = await http.head("/poc/events")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_a_page_that_cannot_be_shown_costs_no_server(
    manager: PoCManager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = application(manager)
    async with serving(app) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        page = app.state.hallmark_page
        ticks: list[int] = []

        def fail_again(_: PoCManager, tick: int) -> None:
            ticks.append(tick)
            raise RuntimeError("not today")

        monkeypatch.setattr(page, "_tick", fail_again)
        await eventually(lambda: len(ticks) == 3)
        assert caplog.text.count("The page cannot show the node") == 1
        monkeypatch.undo()
        assert (await http.get(f"{POC}/status")).status_code == 200
        await eventually(lambda: app.state.hallmark_page.history.latest is not None)
