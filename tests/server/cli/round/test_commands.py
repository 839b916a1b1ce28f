"""`hallmark round`, against the real routes on a real server and a transformers model."""

import asyncio
import io
import json
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from builders import small_config, small_request
from command_line import Cli, Result
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from runtime import (
    POC,
    QUICK,
    Engine,
    application,
    eventually,
    honest_proof,
    running_manager,
    serving,
    snapshot,
)

from hallmark.poc.protocol.config import PoCState
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager
from hallmark.server.cli.round import watch
from hallmark.server.http.examples import STATUS, VERDICT
from hallmark.server.processes.child import free_port

ROUND = ("--block-hash", "0x8d3f2a", "--block-height", 7, "--public-key", "02a1b2c3")
SHORT = ("--batch-size", 8, "--seq-len", 8)
NOWHERE = "No --callback-url: proofs of this round go nowhere.\n"


class Node:
    """A server in this process, and the commands run against it."""

    def __init__(self, cli: Cli, url: str, engine: Engine, manager: PoCManager) -> None:
        self.url = url
        self.engine = engine
        self.manager = manager
        self._cli = cli

    async def round(self, command: str, *arguments: object) -> Result:
        return await asyncio.to_thread(self._cli, "round", command, self.url, *arguments)


@asynccontextmanager
async def running(cli: Cli, settings: Settings = QUICK) -> AsyncIterator[Node]:
    engine = Engine()
    async with running_manager(engine, settings) as manager, serving(application(manager)) as url:
        yield Node(cli, url, engine, manager)


@pytest.fixture
async def node(cli: Cli) -> AsyncIterator[Node]:
    async with running(cli) as node:
        yield node


def as_json(result: Result) -> Any:
    assert result.code == 0, result.err
    return json.loads(result.out)


async def test_start_generates_as_the_only_node_by_default(node: Node) -> None:
    result = await node.round("start", *ROUND, *SHORT)
    assert result.code == 0, result.err
    assert "state" in result.out
    assert "GENERATING" in result.out
    assert node.manager.state is PoCState.GENERATING
    assert node.manager.active is not None
    asked = node.manager.active.round.config
    assert (asked.node_id, asked.node_count, asked.valid_rate, asked.fraud_threshold) == (0, 1, None, 0.01)


async def test_start_says_where_the_receiver_does_not_answer(node: Node) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    result = await node.round("start", *ROUND, *SHORT, "--callback-url", url)
    assert result.code == 0
    assert result.err.startswith("the receiver of callbacks does not answer the server: ConnectError: ")
    assert "receiver" not in (await node.round("start", *ROUND, *SHORT)).err


async def test_start_says_where_there_is_no_receiver_of_what_is_generated(node: Node) -> None:
    generated = await node.round("start", *ROUND, *SHORT)
    assert generated.err == NOWHERE
    assert re.search(r"^receiver +none$", generated.out, re.MULTILINE)
    await node.manager.stop()
    validated = await node.round("start", *ROUND, *SHORT, "--phase", "validate")
    assert (validated.code, validated.err) == (0, "")
    assert "receiver" not in validated.out
    # Setting a round ends the one that runs, whatever its own phase is.
    only_set = await node.round("start", *ROUND, *SHORT, "--phase", "none")
    assert only_set.err == "The round of block 7 (VALIDATING) was ended.\n"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--block-height", 8), "The round of block 7 (GENERATING) was ended.\n"),
        # Without a node's share it is another request, though about the same block.
        (("--phase", "validate"), "The round of block 7 (GENERATING) was ended.\n"),
        ((), ""),
    ],
    ids=["another block", "another phase", "the same"],
)
async def test_start_says_that_a_round_was_running(
    node: Node, options: tuple[object, ...], told: str
) -> None:
    await node.round("start", *ROUND, *SHORT)
    await eventually(lambda: snapshot(node.manager)["total_checked"])
    before = node.manager.active
    result = await node.round("start", *ROUND, *SHORT, *options)
    assert result.code == 0
    assert result.err.startswith(told)
    assert ("was ended" in result.err) == (node.manager.active is not before) == bool(told)


async def test_a_round_that_was_over_is_not_ended(node: Node) -> None:
    await node.round("start", *ROUND, *SHORT)
    await node.manager.stop()
    assert (await node.round("start", *ROUND, *SHORT)).err == NOWHERE


