"""Faults in the middle of a batch: the round ends with its reason, or the server does; nothing hangs."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from _traffic import Batches, Traffic
from descendants import descendants, wait_until_gone
from node import BATCH_SIZE, Node, proof, round_request, running_node

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

ROUND = round_request()
NONCES = list(range(2 * BATCH_SIZE))
CLAIMS = proof(ROUND, NONCES, [1.0] * len(NONCES))


@pytest.fixture(params=["node", "pair"])
def server(request: pytest.FixtureRequest, dtype: str) -> Iterator[Node]:
    server: Node = request.getfixturevalue(request.param)
    yield server
    server.poc("/stop")


def held_by(server: Node) -> int:
    """Bytes of the large tensors on all ranks."""
    return sum(rank["bytes"] for rank in server.probe("live_bytes"))


def held_without_a_round(server: Node) -> int:
    """The same once the engine has closed the round, which a stop does not wait for."""
    server.wait_for(lambda status: status["projection"]["bytes"] == 0)
    return held_by(server)


def test_a_layer_that_fails_in_mid_slice_ends_the_round_and_inference_goes_on(server: Node) -> None:
    """On every rank."""
    server.poc("/init/validate", ROUND)
    before = server.poc("/validate", CLAIMS)["computed_distances"]
    server.poc("/stop")
    held = held_without_a_round(server)
    with Traffic(server.url, server.model, clients=2, seed=0).running():
        server.poc("/init/validate", ROUND)
        server.probe("break_a_layer", "fail")
        answer = server.poc("/validate", CLAIMS, status=409)
        assert "the third layer is broken" in answer["detail"]
        status = server.status()
        assert status["state"] == "STOPPED"
        assert "the third layer is broken" in status["reason"]
        assert server.chat().status_code == 200
    assert held_without_a_round(server) <= held, "the batch is freed"
    server.poc("/init/validate", ROUND)
    assert server.poc("/validate", CLAIMS)["computed_distances"] == before


def test_weights_that_change_under_a_round_end_it(server: Node) -> None:
    """Between two slices of a batch, and between two batches; the next round takes what is there."""
    server.poc("/init/validate", ROUND)
    before = server.poc("/validate", CLAIMS)["computed_distances"]
    held = held_by(server)
    batches = Batches(server.http, random.Random(0))  # noqa: S311
    batches.suspended([("a prover", nonce) for nonce in range(BATCH_SIZE)])
    server.probe("poison")
    try:
        with pytest.raises(RuntimeError, match="the model's weights have changed since the round was opened"):
            batches.advance()
        server.poc("/stop")
        assert held_without_a_round(server) <= held, "the batch is freed"
        server.poc("/init/validate", ROUND)
    finally:
        server.probe("cure")
    answer = server.poc("/validate", CLAIMS, status=409)
    assert "the model's weights have changed since the round was opened" in answer["detail"]
    status = server.status()
    assert status["state"] == "STOPPED"
    assert "the model's weights have changed since the round was opened" in status["reason"]
    assert server.chat().status_code == 200
    server.poc("/init/validate", ROUND)
    assert server.poc("/validate", CLAIMS)["computed_distances"] == before


def test_batches_that_are_given_up_are_freed(server: Node) -> None:
    server.poc("/init/validate", ROUND)
    server.poc("/stop")
    held = held_without_a_round(server)
    batches = Batches(server.http, random.Random(0))  # noqa: S311
    for path in ("/stop", "/stop", "/init/validate"):
        server.poc("/init/validate", ROUND)
        batches.suspended([("a prover", nonce) for nonce in range(BATCH_SIZE)])
        assert held_by(server) > held
        server.poc(path, round_request(block_hash="another") if path != "/stop" else None)
    server.poc("/validate", {**CLAIMS, "block_hash": "another"})
    server.poc("/stop")
    assert held_without_a_round(server) <= held


def test_a_client_that_goes_away_takes_its_job_with_it(node: Node) -> None:
    node.poc("/init/validate", round_request(seq_len=256))
    cancelled = node.status()["validation"]["cancelled_jobs"]
    many = proof(ROUND, list(range(5_000)), [1.0] * 5_000)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{node.url}/api/v1/pow/validate", json=many, timeout=1.0, trust_env=False)
    status = node.wait_for(lambda status: status["validation"]["queued_jobs"] == 0)
    assert status["validation"]["cancelled_jobs"] == cancelled + 1
    assert status["state"] == "VALIDATING"


def test_a_forward_that_never_comes_back_stops_the_server(compiled: Node) -> None:
    """`/health` would stay green for ever. The last test of this fixture, since it takes the server away."""
    compiled.poc("/init/validate", ROUND)
    compiled.probe("break_a_layer", "hang")
    compiled.poc("/phase/generate")
    assert compiled.process.wait(120) == 1, "the server must end, and as a failure"
    assert compiled.process.log is not None
    log = compiled.process.log.read_text(errors="replace")
    assert "PoC stops this engine: a PoC batch has not come to its next checkpoint within 0:00:10" in log


@pytest.mark.slow
def test_a_worker_that_stands_still_ends_a_server_in_a_round_and_no_other(
    small_model: Path, tmp_path: Path
) -> None:
    """As in a debugger, or on a machine that is snapshotted; without a round nobody waits for it."""
    engine_timeout = 5.0
    settings = {"engine_timeout": engine_timeout, "max_batch_size": 2, "seq_len": 32}
    with running_node(small_model, tmp_path / "server.log", "--enforce-eager", settings=settings) as node:
        worker = node.probe("pid")[0]["pid"]
        os.kill(worker, signal.SIGSTOP)
        time.sleep(2.5 * engine_timeout)
        assert node.process.wait(0) is None, "a round would have ended it by now"
        assert node.status()["state"] == "IDLE"
        os.kill(worker, signal.SIGCONT)
        assert node.chat().status_code == 200

        processes = descendants(node.process.pid)
        assert worker in processes
        node.poc("/init/validate", round_request())
        node.wait_for(lambda status: status["is_model_initialized"])
        os.kill(worker, signal.SIGSTOP)
        node.poc("/phase/generate")
        assert node.process.wait(120) == 1, "the server must end, and as a failure"
        wait_until_gone(processes)
    log = (tmp_path / "server.log").read_text(errors="replace")
    assert "PoC stops this server: the engine has not answered poc_start within 10 s" in log
