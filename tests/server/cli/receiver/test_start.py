"""How a receiver starts: with its port first, or not at all and without a trace."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from builders import BATCH, make_round
from command_line import Cli
from judged import judged_batch, validated_body

from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.server.processes.child import ChildProcess, ProcessError, free_port
from hallmark.server.receiver.listening import listening

HALLMARK = (sys.executable, "-P", "-m", "hallmark.server")
HEAVY = ("torch", "triton", "scipy", "vllm", "transformers")


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="the loopback interface has no IPv6")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_a_busy_port_ends_it_with_a_sentence_and_leaves_nothing(tmp_path: Path, taken: int) -> None:
    command = [*HALLMARK, "receiver", "--port", str(taken), "--database", str(tmp_path / "receiver.db")]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.splitlines() == [
        f"hallmark: port {taken} on 127.0.0.1 is in use",
        "hint: choose another with --port",
    ]
    assert [*tmp_path.iterdir()] == []


def test_its_log_is_json_where_that_is_asked_for(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    command = [
        *HALLMARK,
        "receiver",
        "--json-logs",
        "--port",
        str(port),
        "--database",
        str(tmp_path / "r.db"),
    ]
    with ChildProcess("the receiver", command, log=log) as process:
        process.wait_until(lambda: answers(f"http://127.0.0.1:{port}"), seconds=60)
        process.terminate()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["logger"] for line in lines} == {"hallmark.command", "uvicorn.error", "uvicorn.access"}
    assert lines[0]["message"] == f"Callbacks are taken at http://127.0.0.1:{port}."
    assert any('"GET /health HTTP/1.1" 200' in line["message"] for line in lines)


def test_what_ends_it_is_json_too(tmp_path: Path, taken: int) -> None:
    command = [
        *HALLMARK,
        "receiver",
        "--json-logs",
        "--port",
        str(taken),
        "--database",
        str(tmp_path / "r.db"),
    ]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (2, "")
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("ERROR", f"port {taken} on 127.0.0.1 is in use"),
        ("ERROR", "hint: choose another with --port"),
    ]


def test_it_is_the_first_thing_to_be_found_wrong(cli: Cli, tmp_path: Path, taken: int) -> None:
    missing = tmp_path / "missing"
    options = ("--port", taken, "--secrets-file", missing, "--database", missing / "receiver.db")
    assert cli("receiver", *options).err.startswith(f"hallmark: port {taken} on 127.0.0.1 is in use\n")


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "no-such-host.invalid", "two..dots", "1:2"])
def test_an_address_that_cannot_be_bound(cli: Cli, tmp_path: Path, host: str) -> None:
    result = cli("receiver", "--host", host, "--port", 0, "--database", tmp_path / "receiver.db")
    assert (result.code, result.out) == (2, "")
    sentence, hint = result.err.splitlines()
    assert sentence.startswith(f"hallmark: cannot listen on port 0 of {host}: ")
    assert hint == "hint: choose another with --host or --port"
    assert [*tmp_path.iterdir()] == []


class TestListening:
    """The socket that a receiver is given."""

    def test_a_port_is_held_from_the_first_moment(self) -> None:
        with listening("127.0.0.1", 0) as (listener, url):
            port = listener.getsockname()[1]
            assert url == f"http://127.0.0.1:{port}"
            with pytest.raises(ProcessError, match="in use"), listening("127.0.0.1", port):
                pass
            socket.create_connection(("127.0.0.1", port)).close()
        with listening("127.0.0.1", port):
            pass

    def test_an_empty_host_is_every_address(self) -> None:
        with listening("", 0) as (listener, url):
            assert listener.getsockname()[0] == "0.0.0.0"  # noqa: S104
            assert url.startswith("http://0.0.0.0:")

    @needs_ipv6
    def test_ipv6_leaves_the_port_to_ipv4_too(self) -> None:
        with listening("::", 0) as (listener, url):
            port = listener.getsockname()[1]
            assert url == f"http://[::]:{port}"
            with listening("0.0.0.0", port):  # noqa: S104
                pass


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", pytest.param("::1", marks=needs_ipv6)])
def test_a_free_port_is_named_and_serves(tmp_path: Path, host: str) -> None:
    command = [*HALLMARK, "receiver", "--host", host, "--port", "0", "--database", str(tmp_path / "r.db")]
    log = tmp_path / "log"

    def url() -> str:
        named = [line for line in log.read_text().splitlines() if line.startswith("Callbacks are taken at ")]
        return (
            named[0].removeprefix("Callbacks are taken at ").removesuffix(".")
            if named
            else "http://x.invalid"
        )

    with ChildProcess("the receiver", command, log=log) as process:
        process.wait_until(lambda: answers(url()), seconds=60)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert "Traceback" not in log.read_text()


class TestNoStrayFile:
    """A start that fails leaves every file as it was, and no other one."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A folder of what is none of a receiver's."""
        folder = tmp_path / "folder"
        folder.mkdir()
        OutboxDatabase(folder / "outbox.db").close()
        with closing(sqlite3.connect(folder / "bookmarks.db")) as database:
            database.execute("CREATE TABLE bookmarks (url TEXT)")
            database.execute("PRAGMA journal_mode = WAL")
        (folder / "notes.txt").write_text("no database, and longer than the header of one " * 9)
        (folder / "directory.db").mkdir()
        return folder

    @pytest.mark.parametrize(
        "options",
        [
            ("--database", "outbox.db"),
            ("--database", "bookmarks.db"),
            ("--database", "notes.txt"),
            ("--database", "directory.db"),
            ("--database", "missing/receiver.db"),
            ("--database", "notes.txt/receiver.db"),
            ("--secrets-file", "missing"),
            ("--secrets-file", "directory.db"),
            ("--secrets-file", "notes.txt"),
            ("--host", "192.0.2.1"),
            ("--port", "http"),
            ("--nothing",),
        ],
        ids=" ".join,
    )
    def test_it_fails(
        self, cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
    ) -> None:
        def contents() -> dict[str, bytes | None]:
            found = folder.rglob("*")
            return {str(each): each.read_bytes() if each.is_file() else None for each in found}

        monkeypatch.chdir(folder)
        before = contents()
        result = cli("receiver", *(() if "--port" in options else ("--port", 0)), *options)
        assert (result.code, result.out) == (2, "")
        assert options[0] in result.err or "192.0.2.1" in result.err
        assert contents() == before


