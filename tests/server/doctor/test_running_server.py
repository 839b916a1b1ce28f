"""A server that runs, in every state that keeps it from proving itself: real ones, on loopback."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest
from builders import small_request
from clock import Clock
from command_line import Cli
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from findings import by_name
from prometheus_client import CollectorRegistry, generate_latest
from runtime import (
    POC,
    QUICK,
    Engine,
    application,
    eventually,
    running_manager,
    running_receiver,
    serving,
    snapshot,
)
from small_disk import small_file_system

from hallmark.poc.core.errors import EngineError, FieldError
from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.poc.outbox.delivery_queue import DeliveryQueue
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.settings.settings import API_KEY_VARIABLE, Settings
from hallmark.poc.specification import PoCManager
from hallmark.server.doctor.running_server import RunningServer, examine_server
from hallmark.server.http.metrics import register

TOKEN = "the-token-of-this-server"  # noqa: S105  # of no server but these
# However slow this machine is.
PATIENT = QUICK.model_copy(update={"max_stall_ms": 60_000.0})
GUARDED = PATIENT.model_copy(
    update={"api_key": Settings.from_additional_config({}, {API_KEY_VARIABLE: TOKEN}).api_key}
)
OK, WARNING, PROBLEM = "ok", "warning", "problem"


@pytest.fixture
def engine() -> Engine:
    return Engine()


@asynccontextmanager
async def served(manager: PoCManager, *, clock: float = 0.0, has_metrics: bool = True) -> AsyncIterator[str]:
    """A node of some manager, whose clock may be off by so many seconds."""
    app = application(manager)
    registry = CollectorRegistry()
    register(manager, registry)

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        text = generate_latest(registry).decode()
        lines = [line for line in text.splitlines() if not line.startswith("hallmark_clock_seconds")]
        lines.append(f"hallmark_clock_seconds {time.time() + clock}")
        return PlainTextResponse("\n".join(lines) if has_metrics else "process_open_fds 9.0\n")

    async with serving(app) as url:
        yield url


@pytest.fixture
async def url(engine: Engine) -> AsyncIterator[str]:
    async with running_manager(engine, PATIENT) as manager, served(manager) as url:
        yield url


Found = dict[str, tuple[str, str, str | None]]


async def look(url: str, api_key: str | None = None) -> Found:
    """What is found, by its name; no token is ever in it."""
    findings = await asyncio.to_thread(lambda: examine_server(RunningServer(url, api_key)))
    found = {each.name: (each.outcome.value, each.says, each.remedy) for each in findings}
    assert len(found) == len(findings)
    for outcome, says, remedy in found.values():
        assert (remedy is not None) == (outcome in (WARNING, PROBLEM))
        assert TOKEN not in f"{says} {remedy}"
    return found


def not_ok(found: Found) -> dict[str, str]:
    return {name: outcome for name, (outcome, *_) in found.items() if outcome != OK}


async def test_all_is_well(url: str) -> None:
    found = await look(url)
    assert not_ok(found) == {}
    assert found["server"][1] == f"{url} answers"
    assert found["plugin"][1].startswith("loaded, vLLM ")
    assert found["round"][1] == "IDLE, 0 nonces checked"
    assert found["callbacks"][1] == "0 delivered, 0 callbacks waiting"
    assert found["metrics"][1] == "GET /metrics has Hallmark's, and its clock agrees with this one"
    assert {*found} == {"server", "plugin", "round", "numerics", "callbacks", "metrics"}


async def test_a_round_runs_while_it_is_looked_at(url: str) -> None:
    async with running_receiver() as receiver, httpx.AsyncClient(base_url=url) as http:
        await http.post(f"{POC}/init/generate", json=small_request(callback_url=receiver.url))
        found = await look(url)
        await http.post(f"{POC}/stop")
    assert not_ok(found) == {}
    assert found["round"][1].startswith("GENERATING, ")


async def test_nothing_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    assert await look(url) == {
        "server": (
            PROBLEM,
            f"no answer from {url}: [Errno 111] Connection refused",
            "start it by hallmark serve MODEL, or give the URL of one that runs",
        )
    }


async def test_something_else_answers() -> None:
    async def garbage(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 a mail server\r\n")
        writer.close()

    async with await asyncio.start_server(garbage, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        found = await look(url)
    assert not_ok(found) == {"server": PROBLEM}
    assert found["server"][1].startswith(f"no answer from {url}: ")


async def test_the_engine_has_died() -> None:
    """vLLM answers its health checks with 503 then."""
    app = FastAPI()
    app.add_api_route("/health", lambda: PlainTextResponse("", 503))
    async with serving(app) as url:
        assert await look(url) == {
            "server": (
                PROBLEM,
                f"{url} answers GET /health with 503",
                "its engine has died or is starting: look at its log",
            )
        }


async def test_a_server_without_the_plugin() -> None:
    app = FastAPI()
    app.add_api_route("/health", lambda: PlainTextResponse(""))
    async with serving(app) as url:
        found = await look(url, TOKEN)
    assert not_ok(found) == {"plugin": PROBLEM, "metrics": WARNING}
    assert found["plugin"] == (
        PROBLEM,
        "the server is up without proof of compute",
        "start it by hallmark serve, and look for 'Failed to load plugin' in its log",
    )
    assert {*found} == {"server", "plugin", "metrics"}


async def test_the_plugin_is_of_another_version(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """This side's, which is what differs."""
    monkeypatch.setattr("hallmark.server.doctor.running_server.PROTOCOL", "hallmark/3")
    found = await look(url)
    assert not_ok(found) == {"plugin": WARNING}
    assert found["plugin"][1] == "it has Hallmark 0.1.0 with hallmark/2, here is 0.1.0 with hallmark/3"


