"""The process manager: whatever happens to the parent, no child stays."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hallmark.server.processes.child import ChildProcess, ProcessError, check_port, free_port, process_group
from hallmark.server.processes.tether import PARENT_VARIABLE, parent_is_gone

PYTHON = [sys.executable, "-P", "-c"]

# Starts a child of its own, says so by a file, and sleeps.
WITH_A_CHILD = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-P", "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""

IGNORES_SIGTERM = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""

# A parent of the kind that `hallmark demo` is: it starts a child and waits.
PARENT = f"""
import pathlib, sys, time
from hallmark.server.processes.child import ChildProcess
child = ChildProcess("child", [sys.executable, "-P", "-c", {WITH_A_CHILD!r}, sys.argv[1]])
pathlib.Path(sys.argv[2]).write_text(str(child.pid))
time.sleep(600)
"""


def wait_for(path: Path) -> str:
    while not (path.exists() and (text := path.read_text())):
        time.sleep(0.02)
    return text


def wait_for_end(group: int) -> None:
    """Return when no process of the group runs; pytest's timeout is the limit."""
    while process_group(group):
        time.sleep(0.02)


def test_it_collects_output_and_exit_code(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    with ChildProcess("child", [*PYTHON, script], log=log) as child:
        assert child.wait(60) == 7
        assert not child.running
    assert set(child.log_tail().splitlines()) == {"out", "err"}


def test_the_log_tail_is_the_end_of_the_log(tmp_path: Path) -> None:
    script = "for i in range(10_000): print('line', i)"
    with ChildProcess("child", [*PYTHON, script], log=tmp_path / "log") as child:
        assert child.wait(60) == 0
        assert child.log_tail(2) == "line 9998\nline 9999"


def test_it_adds_variables_to_its_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_PARENT", "one")
    script = "import os; print(os.environ['FROM_PARENT'], os.environ['OWN'])"
    with ChildProcess("child", [*PYTHON, script], log=tmp_path / "log", environment={"OWN": "two"}) as child:
        assert child.wait(60) == 0
    assert child.log_tail() == "one two"


def test_terminating_ends_the_whole_group(tmp_path: Path) -> None:
    child = ChildProcess("child", [*PYTHON, WITH_A_CHILD, str(tmp_path / "pid")])
    grandchild = int(wait_for(tmp_path / "pid"))
    assert process_group(child.pid) == {child.pid, grandchild}
    assert child.terminate() == -signal.SIGTERM
    assert process_group(child.pid) == set()
    assert child.terminate() == -signal.SIGTERM  # a second time changes nothing


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    child = ChildProcess("child", [*PYTHON, IGNORES_SIGTERM, str(tmp_path / "up")])
    while not (tmp_path / "up").exists():
        time.sleep(0.02)
    assert child.terminate(seconds=0.2) == -signal.SIGKILL


def test_leaving_the_context_by_an_error_ends_the_process(tmp_path: Path) -> None:
    child = ChildProcess("child", [*PYTHON, WITH_A_CHILD, str(tmp_path / "pid")])
    wait_for(tmp_path / "pid")
    with pytest.raises(ZeroDivisionError), child:
        _ = 1 / 0
    assert process_group(child.pid) == set()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_child_ends_with_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    """However the parent ends, the child gets its SIGTERM."""
    parent = subprocess.Popen([*PYTHON, PARENT, str(tmp_path / "grandchild"), str(tmp_path / "child")])
    child = int(wait_for(tmp_path / "child"))
    grandchild = int(wait_for(tmp_path / "grandchild"))
    parent.send_signal(number)
    parent.wait()
    while child in process_group(child):
        time.sleep(0.02)
    os.kill(grandchild, signal.SIGKILL)  # Python's SIGTERM does not reach the child's own children
    wait_for_end(child)


def test_a_child_whose_parent_is_gone_already_does_not_start(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-P", "-m", "hallmark.server.processes.tether", "1", "touch", str(tmp_path / "ran")],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr == "the process 1 that asked for touch has ended\n"
    assert not (tmp_path / "ran").exists()


def test_a_child_can_see_whether_its_parent_is_there(tmp_path: Path) -> None:
    code = "from hallmark.server.processes.tether import parent_is_gone; print(parent_is_gone())"
    with ChildProcess("child", [*PYTHON, code], log=tmp_path / "log") as child:
        assert child.wait(60) == 0
    assert (tmp_path / "log").read_text() == "False\n"
    assert parent_is_gone({PARENT_VARIABLE: "1"})
    assert not parent_is_gone({}), "a process that nobody holds"


def test_waiting_for_readiness(tmp_path: Path) -> None:
    with ChildProcess("child", [*PYTHON, WITH_A_CHILD, str(tmp_path / "pid")]) as child:
        child.wait_until((tmp_path / "pid").exists, seconds=60)
        assert child.running


def test_a_process_that_ends_before_it_is_ready_is_an_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        ChildProcess("the server", [*PYTHON, "raise SystemExit(3)"], log=log) as child,
        pytest.raises(ProcessError, match=f"^the server ended with code 3 before it was ready; .* {log}$"),
    ):
        child.wait_until(lambda: False, seconds=60)


def test_a_process_that_is_never_ready_is_an_error(tmp_path: Path) -> None:
    with (
        ChildProcess("the server", [*PYTHON, "import time; time.sleep(600)"]) as child,
        pytest.raises(ProcessError, match=r"^the server was not ready within 0\.1 s$"),
    ):
        child.wait_until(lambda: False, seconds=0.1)


def test_free_ports_can_be_bound() -> None:
    assert 1024 <= free_port() < 65536


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", None, ""])  # noqa: S104
def test_a_port_that_somebody_listens_on_is_refused_and_a_free_one_is_not(host: str | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ProcessError) as refused:
            check_port(host, port)
        where = host or "every address"
        assert str(refused.value) == f"port {port} on {where} is in use"
        assert refused.value.__notes__ == ["choose another with --port"]
    check_port(host, port)


def test_a_port_that_a_server_has_just_left_is_free() -> None:
    """The server's end of a connection that it closed stays for a minute, and must not keep the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            server.accept()[0].close()
            assert client.recv(1) == b""
    check_port("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("127.0.0.1", 70_000), ("no.such.invalid", 0)])
def test_where_nothing_can_listen_is_refused(host: str, port: int) -> None:
    with pytest.raises(ProcessError, match=f"^cannot listen on port {port} of {host}: "):
        check_port(host, port)