@pytest.mark.parametrize("command", ["list", "export", "stats"])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--port", "9"), "--port"),
        (("--database", "x.db"), "--database"),
        (("--host", "127.0.0.1", "--secrets-file", "x"), "--host, --secrets-file"),
    ],
)
def test_options_of_the_receiver_before_another_command_are_refused(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    options: tuple[str, ...],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("-",) if command == "export" else ()
    result = cli("receiver", *options, command, *arguments)
    assert (result.code, result.out) == (2, "")
    expected = f"{named} before {command} is for the receiver itself; options of {command} come after it"
    assert expected in " ".join(result.err.split())
    assert [*tmp_path.iterdir()] == []


def test_an_unknown_command_is_none(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("receiver", "lists")
    assert result.code == 2
    assert "lists" in result.err
    assert [*tmp_path.iterdir()] == []


class TestModules:
    """What is loaded: nobody waits for what it does not need."""

    def test_its_commands_are_light(self) -> None:
        code = (
            "import json, sys, importlib\n"
            "for name in ('run', 'listing', 'export', 'stats', 'options'):\n"
            "    importlib.import_module(f'hallmark.server.cli.receiver.{name}')\n"
            "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
        )
        heavy = {*HEAVY, "fastapi", "uvicorn", "prometheus_client", "numpy", "pydantic", "httpx"}
        assert loaded(code) & heavy == set()

    def test_reading_batches_needs_neither_numpy_nor_a_server(self) -> None:
        code = (
            "import json, sys, pathlib\n"
            "import hallmark.server.cli.receiver.batch_file, hallmark.server.cli.tables\n"
            "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
        )
        heavy = {*HEAVY, "fastapi", "uvicorn", "prometheus_client", "numpy", "pydantic", "httpx"}
        assert loaded(code) & heavy == set()

    def test_its_application_takes_and_shows_batches_without_what_computes(self, tmp_path: Path) -> None:
        code = (
            "import json, sys, pathlib\n"
            "from fastapi.testclient import TestClient\n"
            "from hallmark.server.receiver.app import create_app\n"
            f"batch = json.loads({json.dumps(BATCH)!r})\n"
            f"with TestClient(create_app(pathlib.Path({str(tmp_path / 'r.db')!r}))) as client:\n"
            "    client.post('/generated', json=batch).raise_for_status()\n"
            "    for route in ('/stats', '/provers', '/metrics', '/health', '/batches', '/batches/1'):\n"
            "        client.get(route).raise_for_status()\n"
            "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
        )
        assert loaded(code) & {*HEAVY} == set()

    def test_a_receiver_that_runs_has_no_library_that_computes(self, tmp_path: Path) -> None:
        """But for scipy's special functions, once it has a verdict to score."""
        port = free_port()
        command = [*HALLMARK, "receiver", "--port", str(port), "--database", str(tmp_path / "receiver.db")]
        log = tmp_path / "log"
        url = f"http://127.0.0.1:{port}"

        def imported() -> set[str]:
            lines = [line for line in log.read_text().splitlines() if line.startswith("import time:")]
            return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}

        def take(route: str, body: dict[str, Any]) -> None:
            httpx.post(url + route, json=body, trust_env=False).raise_for_status()

        environment = {"PYTHONPROFILEIMPORTTIME": "1"}
        with ChildProcess("the receiver", command, log=log, environment=environment) as process:
            process.wait_until(lambda: answers(url), seconds=60)
            take("/generated", BATCH)
            assert {"fastapi", "uvicorn", "numpy"} <= imported(), "what it does need is seen"
            assert imported() & {*HEAVY} == set()
            round_ = make_round(honest_sigma=0.1, numbers=2)
            take("/validated", validated_body(judged_batch(round_, range(16), 1.0)))
            assert imported() & {*HEAVY} <= {"scipy"}
            mapped = Path(f"/proc/{process.pid}/maps").read_text()
        assert [name for name in ("libtorch", "libtriton", "vllm") if name in mapped] == []


def loaded(code: str) -> set[str]:
    """The packages that a process has loaded when it prints them."""
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert ran.returncode == 0, ran.stderr
    return {*json.loads(ran.stdout)}