@pytest.mark.parametrize(
    ("given", "told"), [("wrong", "it refuses the token"), (None, "it asks for a token")]
)
async def test_a_token_that_is_wrong_or_missing(engine: Engine, given: str | None, told: str) -> None:
    async with running_manager(engine, GUARDED) as manager, served(manager) as url:
        found = await look(url, given)
        assert not_ok(await look(url, TOKEN)) == {}
    assert not_ok(found) == {"token of the server": PROBLEM}
    assert found["token of the server"] == (PROBLEM, told, f"set {API_KEY_VARIABLE} to its token")


async def test_a_server_that_asks_for_no_token_although_there_is_one(url: str) -> None:
    found = await look(url, TOKEN)
    assert not_ok(found) == {"token of the server": PROBLEM}
    assert found["token of the server"][1].startswith("it answers without a token too: ")


async def test_an_engine_that_is_stuck(engine: Engine) -> None:
    settings = PATIENT.model_copy(update={"stuck_after": 0.01})
    async with running_manager(engine, settings) as manager, served(manager) as url:
        engine.hold()
        async with httpx.AsyncClient(base_url=url) as http:
            await http.post(f"{POC}/init/generate", json=small_request())
        await eventually(lambda: snapshot(manager)["is_stuck"])
        found = await look(url)
        engine.release()  # or its server waits for it
    assert not_ok(found) == {"round": PROBLEM}
    assert found["round"][1:] == (
        "the engine has not answered for 0 s",
        "look at vLLM's log and at the device",
    )


async def test_a_round_that_has_failed(engine: Engine) -> None:
    async with running_manager(engine, PATIENT) as manager, served(manager) as url:
        engine.fail_compute = EngineError("the device is on fire")
        async with httpx.AsyncClient(base_url=url) as http:
            await http.post(f"{POC}/init/generate", json=small_request())
        await eventually(lambda: snapshot(manager)["has_failed"])
        found = await look(url)
    assert not_ok(found) == {"round": PROBLEM}
    assert found["round"][1].startswith("it ended by a failure: ")
    assert "the device is on fire" in found["round"][1]