async def test_a_round_that_a_refused_one_leaves_alone_is_not_ended(node: Node) -> None:
    await node.round("start", *ROUND, *SHORT)
    refused = await node.round("start", *ROUND, *SHORT, "--model", "other")
    assert refused.code == 2
    assert "was ended" not in refused.err
    assert node.manager.state is PoCState.GENERATING


async def test_every_option_reaches_the_round(node: Node) -> None:
    options: dict[str, object] = {
        "valid-rate": 0.5,
        "fraud-threshold": 1e-7,
        "distance-tolerance": 0.21,
        "honest-sigma": 0.06,
        "honest-kurtosis": 4.5,
        "honest-beyond": 0.01,
        "honest-design-effect": 2.5,
        "vectors": "required",
        "node-id": 2,
        "node-count": 5,
        "group-id": 1,
        "n-groups": 3,
        "batch-size": 4,
        "seq-len": 6,
        "callback-url": "http://127.0.0.1:9/hook",
        "projection-scale": 0.02,
        "inputs": "normal",
        "readout": "last",
        "numbers": 1,
        "first": "none",
        "input-scale": 0.25,
        "model": "tiny",
        "phase": "validate",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    assert (await node.round("start", *ROUND, *flags)).code == 0
    assert node.manager.state is PoCState.VALIDATING
    assert node.manager.active is not None
    asked = node.manager.active.round.config
    shown = as_json(await node.round("status", "--json"))["config"]
    del options["phase"]
    for name, value in options.items():
        assert getattr(asked, name.replace("-", "_")) == value
        assert shown[name.replace("-", "_")] == value
    assert asked.use_random_projection


async def test_what_is_computed_may_be_stated(node: Node) -> None:
    flags = ("--inputs", "tokens", "--readout", "rows", "--numbers", 3, "--first", 7, "--vocabulary", 4096)
    assert (await node.round("start", *ROUND, "--seq-len", 16, *flags, "--phase", "none")).code == 0
    assert node.manager.active is not None
    settings = node.manager.active.round.settings
    stated = [settings[name] for name in ("inputs", "readout", "numbers", "first", "vocabulary")]
    assert stated == ["tokens", "rows", "3", "7", "4096"]


async def test_a_plain_round_by_the_older_rule(node: Node) -> None:
    flags = ("--no-random-projection", "--distance-tolerance", "none", "--r-target", 1.4)
    assert (await node.round("start", *ROUND, *SHORT, *flags, "--phase", "none")).code == 0
    assert node.manager.state is PoCState.IDLE
    assert node.manager.active is not None
    asked = node.manager.active.round.config
    assert (asked.use_random_projection, asked.distance_tolerance, asked.r_target) == (False, None, 1.4)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--valid-rate", 2), "400: valid_rate: 2.0 is not allowed; allowed: a number above 0, at most 1"),
        (("--node-id", 3), "400: node_count"),
        (("--model", "other"), "409: the round is about model 'other', this server serves tiny"),
        (
            ("--distance-tolerance", "low"),
            "--distance-tolerance: 'low' is not allowed; allowed: a number, or none",
        ),
        (("--first", "bos"), "--first: 'bos' is not allowed; allowed: an integer, or none"),
        (("--inputs", "noise"), "--inputs: 'noise' is not allowed; allowed: tokens, or normal"),
        (("--readout", "mean"), "--readout: 'mean' is not allowed; allowed: rows, or last"),
        (("--vectors", "never"), "--vectors: 'never' is not allowed; allowed: optional, or required"),
        (("--seq-len", 16, "--numbers", 5), "400: numbers: 5 is not allowed; allowed: 1 to 4 for seq_len 16"),
    ],
)
async def test_a_refused_round_is_a_sentence(node: Node, options: tuple[object, ...], problem: str) -> None:
    result = await node.round("start", *ROUND, *options)
    assert result.code == 2
    assert problem in result.err
    assert "Traceback" not in result.err
    assert node.manager.active is None


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    ("field", "allowed"),
    [
        ("r_target", "a finite number above 0"),
        ("valid_rate", "a finite number above 0"),
        ("input_scale", "a finite number above 0"),
        ("distance_tolerance", "a finite number, or none"),
    ],
)
def test_a_number_that_json_has_no_form_for_is_refused(
    cli: Cli, field: str, value: str, allowed: str
) -> None:
    option = f"--{field.replace('_', '-')}={value}"
    result = cli("round", "start", "http://127.0.0.1:9", *ROUND, option)
    assert result.code == 2
    assert result.err == f"hallmark: {field}: {value} is not allowed; allowed: {allowed}\n"


