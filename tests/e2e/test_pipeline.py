"""Two pipeline stages: the numbers of one process, chat beside them, and faults in either stage."""

import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest
from _traffic import Batches, Traffic, completions, some_prompts
from cores import cores_for
from node import BATCH_SIZE, TIGHT, Node, proof, round_request, running_node
from transformers_engine import claimed_with

from hallmark.server.models.small import build_small_model

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

ROUND = round_request(valid_rate=0.5, fraud_threshold=1e-7)
NONCES = list(range(2 * BATCH_SIZE))
CLAIMS = proof(ROUND, NONCES, [1.0] * len(NONCES))


def running(model: Path, log: Path, *flags: str) -> AbstractContextManager[Node]:
    """A server of two stages, which goes on with a round that a kill has ended."""
    settings = {"resume_on_start": True, "engine_timeout": 60.0}
    flags = ("--pipeline-parallel-size", "2", *TIGHT, *flags)
    return running_node(model, log, *flags, settings=settings, VLLM_CPU_OMP_THREADS_BIND=cores_for(2))


@pytest.fixture(scope="module")
def stages(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server that compiles: without, vLLM for CPUs has no buffer for what its second stage is given."""
    with running(small_model, tmp_path_factory.mktemp("stages") / "server.log") as node:
        yield node


def test_two_stages_find_and_validate_and_agree_with_one_process(node: Node, stages: Node) -> None:
    found = stages.find_valid(ROUND)
    numerics = stages.status()["numerics"]
    assert (numerics["pipeline_parallel_size"], numerics["tensor_parallel_size"]) == (2, 1)
    answer = stages.poc("/validate", found)
    assert (answer["verdict"], answer["computed_distances"]) == ("honest", found["dist"])
    node.poc("/init/validate", ROUND)
    answer = node.poc("/validate", found)
    assert (answer["verdict"], answer["computed_distances"]) == ("honest", found["dist"])
    stages.poc("/stop")


def test_slices_of_any_length_beside_chat_have_the_numbers_of_whole_batches(stages: Node) -> None:
    prompts = some_prompts(6, seed=1)

    def said() -> list[str]:
        return completions(stages.url, stages.model, prompts, tokens=24, at_once=1)

    alone = said()
    stages.poc("/init/validate", ROUND)
    batches = Batches(stages.http, random.Random(0))  # noqa: S311
    keys = [("a prover", nonce) for nonce in range(BATCH_SIZE)]
    whole = batches.whole(keys)
    with ThreadPoolExecutor() as pool:
        chat = pool.submit(said)
        sliced = [batches.sliced(keys, most_layers) for most_layers in (1, 2, 3, 5)]
        while not chat.done():
            sliced.append(batches.sliced(keys))
    assert sliced == [whole] * len(sliced)
    assert chat.result() == alone
    before = stages.status()["validation"]["slices_concurrent_with_inference"]
    with Traffic(stages.url, stages.model, clients=2, seed=0).running():
        beside = stages.poc("/validate", CLAIMS)["computed_distances"]
    assert stages.status()["validation"]["slices_concurrent_with_inference"] > before
    assert stages.poc("/validate", CLAIMS)["computed_distances"] == beside
    assert said() == alone
    stages.poc("/stop")


def test_another_model_is_caught(stages: Node, small_model: Path, tmp_path: Path) -> None:
    """And the same one is not, whoever computes it."""
    build_small_model(tmp_path / "other", seed=7)
    round_ = round_request(fraud_threshold=1e-7)
    stages.poc("/init/validate", round_)
    for model, verdict in ((small_model, "honest"), (tmp_path / "other", "fraud")):
        claims = claimed_with(model, None, round_, NONCES[:BATCH_SIZE])
        assert stages.poc("/validate", claims.as_dict())["verdict"] == verdict
    stages.poc("/stop")


FAILURES = [
    pytest.param(["forget_round_on", 0], "rank 0: no PoC round is open", id="before the first stage sends"),
    pytest.param(["forget_round_on", 1], "rank 1: no PoC round is open", id="before the second receives"),
    pytest.param(["break_a_layer", "fail", 0], "the third layer is broken", id="in the first stage"),
    pytest.param(["break_a_layer", "fail", 1], "the third layer is broken", id="in the second stage"),
    pytest.param(["break_a_layer", "fail", 0, 1], "the third layer is broken", id="behind a send"),
    pytest.param(["break_a_layer", "fail", 1, 1], "the third layer is broken", id="behind a receive"),
]


@pytest.mark.parametrize("is_at_work", [False, True], ids=["whole batches", "beside chat"])
@pytest.mark.parametrize(("failure", "reason"), FAILURES)
def test_a_failure_in_one_stage_ends_the_round_and_inference_goes_on(
    stages: Node, failure: list[Any], reason: str, is_at_work: bool
) -> None:
    """Whatever other batches are on their way to the stage that has failed, or from it."""
    stages.poc("/init/validate", ROUND)
    before = stages.poc("/validate", CLAIMS)["computed_distances"]
    if is_at_work:
        with Traffic(stages.url, stages.model, clients=2, seed=0).running():
            stages.probe(*failure)
            assert reason in stages.poc("/validate", CLAIMS, status=409)["detail"]
    else:
        stages.probe(*failure)
        stages.poc("/phase/generate")
    status = stages.wait_for(lambda status: status["state"] == "STOPPED")
    assert reason in status["reason"]
    assert stages.chat().status_code == 200
    stages.poc("/init/validate", ROUND)
    assert stages.poc("/validate", CLAIMS)["computed_distances"] == before
    stages.poc("/stop")


def test_a_killed_server_goes_on_with_its_round(stages: Node, small_model: Path, tmp_path: Path) -> None:
    """The last test of this fixture, since it takes the server away."""
    stages.poc("/init/generate", ROUND)
    before = stages.wait_for(lambda status: status["total_valid"] >= 2 * BATCH_SIZE)["total_valid"]
    assert stages.process.log is not None
    [server] = psutil.Process(stages.process.pid).children()
    server.kill()
    assert stages.process.wait(60) == 128 + signal.SIGKILL
    with running(small_model, stages.process.log) as again:
        assert again.status()["interrupted_round"]["is_resumed"]
        again.wait_for(lambda status: status["total_valid"] >= before + BATCH_SIZE)
        again.poc("/stop")


@pytest.mark.parametrize(
    ("how", "rank"),
    [
        ("hang", 1),
        ("kill", 0),
        pytest.param("hang", 0, marks=pytest.mark.slow),
        pytest.param("kill", 1, marks=pytest.mark.slow),
    ],
)
def test_a_stage_that_never_answers_ends_the_server(
    small_model: Path, tmp_path: Path, how: str, rank: int
) -> None:
    """No inference is asked for, so that a server which does not compile will do."""
    with running(small_model, tmp_path / "server.log", "--enforce-eager") as node:
        node.poc("/init/validate", ROUND)
        if how == "hang":
            node.probe("break_a_layer", "hang", rank)
        pids = [worker["pid"] for worker in node.probe("pid")]
        assert len(set(pids)) == 2
        node.poc("/phase/generate")
        if how == "kill":
            node.wait_for(lambda status: status["total_checked"] > 0)
            psutil.Process(pids[rank]).kill()
        assert node.process.wait(120) is not None, "the server must end"
        assert node.process.log is not None
        if how == "hang":
            assert "PoC stops this engine: " in node.process.log.read_text(errors="replace")
