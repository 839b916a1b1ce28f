"""The id of a request, in its answer and in the log."""

import logging
import re
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from builders import small_config, small_request
from clock import Clock
from runtime import (
    POC,
    Engine,
    application,
    client_of,
    eventually,
    honest_proof,
    running_manager,
    running_receiver,
)

from hallmark.poc.core.request_id import REQUEST_ID
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager
from hallmark.server.http.request_log import RepeatedRefusals

ANY_ID = re.compile(r"[0-9a-f]{32}")
KEY = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "hallmark.server")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("hallmark.server")]


@pytest.mark.parametrize("given", ["a", "0f-_.9", "A" * 64])
async def test_a_clients_id_is_kept(http: httpx.AsyncClient, given: str) -> None:
    for method, path in (
        ("GET", "/status"),
        ("POST", "/init"),
        ("GET", "/validate/unknown"),
        ("PUT", "/stop"),
    ):
        answer = await http.request(method, POC + path, headers={"X-Request-Id": given})
        assert answer.headers.get_list("X-Request-Id") == [given]
        if answer.is_error:
            assert answer.json()["request_id"] == given


@pytest.mark.parametrize(
    "given", [b"", b"A" * 65, b"a b", b"a\tb", b"\xc3\xa9", b"a,b", b"a;b", b"<a>", b"a\\nb", b"%0a"]
)
async def test_another_one_is_replaced(http: httpx.AsyncClient, given: bytes) -> None:
    answer = await http.post(f"{POC}/phase/generate", headers={b"X-Request-Id": given})
    assert ANY_ID.fullmatch(answer.headers["X-Request-Id"])
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


async def test_two_ids_are_none(http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{POC}/status", headers=[("X-Request-Id", "a"), ("X-Request-Id", "b")])
    assert ANY_ID.fullmatch(answer.headers["X-Request-Id"])


async def test_without_one_each_request_gets_its_own(http: httpx.AsyncClient) -> None:
    ids = {(await http.get(f"{POC}/status")).headers["X-Request-Id"] for _ in range(5)}
    assert len(ids) == 5


async def test_another_method_is_a_405_in_our_form(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await http.get(f"{POC}/init", headers={"X-Request-Id": "me"})
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert answer.json() == {"detail": "this path takes POST, not GET", "request_id": "me"}
    assert lines(caplog) == ["Request me: GET /api/v1/pow/init: 405: this path takes POST, not GET"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"{POC}/not/there", 404),
        ("HEAD", f"{POC}/not/there", 404),
        ("POST", f"{POC}/not/there", 404),
        ("OPTIONS", f"{POC}/", 404),
        ("GET", POC, 404),
        ("GET", f"{POC}/validate/a/b", 404),
        ("GET", f"{POC}/validate/unknown", 404),
        ("DELETE", f"{POC}/status", 405),
        ("GET", f"{POC}/status/", 307),
    ],
)
@pytest.mark.parametrize("root", ["", "/prefix"])
async def test_every_answer_under_the_prefix_names_its_request(
    manager: PoCManager, caplog: pytest.LogCaptureFixture, method: str, path: str, status: int, root: str
) -> None:
    """Also those that the app around us gives, and those of paths that nobody serves."""
    for given in ({"X-Request-Id": "me"}, {}):
        app = application(manager)
        app.root_path = root
        async with client_of(app) as http:
            answer = await http.request(method, f"http://node{root}{path}", headers=given)
            assert answer.status_code == status
            (identifier,) = answer.headers.get_list("X-Request-Id")
            assert identifier == "me" if given else ANY_ID.fullmatch(identifier)
            if answer.is_error:
                assert lines(caplog)[-1].startswith(
                    f"Request {identifier}: {method} {root}{path}: {status}: "
                )
            if answer.is_error and method != "HEAD":
                assert answer.json().keys() == {"detail", "request_id"}
                assert answer.json()["request_id"] == identifier


async def test_paths_beside_the_prefix_are_the_apps(http: httpx.AsyncClient) -> None:
    for path in ("/", "/v1/models", f"{POC}x", "/api/v1/poc/status"):
        assert "X-Request-Id" not in (await http.get(path)).headers