async def test_a_batch_size_that_was_lowered_is_told(node: Node) -> None:
    said = "batch_size 100 was lowered to 32"
    lowered = await node.round("start", *ROUND, "--batch-size", 100, "--phase", "none")
    assert (lowered.code, lowered.err) == (0, f"{said}\n")
    assert "lowered" not in lowered.out
    kept = await node.round("start", *ROUND, *SHORT, "--phase", "none")
    assert (kept.code, kept.err) == (0, "")


@pytest.mark.parametrize(
    ("command", "options"),
    [("watch", ()), ("start", (*ROUND, *SHORT, "--watch")), ("start", (*ROUND, *SHORT, "--until", 10**9))],
    ids=["watch", "start --watch", "start --until"],
)
async def test_watching_that_is_interrupted_says_how_to_end_the_round(
    node: Node, command: str, options: tuple[object, ...]
) -> None:
    said = f"the round goes on; end it with hallmark round stop {node.url}\n"
    if command == "watch":
        await node.round("start", *ROUND, *SHORT)
    else:
        said = NOWHERE + said
    watching = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "hallmark.server", "round", command, node.url, *map(str, options)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert watching.stdout is not None
    await watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, err = await watching.communicate()
    assert watching.returncode == 130
    assert err.decode() == said
    assert node.manager.state is PoCState.GENERATING


async def test_watching_off_a_terminal_is_a_line_a_look_until_the_round_stops(node: Node) -> None:
    watching = asyncio.create_task(node.round("start", *ROUND, *SHORT, "--watch", "--interval", 0.1))
    await eventually(lambda: snapshot(node.manager)["total_checked"] >= 16)
    await asyncio.sleep(0.5)
    await node.manager.stop("enough seen")
    result = await watching
    assert result.code == 0
    lines = result.out.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("GENERATING  checked ") for line in lines[:-1])
    assert lines[-1].startswith("STOPPED  checked ")
    assert lines[-1].endswith("  enough seen")
    checked = [int(line.split()[2]) for line in lines]
    assert checked == sorted(checked)


async def test_watching_as_json(node: Node) -> None:
    [look] = (await node.round("watch", "--json")).out.splitlines()
    assert json.loads(look)["state"] == "IDLE"


async def test_watching_on_a_terminal_redraws_the_view(node: Node) -> None:
    await node.round("start", *ROUND, *SHORT)
    controller, terminal = pty.openpty()
    watching = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "hallmark.server", "round", "watch", node.url),
        *("--interval", "0.1"),
        stdout=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "50"},
    )
    os.close(terminal)
    shown = b""
    while b"STOPPED" not in shown:
        shown += await asyncio.to_thread(os.read, controller, 65_536)
        if b"GENERATING" in shown:
            await node.manager.stop()
    assert await watching.wait() == 0
    os.close(controller)
    assert b"\x1b[1A" in shown  # the cursor went up, to draw over the last view


async def test_status_and_stop(node: Node) -> None:
    assert "IDLE" in (await node.round("status")).out
    await node.round("start", *ROUND, *SHORT)
    assert as_json(await node.round("status", "--json"))["state"] == "GENERATING"
    stopped = await node.round("stop")
    assert "STOPPED" in stopped.out
    assert "stopped by request" in stopped.out


async def test_the_token_comes_from_an_option_or_the_environment(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(cli, Settings(**{**QUICK.model_dump(), "api_key": "secret"})) as node:
        refused = await node.round("status")
        assert refused.code == 2
        sentence, hint = refused.err.splitlines()
        assert "401: this route needs the header" in sentence
        assert hint == "hint: set HALLMARK_API_KEY or --api-key"
        assert (await node.round("status", "--api-key", "secret")).code == 0
        wrong = await node.round("status", "--api-key", "wrong")
        assert wrong.code == 2
        assert wrong.err == (
            "hallmark: GET /api/v1/pow/status: 401: the bearer token is wrong\n"
            "hint: set HALLMARK_API_KEY or --api-key\n"
        )
        monkeypatch.setenv("HALLMARK_API_KEY", "secret")
        assert (await node.round("status")).code == 0


def proofs(path: Path, *batches: ProofBatch) -> Path:
    path.write_text(json.dumps([batch.as_dict() for batch in batches]))
    return path


async def test_honest_proofs_are_honest(node: Node, tmp_path: Path) -> None:
    honest = await honest_proof(small_config(), range(12))
    await node.round("start", *ROUND, *SHORT, "--phase", "validate")
    single = tmp_path / "one.json"
    single.write_text(json.dumps(honest.as_dict()))
    result = await node.round("validate", single)
    assert result.code == 0, result.err
    assert "honest" in result.out
    received = tmp_path / "received.json"
    received.write_text(json.dumps({"id": 1, "kind": "generated", "body": honest.as_dict()}))
    answer = as_json(await node.round("validate", received, "--json"))
    assert answer["verdict"] == "honest"
    assert answer["computed_distances"] == list(honest.dist)


async def test_proofs_from_standard_input(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = await honest_proof(small_config(), range(3))
    await node.round("start", *ROUND, *SHORT, "--phase", "validate")
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(honest.as_dict())))
    assert (await node.round("validate", "-")).code == 0