async def test_nonces_that_cannot_be_computed(engine: Engine) -> None:
    engine.failed_nonces = {0, 1}
    async with running_manager(engine, PATIENT) as manager, served(manager) as url:
        async with httpx.AsyncClient(base_url=url) as http:
            await http.post(f"{POC}/init/generate", json=small_request())
            await eventually(lambda: snapshot(manager)["total_failed"])
            await http.post(f"{POC}/stop")
        found = await look(url)
    assert not_ok(found) == {"round": WARNING}
    assert found["round"][1] == "STOPPED, 2 nonces could not be computed: NaN or infinity"


async def test_a_layer_that_takes_longer_than_is_allowed(engine: Engine) -> None:
    settings = QUICK.model_copy(update={"max_stall_ms": 1e-6})
    async with running_manager(engine, settings) as manager, served(manager) as url:
        async with httpx.AsyncClient(base_url=url) as http:
            await http.post(f"{POC}/init/generate", json=small_request())
            await eventually(lambda: snapshot(manager)["validation"]["max_stall_is_met"] is False)
            await http.post(f"{POC}/stop")
        found = await look(url)
    assert not_ok(found) == {"stall": WARNING}
    assert "and max_stall_ms is 1e-06: chat waits longer than you set" in found["stall"][1]


def kept_in(path: Path, settings: Settings = PATIENT) -> PoCManager:
    return PoCManager(Engine(), settings, Outbox(settings, OutboxStore.bounded_by(settings, path)))


async def test_a_round_that_the_last_server_left(tmp_path: Path) -> None:
    first = kept_in(tmp_path / "outbox.db")
    async with served(first) as url, httpx.AsyncClient(base_url=url) as http:
        await http.post(f"{POC}/init/generate", json=small_request())
        await eventually(lambda: snapshot(first)["total_checked"])
    second = kept_in(tmp_path / "outbox.db")
    await second.recover()
    async with served(second) as url:
        found = await look(url)
    assert not_ok(found) == {"round": WARNING}
    assert found["round"][1:] == (
        "block 7 was interrupted by the server's end",
        "start it again, stop it, or set resume_on_start",
    )


class TestCallbacks:
    SETTINGS = PATIENT.model_copy(update={"callback_backoff_base": 60.0, "callback_backoff_cap": 60.0})

    @pytest.fixture
    def dead(self) -> str:
        """Where no receiver is."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            return f"http://127.0.0.1:{server.getsockname()[1]}"

    async def test_they_wait_for_a_receiver_that_is_down(self, engine: Engine, dead: str) -> None:
        async with running_manager(engine, self.SETTINGS) as manager, served(manager) as url:
            await manager.outbox.post(dead, "generated", b"{}")
            await eventually(lambda: manager.outbox.stats()["last_error"])
            found = await look(url)
        assert not_ok(found) == {"callbacks": WARNING}
        assert found["callbacks"][1].startswith("1 callback waiting: ConnectError")
        assert found["callbacks"][2] == "see that the receiver is up and answers 2xx"

    async def test_they_have_waited_for_long(self, tmp_path: Path, dead: str) -> None:
        """For a quarter of an hour, by the clock of their server."""
        store = OutboxStore(tmp_path / "outbox.db")
        clock = Clock()
        outbox = Outbox(self.SETTINGS, store, clock=clock, steady=clock)
        manager = PoCManager(Engine(), self.SETTINGS, outbox)
        async with served(manager) as url:
            await outbox.post(dead, "generated", b"{}")
            await eventually(lambda: outbox.stats()["last_error"])
            clock.advance(900)
            found = await look(url)
        assert not_ok(found) == {"callbacks": WARNING}
        assert found["callbacks"][1].startswith("1 callback waiting, the oldest for 15 min")

    async def test_they_are_refused_until_they_are_retried(self, tmp_path: Path) -> None:
        """A count of the server's whole life is no problem for ever."""
        manager = kept_in(tmp_path / "outbox.db", self.SETTINGS)
        await manager.recover()
        async with running_receiver() as receiver, served(manager) as url:
            receiver.answers = [404]
            await manager.outbox.post(receiver.url, "generated", b"{}")
            await eventually(lambda: manager.outbox.stats()["dead_letters"])
            found = await look(url)
            assert not_ok(found) == {"callbacks": PROBLEM}
            assert found["callbacks"][1:] == (
                "1 dead letter (rejected 1): HTTP 404",
                "mend the cause, then run hallmark outbox retry --all on the server's machine",
            )
            with closing(OutboxDatabase(tmp_path / "outbox.db", for_server=False)) as tool:
                DeliveryQueue(tool).retry()
            await eventually(lambda: manager.outbox.stats()["delivered"])
            found = await look(url)
        assert not_ok(found) == {"callbacks": WARNING}
        assert found["callbacks"][1] == (
            "1 given up since the server's start (rejected 1), none can be retried"
        )

    async def test_the_outbox_is_nearly_full(self, tmp_path: Path, dead: str) -> None:
        settings = self.SETTINGS.model_copy(update={"callback_max_queue": 5})
        manager = kept_in(tmp_path / "outbox.db", settings)
        async with served(manager) as url:
            for _ in range(5):
                await manager.outbox.post(dead, "generated", b"{}")
            await eventually(lambda: manager.outbox.stats()["last_error"])
            found = await look(url)
        assert not_ok(found) == {"callbacks": WARNING, "outbox of the server": PROBLEM}
        assert found["outbox of the server"] == (
            PROBLEM,
            "100% full: at 100% the oldest proofs are dropped",
            "bring the receiver back, or raise outbox_max_bytes and callback_max_queue",
        )

    async def test_its_disk_has_no_room(self, tmp_path: Path) -> None:
        with small_file_system(tmp_path / "disk", 2**20) as disk:
            async with served(kept_in(disk.path / "outbox.db")) as url:
                found = await look(url)
        assert not_ok(found) == {"outbox of the server": PROBLEM}
        assert found["outbox of the server"][2] == "make room on that disk"


