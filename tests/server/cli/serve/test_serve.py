"""`hallmark serve` on real vLLM: ready when proof of compute is, and nothing left behind."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from descendants import descendants, wait_until_gone

from hallmark.server.processes.child import ChildProcess, free_port

ENGINE = "its process EngineCore"

pytestmark = [pytest.mark.server, pytest.mark.timeout(1200)]


@contextmanager
def serving(model: Path, log: Path, *flags: str, port: int) -> Iterator[ChildProcess]:
    command = (sys.executable, "-P", "-m", "hallmark.server", "serve", str(model))
    options = ("--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16", "--enforce-eager")
    with ChildProcess("hallmark serve", (*command, *options, *flags), log=log) as process:
        yield process


def wait_for(text: str, process: ChildProcess) -> None:
    """Return when the text stands in the log."""
    assert process.log is not None
    log = process.log
    process.wait_until(lambda: text in log.read_text(errors="replace"), seconds=600)


@pytest.mark.slow
def test_it_says_ready_once_chat_and_proofs_are_and_ends_as_vllm_ends(
    small_model: Path, tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    flags = ("--served-model-name", "demo", "--max-num-seqs", "32")
    with serving(small_model, tmp_path / "log", *flags, port=port) as process:
        wait_for(f"hallmark: ready: {url}, chat at /v1, proof of compute at /api/v1/pow\n", process)
        status = httpx.get(f"{url}/api/v1/pow/status").raise_for_status().json()
        assert status["state"] == "IDLE"
        body = {"model": "demo", "prompt": "Hello", "max_tokens": 2}
        completion = httpx.post(f"{url}/v1/completions", json=body, timeout=60).raise_for_status()
        assert completion.json()["usage"]["completion_tokens"] == 2
        below = descendants(process.pid)
        assert len(below) >= 2  # the API server and its engine
        assert process.terminate(seconds=60) == 0
    wait_until_gone(below)
    log = (tmp_path / "log").read_text(errors="replace")
    assert "hallmark: --max-num-batched-tokens is set to 8192" in log
    assert log.count("hallmark: ready") == 1


@pytest.mark.slow
def test_a_server_that_came_up_without_proof_of_compute_is_stopped(small_model: Path, tmp_path: Path) -> None:
    """vLLM leaves our routes out of a server that does not generate text, and only says so in its log."""
    flags = ("--runner", "pooling", "--convert", "embed")
    with serving(small_model, tmp_path / "log", *flags, port=free_port()) as process:
        wait_for("Initializing a V1 LLM engine", process)
        below = descendants(process.pid)
        assert process.wait(600) == 2
    wait_until_gone(below)
    assert (
        "hallmark: the server is up without proof of compute and is stopped: "
        "GET /api/v1/pow/status answers 404 (Not Found)"
    ) in process.log_tail(100)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_of_a_server_that_is_stopped_while_it_starts(
    small_model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with serving(small_model, tmp_path / "log", port=free_port()) as process:
        wait_for("Initializing a V1 LLM engine", process)
        below = descendants(process.pid)
        assert len(below) >= 2
        os.kill(process.pid, number)
        code = process.wait(60)
        assert code is not None
        assert code != 0
    wait_until_gone(below)


def test_the_engine_does_not_outlive_a_command_and_a_server_that_are_killed_at_once(
    small_model: Path, tmp_path: Path
) -> None:
    """Nobody is left to end it then, and it would keep the GPU. This server has no page, besides."""
    port = free_port()
    with serving(small_model, tmp_path / "log", "--no-page", port=port) as process:
        wait_for("hallmark: ready", process)
        assert httpx.get(f"http://127.0.0.1:{port}/poc").status_code == 404
        assert "hallmark: look at it" not in (tmp_path / "log").read_text(errors="replace")
        below = descendants(process.pid)
        (server,) = [pid for pid in below if below - {pid} == descendants(pid)]
        engine = below - {server}
        assert engine
        # The command is stopped, else it might end the engine in the moment between the two. With the server
        # stopped instead, Linux would end the engine by SIGHUP: a process group that loses its last parent
        # outside while one of its processes is stopped is hung up.
        os.kill(process.pid, signal.SIGSTOP)
        os.kill(server, signal.SIGKILL)
        os.kill(process.pid, signal.SIGKILL)
        wait_until_gone(below)
    assert "has ended: this one ends too" in (tmp_path / "log").read_text(errors="replace")


@pytest.mark.parametrize(
    ("whom", "number", "code", "told"),
    [
        ("engine", signal.SIGKILL, 1, f"vLLM has ended: {ENGINE} was killed by SIGKILL, which is what"),
        ("engine", signal.SIGSEGV, 1, f"vLLM has ended: {ENGINE} crashed with SIGSEGV (Segmentation fault)"),
        ("server", signal.SIGKILL, 137, "vLLM's API server was killed by SIGKILL, which is what the kernel"),
        ("server", signal.SIGTERM, 1, "vLLM has ended"),
    ],
)
@pytest.mark.slow
def test_the_last_line_says_why_it_ended(
    small_model: Path, tmp_path: Path, whom: str, number: signal.Signals, code: int, told: str
) -> None:
    with serving(small_model, tmp_path / "log", port=free_port()) as process:
        wait_for("hallmark: ready", process)
        below = descendants(process.pid)
        (server,) = [pid for pid in below if below - {pid} == descendants(pid)]
        engine = next(pid for pid in below if "EngineCore" in Path(f"/proc/{pid}/cmdline").read_text())
        os.kill({"engine": engine, "server": server}[whom], number)
        assert process.wait(120) == code
    wait_until_gone(below)
    last = (tmp_path / "log").read_text(errors="replace").splitlines()[-1]
    assert last.startswith(f"hallmark: {told}")
    if number == signal.SIGTERM:
        # vLLM may have killed its engine, or waited for it.
        assert re.search("another process sen.*SIGTERM", last), last


def test_the_exit_code_is_vllms(tmp_path: Path) -> None:
    (tmp_path / "no-model").mkdir()
    with serving(tmp_path / "no-model", tmp_path / "log", port=free_port()) as process:
        assert process.wait(600) == 1
    assert "no-model" in process.log_tail(100)
    assert process.log_tail(1) == "hallmark: vLLM ended with code 1: why stands in its log above"


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(small_model: Path, tmp_path: Path) -> None:
    with serving(small_model, tmp_path / "log", port=free_port()) as process:
        wait_for("Initializing a V1 LLM engine", process)
        below = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)  # two equal signals at once would be one
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (1, 128 + signal.SIGKILL)
    wait_until_gone(below)