@pytest.mark.parametrize("options", [[], ["--json"]])
async def test_the_exit_code_is_the_verdict_though_nobody_reads_it(
    node: Node, tmp_path: Path, options: list[str]
) -> None:
    path = proofs(tmp_path / "p.json", await honest_proof(small_config(), range(2)))
    await node.round("start", *ROUND, *SHORT, "--phase", "validate")
    reading, writing = os.pipe()
    os.close(reading)
    validating = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "hallmark.server", "round", "validate", node.url, str(path)),
        *options,
        stdout=writing,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writing)
    _, err = await validating.communicate()
    assert (validating.returncode, err) == (0, b"")


async def test_fraud_among_several_is_code_1(node: Node, tmp_path: Path) -> None:
    honest = await honest_proof(small_config(), range(12))
    stolen = await honest_proof(small_config(), range(12), public_key="another")
    other_block = await honest_proof(small_config(), range(12), block_hash="another")
    await node.round("start", *ROUND, *SHORT, "--phase", "validate")
    result = await node.round("validate", proofs(tmp_path / "p.json", honest, stolen, other_block))
    assert result.code == 1
    lines = result.out.splitlines()
    rows = [line.split() for line in lines[1:4]]
    assert [(row[0], row[-1]) for row in rows] == [("1", "honest"), ("2", "fraud"), ("3", "refused")]
    # The keys' distances are unrelated; whether their mean is too low as well is chance.
    assert any(line.startswith("2: rejected by nonces, rms") for line in lines)
    assert lines[-1].startswith("3: refused: POST /api/v1/pow/validate: 409: ")
    # Off a terminal nothing is folded.
    legend = [line for line in lines if line.startswith(("RMS error: ", "p-value: "))]
    assert len(legend) == 2
    assert max(map(len, legend)) <= 80


