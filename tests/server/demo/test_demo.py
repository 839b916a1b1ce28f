"""`hallmark demo`: right to the end, and clean when it is not allowed to get there."""

import signal
import sys
from pathlib import Path

import pytest
from descendants import descendants, wait_until_gone

from hallmark.server.processes.child import ChildProcess

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

DEMO = (sys.executable, "-P", "-m", "hallmark.server", "demo")


def output(process: ChildProcess) -> str:
    assert process.log is not None
    return process.log.read_text(errors="replace")


@pytest.mark.slow
def test_the_whole_demo_comes_out_right(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    environment = {"TMPDIR": str(tmp_path / "tmp")}
    with ChildProcess("the demo", DEMO, log=tmp_path / "log", environment=environment) as process:
        assert process.wait(800) == 0, output(process)
    shown = output(process)
    rows = [line.split("│")[1:-1] for line in shown.splitlines() if line.startswith("│")]
    assert [row[4].strip() for row in rows] == ["honest"] + 5 * ["fraud"]
    assert [row[5].strip() for row in rows] == 6 * ["✓"]
    assert "All came out right." in shown
    assert not list((tmp_path / "tmp").glob("hallmark-demo-*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    environment = {"TMPDIR": str(tmp_path)}
    with ChildProcess("the demo", DEMO, log=tmp_path / "log", environment=environment) as process:
        logs = list[Path]()

        def engine_starts() -> bool:
            logs[:] = tmp_path.glob("hallmark-demo-*/model.log")
            return any("Initializing a V1 LLM engine" in log.read_text(errors="replace") for log in logs)

        process.wait_until(engine_starts, seconds=300)
        below = descendants(process.pid)
        assert len(below) >= 4  # a receiver, hallmark serve, vLLM's API server and its engine
        process.send_signal(number)
        expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
        assert process.wait(120) == expected[number]
    wait_until_gone(below)
    assert bool(list(tmp_path.glob("hallmark-demo-*"))) is (number is signal.SIGKILL)


@pytest.mark.slow
def test_a_demo_that_fails_shows_the_log_and_where_it_is(tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path), "VLLM_LOGGING_CONFIG_PATH": str(tmp_path / "missing.json")}
    with ChildProcess("the demo", DEMO, log=tmp_path / "log", environment=environment) as process:
        assert process.wait(300) == 2
    shown = output(process)
    [log] = tmp_path.glob("hallmark-demo-*/model.log")
    assert "✗ hallmark serve model ended with code 1 before it was ready" in shown
    assert "missing.json" in shown
    assert f"The whole log is {log}" in shown