@pytest.mark.parametrize("seconds", [-300.0, 45.0])
async def test_a_clock_that_is_off(engine: Engine, seconds: float) -> None:
    async with running_manager(engine, PATIENT) as manager, served(manager, clock=seconds) as url:
        found = await look(url)
    assert not_ok(found) == {"clock of the server": PROBLEM}
    assert found["clock of the server"][1].endswith("from this one: signatures are refused from 5 min on")


async def test_metrics_without_ours(engine: Engine) -> None:
    async with running_manager(engine, PATIENT) as manager, served(manager, has_metrics=False) as url:
        found = await look(url)
    assert found["metrics"] == (
        WARNING,
        "GET /metrics has none of Hallmark",
        "start the server by hallmark serve, without PROMETHEUS_MULTIPROC_DIR",
    )


@pytest.mark.parametrize("url", ["http://user:pw-of-it@h:99999", "http://user:pw-of-it@h:x"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(FieldError, match="allowed: http://HOST:PORT") as refused:
        RunningServer(url, None)
    assert "pw-of-it" not in str(refused.value)


async def test_credentials_in_the_url_are_not_shown(engine: Engine) -> None:
    async with running_manager(engine, PATIENT) as manager, served(manager) as url:
        found = await look(url.replace("://", "://user:pw-of-it@"))
    assert not_ok(found) == {}
    [*_, address] = url.split("/")
    assert found["server"][1] == f"…@{address} answers"
    found = await look(url.replace("://", "://user:pw-of-it@"))  # it is down by now
    assert not_ok(found) == {"server": PROBLEM}
    assert "pw-of-it" not in json.dumps(found)


async def test_by_the_command_line(cli: Cli, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installation and the server, by a token that is the settings'."""
    async with running_manager(engine, GUARDED) as manager, served(manager) as url:
        monkeypatch.setenv(API_KEY_VARIABLE, TOKEN)
        result = await asyncio.to_thread(cli, "doctor", url, "--json", "--api-key", TOKEN)
    found = by_name(result)
    assert [*found][-6:] == ["server", "plugin", "round", "numerics", "callbacks", "metrics"]
    assert result.code == 0
    assert TOKEN not in result.out + result.err