async def test_an_error_is_shown_in_full_however_narrow_the_terminal_is(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = await honest_proof(small_config(), range(2))
    path = proofs(tmp_path / "p.json", honest)
    [answer] = (await node.round("validate", path, "--json")).out.splitlines()
    monkeypatch.setenv("COLUMNS", "40")
    shown = (await node.round("validate", path)).out
    assert f"1: refused: {json.loads(answer)['error']}" in shown.splitlines()


@pytest.mark.parametrize(
    ("status", "word"),
    [(400, "refused"), (401, "error"), (404, "error"), (409, "refused"), (429, "error"), (503, "error")],
)
async def test_what_went_wrong_on_the_way_is_an_error_and_no_refusal(
    cli: Cli, tmp_path: Path, status: int, word: str
) -> None:
    app = FastAPI()
    answer = JSONResponse({"detail": "why"}, status)
    app.add_api_route("/api/v1/pow/validate", lambda: answer, methods=["POST"])
    path = proofs(tmp_path / "p.json", await honest_proof(small_config(), range(2)))
    async with serving(app) as url:
        result = await asyncio.to_thread(cli, "round", "validate", url, path)
    assert result.code == 2
    lines = result.out.splitlines()
    assert lines[1].split()[-1] == word
    assert lines[-1] == f"1: {word}: POST /api/v1/pow/validate: {status}: why"


async def test_a_p_value_is_never_nothing(cli: Cli, tmp_path: Path) -> None:
    app = FastAPI()
    found = {"verdict": "fraud", "probability_honest": 0.0, "rejected_by": ["rms"]}
    answer = {**VERDICT, **found, "tests": {"nonces": 5e-324, "rms": 0.0, "beyond": 2.5e-300}}
    app.add_api_route("/api/v1/pow/validate", lambda: answer, methods=["POST"])
    path = proofs(tmp_path / "p.json", await honest_proof(small_config(), range(2)))
    async with serving(app) as url:
        result = await asyncio.to_thread(cli, "round", "validate", url, path)
    assert "< 1e-300 fraud" in result.out.splitlines()[1]
    wide = " ".join(result.out.split())
    assert wide.count("< 1e-300") == 3
    assert "2.5e-300" in wide


async def test_what_looks_like_markup_is_shown_as_it_is(node: Node, tmp_path: Path) -> None:
    proof = await honest_proof(small_config(public_key="[/x] [bold]"), range(2))
    await node.round("start", *ROUND[:-1], "[/y]", *SHORT, "--phase", "validate")
    assert "[/y]" in (await node.round("status")).out
    judged = await node.round("validate", proofs(tmp_path / "p.json", proof))
    assert judged.code == 0, judged.err
    assert "[/x] [bold]" in judged.out


async def test_an_error_without_fraud_is_code_2(node: Node, tmp_path: Path) -> None:
    honest = await honest_proof(small_config(), range(4))
    path = proofs(tmp_path / "p.json", honest)
    no_round = await node.round("validate", path)
    assert no_round.code == 2
    assert "the state is IDLE" in " ".join(no_round.out.split())


async def test_no_verdict_is_code_2(node: Node, tmp_path: Path) -> None:
    honest = await honest_proof(small_config(), range(4))
    node.engine.failed_nonces = {0, 1, 2, 3}
    await node.round("start", *ROUND, *SHORT, "--phase", "validate")
    result = await node.round("validate", proofs(tmp_path / "p.json", honest))
    assert result.code == 2
    assert "no verdict" in result.out


async def test_a_batch_queued_while_generating_is_waited_for(node: Node, tmp_path: Path) -> None:
    honest = await honest_proof(small_config(), range(4))
    await node.round("start", *ROUND, *SHORT)
    validating = asyncio.create_task(node.round("validate", proofs(tmp_path / "p.json", honest)))
    await eventually(lambda: snapshot(node.manager)["validation"]["queued_jobs"] == 1)
    await node.manager.switch_phase(PoCState.VALIDATING)
    assert (await validating).code == 0


async def test_a_batch_whose_round_ends_has_no_verdict(node: Node, tmp_path: Path) -> None:
    honest = await honest_proof(small_config(), range(4))
    await node.round("start", *ROUND, *SHORT)
    validating = asyncio.create_task(node.round("validate", proofs(tmp_path / "p.json", honest)))
    await eventually(lambda: snapshot(node.manager)["validation"]["queued_jobs"] == 1)
    await node.manager.stop()
    result = await validating
    assert result.code == 2
    assert "stopped by request" in " ".join(result.out.split())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "the array is empty"),
        ("{", "a readable file of JSON"),
        ("[1]", "PROOFS: 1 is not allowed"),
        ('[{"body": 1}]', "PROOFS: {'body': 1} is not allowed"),
        ("[" * 5000, "p.json' is not allowed; allowed: a readable file of JSON"),
        ("{}", "public_key, block_hash, block_height, nonces, dist: None is not allowed"),
        (None, "p.json' is not allowed; allowed: a file that exists; there is no such file"),
    ],
)
def test_a_file_without_proofs_is_code_2(cli: Cli, tmp_path: Path, content: str | None, problem: str) -> None:
    path = tmp_path / "p.json"
    if content is not None:
        path.write_text(content)
    result = cli("round", "validate", "http://127.0.0.1:9", path)
    assert result.code == 2
    assert problem in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["status", "watch", "stop"])
def test_a_server_that_is_not_there_is_a_sentence(cli: Cli, command: str) -> None:
    port = free_port()
    result = cli("round", command, f"127.0.0.1:{port}")
    assert result.code == 2
    sentence, hint = result.err.splitlines()
    assert sentence.startswith(f"hallmark: no answer from http://127.0.0.1:{port}: ")
    assert hint == "hint: start a server with hallmark serve MODEL, or give the URL of one that runs"