async def test_a_line_about_fields_that_nothing_knows_has_the_answers_id(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await http.post(f"{POC}/init", json=small_request(use_layer_hooks=True))
    assert {line.split()[1] for line in lines(caplog)} == {
        f"{answer.headers['X-Request-Id']}:",
    }
    assert len(lines(caplog)) == 2


async def test_what_changes_the_state_has_one_line_each(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    expected = []
    for path in (
        *(f"{POC}/init", f"{POC}/init/generate", f"{POC}/init/validate", f"{POC}/phase/generate"),
        *(f"{POC}/phase/validate", f"{POC}/stop", "/api/v1/stop"),
    ):
        answer = await http.post(path, json=small_request(), headers={"X-Request-Id": path.replace("/", ".")})
        assert answer.status_code == 200
        expected.append(f"Request {path.replace('/', '.')}: POST {path}: 200")
    assert lines(caplog) == expected
    assert {record.levelno for record in caplog.records if record.getMessage() in expected} == {logging.DEBUG}


async def test_what_only_asks_has_none(
    http: httpx.AsyncClient, manager: PoCManager, caplog: pytest.LogCaptureFixture
) -> None:
    await http.post(f"{POC}/init/validate", json=small_request())
    caplog.clear()
    proof = (await honest_proof(small_config(), range(4))).as_dict()
    verdict = await http.post(f"{POC}/validate", json=proof)
    answer = await http.get(f"{POC}/validate/{verdict.json()['request_id']}")
    for path in (f"{POC}/status", f"{POC}/versions", "/api/v1/state"):
        await http.get(path)
    assert lines(caplog) == []
    assert answer.json()["request_id"] == verdict.json()["request_id"], "the batch's id, not the request's"
    assert answer.headers["X-Request-Id"] != answer.json()["request_id"]


async def test_a_refused_request_has_one_line_with_what_it_was_told(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await http.post(
        f"{POC}/init", json=small_request(block_height=-1), headers={"X-Request-Id": "me"}
    )
    assert lines(caplog) == [f"Request me: POST /api/v1/pow/init: 400: {answer.json()['detail']}"]


async def test_the_same_refusal_has_a_line_a_minute(
    manager: PoCManager, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that polls with a wrong token, or sends one bad body for ever, does not flood the log."""
    clock = Clock(0.0)
    app = application(manager)
    app.state.hallmark_refusals = RepeatedRefusals(clock)
    async with client_of(app) as http:

        async def refused(path: str = "/phase/generate", **body: object) -> None:
            answer = await http.post(POC + path, json=body, headers={"X-Request-Id": f"at.{clock():g}"})
            assert answer.is_error

        for seconds in (0.0, 1.0, 59.0):
            clock.now = seconds
            await refused()
        assert len(lines(caplog)) == 1
        await refused("/phase/validate")
        await refused("/init", **small_request(block_height=-1))
        await refused("/init", **small_request(block_height=-2))
        assert len(lines(caplog)) == 4, "others have their own"
        clock.now = 60.0
        await refused()
        assert lines(caplog)[-1].startswith("Request at.60: POST /api/v1/pow/phase/generate: 409: ")
        assert lines(caplog)[-1].endswith(" (2 more like it since the last line)")
        for _ in range(2):
            assert (await http.post(f"{POC}/stop")).status_code == 200
        assert len(lines(caplog)) == 7, "what changes something always has one"


def test_so_many_refusals_are_remembered_and_no_more() -> None:
    repeated = RepeatedRefusals(lambda: 0.0)
    assert [repeated.left_out(each) for each in range(1000)] == [0] * 1000
    assert [repeated.left_out(each) for each in range(1000 - 256, 1000)] == [None] * 256
    assert repeated.left_out(0) == 0


@pytest.mark.parametrize(
    "text",
    [
        "a\nRequest forged: GET x: 200",
        "a\r\nb",
        "a\x1b[2Jb",
        "a\x85b\u2028c",
        "\u202egnp",
        "\x00",
        "\x7f\x9b",
    ],
)
async def test_no_request_writes_a_line_of_its_own(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    await http.post(f"{POC}/init", json=small_request(model=text))
    await http.get(f"{POC}/validate/{quote(text, safe='')}")
    await http.post(f"{POC}/init", json=small_request(callback_url=text))
    found = lines(caplog)
    assert len(found) == 3
    for line in found:
        assert line.isascii()
        assert line.isprintable()


async def test_a_line_is_bounded(http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    await http.post(f"{POC}/init", json=small_request(model="\U0001f600" * 4096))
    await http.get(f"{POC}/validate/{'x' * 20_000}")
    assert len(lines(caplog)) == 2
    assert all(len(line) < 800 for line in lines(caplog))


async def test_no_secret_is_in_a_line(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings.from_additional_config({}, {"HALLMARK_API_KEY": KEY})
    async with running_manager(engine, settings) as manager, client_of(application(manager)) as http:
        wrong = await http.post(f"{POC}/stop?key={KEY}x", headers={"Authorization": f"Bearer {KEY}x"})
        http.headers["Authorization"] = f"Bearer {KEY}"
        for body in (
            small_request(url=f"http://user:{KEY}@a.example"),
            small_request(url=f"http://user:{KEY}@a.example", callback_url="http://b.example"),
            small_request(url=f"http://user:{KEY}@a.example/{'x' * 5000}"),
        ):
            assert (await http.post(f"{POC}/init", json=body)).status_code == 400
        assert (await http.post(f"{POC}/stop", headers={"X-Request-Id": "ok"})).status_code == 200
    assert (wrong.status_code, len(lines(caplog))) == (401, 5)
    told = f"Request {wrong.json()['request_id']}: POST /api/v1/pow/stop: 401: the bearer token is wrong"
    assert lines(caplog)[0] == told
    assert "hunter2" not in caplog.text


async def test_an_error_that_was_not_foreseen_is_a_500_with_an_id_and_its_traceback_in_the_log(
    http: httpx.AsyncClient,
    manager: PoCManager,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(_: object) -> None:
        raise ZeroDivisionError("what nobody thought of")

    monkeypatch.setattr(manager, "switch_phase", fail)
    answer = await http.post(f"{POC}/phase/generate", headers={"X-Request-Id": "me"})
    assert answer.status_code == 500
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"] == "me"
    assert "nobody thought of" not in answer.text
    assert "ZeroDivisionError: what nobody thought of" in caplog.text
    assert lines(caplog) == [
        "Request me failed",
        f"Request me: POST /api/v1/pow/phase/generate: 500: {answer.json()['detail']}",
    ]


async def test_callbacks_say_which_request_they_come_of(
    http: httpx.AsyncClient, manager: PoCManager, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of a round name the request that set it, a verdict the one that brought its batch."""
    caplog.set_level(logging.INFO, "hallmark.poc.rounds")
    async with running_receiver() as receiver:
        body = small_request(callback_url=receiver.url)
        asked = {"X-Request-Id": "round-1"}
        await http.post(f"{POC}/init/generate", json=body, headers=asked)
        await eventually(lambda: receiver.bodies("generated"))
        await http.post(f"{POC}/phase/validate", headers={"X-Request-Id": "phase-2"})
        proof = (await honest_proof(small_config(), range(4))).as_dict()
        for path in ("/validate", "/validate?wait=false"):
            await http.post(POC + path, json=proof, headers={"X-Request-Id": f"batch-{len(path)}"})
        await eventually(lambda: len(receiver.bodies("validated")) == 2)
        await http.post(f"{POC}/stop")
        named = {
            kind: [
                headers.get("x-request-id") for path, headers, _ in receiver.requests if path.endswith(kind)
            ]
            for kind in ("generated", "validated")
        }
    assert set(named["generated"]) == {"round-1"}
    assert named["validated"] == ["batch-9", "batch-20"]
    assert any(line.endswith(", asked for by request round-1") for line in caplog.messages)


async def test_what_is_delivered_after_a_restart_says_it_too(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    settings = Settings(callback_interval=0.0, callback_backoff_base=0.01, outbox_path=str(path))
    async with running_receiver() as receiver:
        receiver.answers = [503] * 1000
        first = PoCManager(engine, settings, Outbox(settings, OutboxStore(path)))
        async with client_of(application(first)) as http:
            body = small_request(callback_url=receiver.url)
            await http.post(f"{POC}/init/generate", json=body, headers={"X-Request-Id": "before"})
            await eventually(lambda: receiver.requests)
        await first.shutdown()
        kept = OutboxStore(path)
        assert {delivery.request_id for delivery in kept.listed()} == {"before"}
        receiver.answers, receiver.requests = [], []
        second = Outbox(settings, kept)
        await second.recover()
        await eventually(lambda: receiver.requests and not second.stats()["queued"])
        assert {headers["x-request-id"] for _, headers, _ in receiver.requests} == {"before"}
        await second.close(5.0)


async def test_a_failed_callback_is_logged_with_its_request(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "hallmark.poc.outbox")
    async with running_receiver() as receiver:
        receiver.answers = [400]
        body = small_request(callback_url=receiver.url)
        await http.post(f"{POC}/init/generate", json=body, headers={"X-Request-Id": "mine"})
        await eventually(lambda: "dropped" in caplog.text)
    assert re.search(r"\(msg_[0-9a-f]{32} of request mine, 1 attempts\) dropped: HTTP 400", caplog.text)


class IdsOfLines(logging.Handler):
    """Notes which request each line is about, as logs of JSON say it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str | None]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record.getMessage(), REQUEST_ID.get()))


async def test_what_is_logged_of_a_batch_is_about_the_request_that_brought_it(
    http: httpx.AsyncClient, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hallmark.poc.rounds")
    lines = IdsOfLines()
    logging.getLogger("hallmark.poc.rounds").addHandler(lines)
    try:
        engine.failed_nonces = set(range(4))
        await http.post(f"{POC}/init/validate", json=small_request(), headers={"X-Request-Id": "the-round"})
        proof = (await honest_proof(small_config(), range(4))).as_dict()
        await http.post(f"{POC}/validate", json=proof, headers={"X-Request-Id": "the-batch"})
        await http.post(f"{POC}/stop", headers={"X-Request-Id": "the-stop"})
        await eventually(lambda: any("has ended" in line for line, _ in lines.found))
    finally:
        logging.getLogger("hallmark.poc.rounds").removeHandler(lines)
    about = {line.partition(":")[0].split(" ")[0]: found for line, found in lines.found if "verdict" in line}
    assert about == {"No": "the-batch"}
    assert {found for line, found in lines.found if "has started" in line or "has ended" in line} == {
        "the-round"
    }
