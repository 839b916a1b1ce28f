"""Why a server has ended, in one line, and the exit code."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from hallmark.poc.core.last_words import LAST_WORDS_VARIABLE, leave_last_words
from hallmark.server.cli.serve.ending import exit_code, why_it_ended
from hallmark.server.cli.serve.plan import ServePlan, plan
from hallmark.server.processes.child import free_port

TERM, INT = signal.SIGTERM, signal.SIGINT
KILLED = "was killed by SIGKILL, which is what the kernel does when memory is short"
UNKNOWN = "why stands in its log above"


def planned(*flags: str, port: int | None = None) -> ServePlan:
    chosen = free_port() if port is None else port
    return plan("model", ["--host", "127.0.0.1", "--port", str(chosen), *flags], {})


ASKED = "vLLM was asked to end by"
NOT_BY_US = "; this command was sent no signal"
OUT_OF_STEP = "PoC stopped this server, since replies are out of step"


class Case(NamedTuple):
    """How a server ends, and what the command makes of it."""

    code: int
    received: Sequence[signal.Signals]
    shown: int
    sentence: str | None
    words: str = ""
    was_ready: bool = True


CASES = [
    Case(0, [TERM], 0, "vLLM has ended with code 0, as SIGTERM asked this command to"),
    Case(0, [INT], 0, "vLLM has ended with code 0, as SIGINT asked this command to"),
    Case(-9, [INT], 137, f"{ASKED} SIGINT, and killed since it did not end while it started", "", False),
    Case(-9, [TERM, TERM], 137, f"{ASKED} SIGTERM, and killed since a second signal came"),
    Case(
        *(0, [], 1),
        "vLLM has ended, and this command did not ask it to: either another process sent SIGTERM to its API "
        f"server, or {UNKNOWN}",
    ),
    Case(0, [], 1, f"vLLM has ended: its process EngineCore {KILLED}", f"its process EngineCore {KILLED}"),
    Case(1, [], 1, f"vLLM ended with code 1: {OUT_OF_STEP}", OUT_OF_STEP),
    Case(-9, [], 137, f"vLLM's API server {KILLED}{NOT_BY_US}"),
    Case(-11, [], 139, f"vLLM's API server crashed with SIGSEGV (Segmentation fault){NOT_BY_US}"),
    Case(-15, [], 143, f"vLLM's API server was ended by SIGTERM{NOT_BY_US}", "", False),
    Case(1, [], 1, f"vLLM ended with code 1: {UNKNOWN}", "", False),
    Case(2, [], 2, None, "", False),
    Case(2, [], 2, f"vLLM ended with code 2: {UNKNOWN}"),
]


@pytest.mark.parametrize("case", CASES)
def test_each_way_to_end_has_its_sentence_and_its_code(case: Case) -> None:
    server = planned()
    told = why_it_ended(server, case.code, case.received, case.words, was_ready=case.was_ready)
    assert told == case.sentence
    assert exit_code(server, case.code, was_asked=bool(case.received)) == case.shown


def test_help_ends_without_a_word() -> None:
    server = planned("--help")
    assert why_it_ended(server, 0, [], "", was_ready=False) is None
    assert exit_code(server, 0, was_asked=False) == 0


def test_a_node_that_answers_nowhere_is_not_said_to_start() -> None:
    server = planned("--headless", "--nnodes", "2", "--node-rank", "1")
    told = why_it_ended(server, -9, [TERM], "", was_ready=False)
    assert told == f"{ASKED} SIGTERM, and killed since it did not end in time"


def test_a_port_that_was_lost_while_it_started_is_named() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        sentence = why_it_ended(planned(port=port), 1, [], "", was_ready=False)
    assert sentence == (
        f"vLLM ended before it was ready: port {port} on 127.0.0.1 is in use; choose another with --port"
    )


def test_last_words_are_lines_and_only_where_somebody_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "words"
    leave_last_words("nobody", {})
    for words in ("one\n  and a half", "two \ud800"):
        leave_last_words(words, {LAST_WORDS_VARIABLE: str(path)})
    assert path.read_text(encoding="utf-8").splitlines() == ["one and a half", "two \\ud800"]


_RUN = """
import sys
from dataclasses import replace
from hallmark.server.cli.consoles import log_as_json
from hallmark.server.cli.serve.plan import plan
from hallmark.server.cli.serve.running import run

planned = plan("model", ["--host", "127.0.0.1", "--port", sys.argv[1]], {}, json_logs="json" in sys.argv)
if planned.logging is not None:
    log_as_json(planned.logging)
vllm = "import sys; sys.stderr.write(sys.argv[1])"
run(replace(planned, command=(sys.executable, "-c", vllm, "the last of vLLM" + "\\n" * ("json" in sys.argv))))
"""


@pytest.mark.parametrize("logs", ["text", "json"])
def test_the_sentence_has_a_line_of_its_own(tmp_path: Path, logs: str) -> None:
    path = tmp_path / "log"
    with path.open("wb") as log:
        command = [sys.executable, "-P", "-c", _RUN, str(free_port()), logs]
        subprocess.run(command, stdout=log, stderr=log, check=True)
    vllm, ours = path.read_text().splitlines()[-2:]
    assert vllm == "the last of vLLM"
    if logs == "json":
        assert json.loads(ours)["message"].startswith("vLLM has ended")
    else:
        assert ours.startswith("hallmark: vLLM has ended")