async def test_a_server_without_proof_of_compute_is_a_sentence(cli: Cli) -> None:
    app = FastAPI()
    app.add_api_route("/api/v1/pow/stop", lambda: "no object", methods=["GET"])
    async with serving(app) as url:
        result = await asyncio.to_thread(cli, "round", "status", url)
    assert result.code == 2
    assert result.err == (
        "hallmark: GET /api/v1/pow/status: 404: Not Found\n"
        "hint: is this the URL of a server that was started by hallmark serve?\n"
    )


async def test_an_error_that_nobody_foresaw_is_no_verdict(cli: Cli, tmp_path: Path) -> None:
    """Exit code 1 would say fraud."""
    app = FastAPI()
    app.add_api_route("/api/v1/pow/validate", lambda: {}, methods=["POST"])
    path = proofs(tmp_path / "p.json", await honest_proof(small_config(), range(2)))
    async with serving(app) as url:
        result = await asyncio.to_thread(cli, "round", "validate", url, path)
    assert result.code == 2
    assert result.err.startswith("Traceback (most recent call last):\n")
    assert result.err.splitlines()[-1].startswith("hallmark: unexpected error: KeyError: ")


class TestUntil:
    """A round that is followed to a goal and stopped there."""

    QUICKLY = (*ROUND, *SHORT, "--interval", 0.1)

    async def test_it_is_stopped_after_so_many_nonces(self, node: Node) -> None:
        result = await node.round("start", *self.QUICKLY, "--until", 40)
        assert (result.code, result.err) == (0, NOWHERE)
        assert node.manager.state is PoCState.STOPPED
        checked = snapshot(node.manager)["total_checked"]
        assert checked >= 40
        *looks, last = result.out.splitlines()
        assert all(
            re.match(r"GENERATING  checked \d+ nonces?  .*  \d+% of 40 nonces  ", look) for look in looks
        )
        assert last.startswith(f"STOPPED  checked {checked:,} nonces  valid ")
        assert "  100% of 40 nonces  " in last
        assert last.endswith("  stopped by request")

    @pytest.mark.parametrize("phase", ["generate", "validate"])
    async def test_it_is_stopped_after_so_long(self, node: Node, phase: str) -> None:
        result = await node.round("start", *self.QUICKLY, "--until", "1s", "--phase", phase)
        assert (result.code, result.err) == (0, NOWHERE if phase == "generate" else "")
        assert node.manager.state is PoCState.STOPPED
        assert 1.0 <= snapshot(node.manager)["elapsed_seconds"] < 30.0
        assert "  100% of 1 s  " in result.out.splitlines()[-1]

    async def test_a_goal_in_time_is_not_missed_by_a_long_interval(self, node: Node) -> None:
        result = await node.round("start", *ROUND, *SHORT, "--interval", 60, "--until", "1s")
        assert (result.code, result.err) == (0, NOWHERE)
        assert snapshot(node.manager)["elapsed_seconds"] < 30.0

    async def test_a_goal_is_reached_though_nobody_looks_on(self, node: Node) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        starting = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "hallmark.server", "round", "start", node.url),
            *map(str, self.QUICKLY),
            *("--until", "40"),
            stdout=writing,
            # Some log collectors say that they take colours; they are no terminal.
            env={**os.environ, "FORCE_COLOR": "1"},
        )
        os.close(writing)
        assert await starting.wait() == 0
        assert node.manager.state is PoCState.STOPPED
        assert snapshot(node.manager)["total_checked"] >= 40

    @pytest.mark.parametrize(
        "changes",
        [{"block_hash": "another"}, {"node_count": 8}, {"callback_url": "http://127.0.0.1:9"}],
        ids=str,
    )
    async def test_another_round_in_its_place_is_not_stopped(
        self, node: Node, changes: dict[str, Any]
    ) -> None:
        starting = asyncio.create_task(node.round("start", *self.QUICKLY, "--until", 10**9))
        await eventually(lambda: snapshot(node.manager)["total_checked"])
        # The first look is the command's own.
        await asyncio.sleep(0.5)
        async with httpx.AsyncClient(base_url=node.url, timeout=60) as client:
            other = await client.post(f"{POC}/init/generate", json=small_request(**changes))
            other.raise_for_status()
        result = await starting
        assert result.code == 2
        assert result.err == NOWHERE + (
            "hallmark: another round has taken the place of the one that --until is about\n"
        )
        assert node.manager.state is PoCState.GENERATING

    @pytest.mark.parametrize(
        ("goal", "words"), [("1000000", "1,000,000 nonces"), ("2h", "2 h")], ids=["nonces", "time"]
    )
    async def test_a_round_that_somebody_else_stops_has_missed_it(
        self, node: Node, goal: str, words: str
    ) -> None:
        starting = asyncio.create_task(node.round("start", *self.QUICKLY, "--until", goal))
        await eventually(lambda: snapshot(node.manager)["total_checked"])
        await node.manager.stop("enough seen")
        result = await starting
        assert result.code == 2
        assert result.err == f"{NOWHERE}hallmark: the round ended before {words}: enough seen\n"
        assert result.out.splitlines()[-1].startswith("STOPPED  ")

    @pytest.mark.parametrize(
        ("options", "allowed"),
        [
            (("--until", "40", "--phase", "none"), "nothing, with --phase none"),
            (("--until", "2h", "--phase", "none"), "nothing, with --phase none"),
            (
                ("--until", "40", "--phase", "validate"),
                "a time such as 5min, with --phase validate: nonces are generated",
            ),
            *(
                (
                    ("--until", text),
                    "a number of nonces such as 10000, or a time such as 90s, 5min or 2h",
                )
                for text in ("0", "-5", "soon", "1.5h", "1d", "")
            ),
        ],
    )
    def test_what_is_no_goal_is_refused_before_anything_is_asked(
        self, cli: Cli, options: tuple[str, ...], allowed: str
    ) -> None:
        result = cli("round", "start", "http://127.0.0.1:9", *ROUND, *options)
        assert (result.code, result.out) == (2, "")
        assert result.err == f"hallmark: --until: {options[1]!r} is not allowed; allowed: {allowed}\n"


@asynccontextmanager
async def forgetful(answers: list[bytes | None]) -> AsyncIterator[str]:
    """A server that answers requests as it is told to; where that is with None it hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = answers.pop(0) if answers else None
        if body is not None:
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def look(state: str, checked: int) -> bytes:
    return json.dumps({**STATUS, "state": state, "total_checked": checked}).encode()


async def test_watching_survives_a_server_that_does_not_answer_for_a_moment(cli: Cli) -> None:
    answers = [look("GENERATING", 5), None, None, look("GENERATING", 6), None, look("STOPPED", 7)]
    async with forgetful(answers) as url:
        result = await asyncio.to_thread(cli, "round", "watch", url, "--interval", 0.1)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    shown = [
        (state, int(checked)) for state, checked in re.findall(r"^(.+?)  checked (\d+)", result.out, re.M)
    ]
    silent = ("NO ANSWER", 5), ("NO ANSWER", 5), ("NO ANSWER", 6)
    assert shown == [("GENERATING", 5), *silent[:2], ("GENERATING", 6), silent[2], ("STOPPED", 7)]
    assert f"  asked again for 0 s: no answer from {url}: " in lines[1]


async def test_watching_gives_up_on_a_server_that_is_gone(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_PATIENCE_SECONDS", 0.5)
    async with forgetful([look("GENERATING", 5)]) as url:
        result = await asyncio.to_thread(cli, "round", "watch", url, "--interval", 0.1)
    assert result.code == 2
    assert result.err.startswith(f"hallmark: no answer from {url}: ")
    assert [line.partition("  ")[0] for line in result.out.splitlines()] == ["GENERATING", "NO ANSWER"]


async def test_a_goal_outlives_a_proxy_that_has_no_server_for_a_moment(cli: Cli) -> None:
    # It is first asked whether a round is running.
    app, looks = FastAPI(), iter([503, 503, 502, 200])

    def answer() -> JSONResponse:
        status = next(looks)
        return JSONResponse(
            json.loads(look("STOPPED", 50)) if status == 200 else {"detail": "no server"}, status
        )

    app.add_api_route("/api/v1/pow/status", answer, methods=["GET"])
    begun = {"pow_status": json.loads(look("GENERATING", 5))}
    app.add_api_route("/api/v1/pow/init/generate", lambda: begun, methods=["POST"])
    async with serving(app) as url:
        options = (*ROUND, "--until", 40, "--interval", 0.1)
        result = await asyncio.to_thread(cli, "round", "start", url, *options)
    assert (result.code, result.err) == (0, NOWHERE)


async def test_watching_does_not_wait_for_a_server_that_has_never_answered(cli: Cli) -> None:
    async with forgetful([None, look("STOPPED", 7)]) as url:
        result = await asyncio.to_thread(cli, "round", "watch", url)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"hallmark: no answer from {url}: ")
