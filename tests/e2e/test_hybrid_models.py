"""Servers of models whose layers keep states: rounds, kills, chat between the slices, and forgeries."""

import json
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree

import psutil
import pytest
import torch
from _account import Received, differing, lost, problems
from _leftovers import ever_queued
from _status_history import StatusHistory
from _traffic import completions, some_prompts
from families import FAMILIES, Family, build_family
from node import BATCH_SIZE, HALLMARK, Node, Receiver, proof, round_request, running_node
from offline_proofs import write
from safetensors.torch import load_file, save_file
from transformers_engine import claimed_with

from hallmark.poc.protocol.law import distance_std
from hallmark.server.cli.client import PoCClient
from hallmark.server.models.small import HIDDEN_SIZE

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

NONCES = list(range(BATCH_SIZE))


@dataclass(frozen=True, slots=True)
class Served:
    """A model, and a server of it."""

    family: Family
    model: Path
    log: Path
    node: Node


def running(family: Family, model: Path, log: Path) -> AbstractContextManager[Node]:
    """Start a server, on the outbox that lies beside the log."""
    flags = ["--enforce-eager"]
    # As on one GPU, with the worker in the engine's process: one process less to start.
    flags += ["--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor"]
    if not family.arguments.get("enable_prefix_caching", True):
        flags.append("--no-enable-prefix-caching")
    return running_node(model, log, *flags, settings={"resume_on_start": True}, dtype=family.dtype)


@pytest.fixture(scope="module", params=["Falcon-H1", "Qwen3-Next"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Attention and states in every layer, and in turns; the last test that uses it ends the server."""
    family, folder = FAMILIES[request.param], tmp_path_factory.mktemp("served")
    model = build_family(request.param, folder / "model", getattr(torch, family.dtype))
    log = folder / "server.log"
    with running(family, model, log) as node:
        yield Served(family, model, log, node)


def without_states(model: Path, directory: Path) -> Path:
    """Copy a model of which the layers that keep states add nothing, as if a prover left them out."""
    copytree(model, directory)
    weights = load_file(directory / "model.safetensors")
    outputs = ("mamba.out_proj.weight", "linear_attn.out_proj.weight")
    silenced = {name: torch.zeros_like(found) for name, found in weights.items() if name.endswith(outputs)}
    assert silenced
    save_file({**weights, **silenced}, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_numbers_are_those_of_transformers_and_without_states_they_are_forged(
    served: Served, tmp_path: Path
) -> None:
    """The server says so, and `hallmark verify`, which needs no vLLM."""
    family, node = served.family, served.node
    request = round_request(fraud_threshold=1e-7)
    honest = claimed_with(served.model, family.dtype, request, NONCES)
    forged = claimed_with(without_states(served.model, tmp_path / "forged"), family.dtype, request, NONCES)
    node.poc("/init/validate", request)
    answers = [node.poc("/validate", claims.as_dict()) for claims in (honest, forged)]
    node.poc("/stop")
    assert [answer["verdict"] for answer in answers] == ["honest", "fraud"]
    apart = family.tolerance(family.dtype) * distance_std(HIDDEN_SIZE)
    for answer in answers:
        assert answer["computed_distances"] == pytest.approx(honest.dist, abs=apart, rel=0)

    servers = proof(request, NONCES, answers[0]["computed_distances"])
    proofs = write(tmp_path / "proofs.jsonl", servers, forged.as_dict())
    command = [
        *(*HALLMARK, "verify", str(proofs), "--model", str(served.model), "--dtype", family.dtype),
        *("--batch-size", str(request["batch_size"]), "--seq-len", str(request["seq_len"])),
        *("--fraud-threshold", "1e-7", "--no-state", "--json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    verdicts = [json.loads(line) for line in done.stdout.splitlines()[:-1]]
    assert [verdict["verdict"] for verdict in verdicts if not verdict["joined"]] == ["honest", "fraud"]


def test_validation_and_chat_beside_each_other_are_what_they_are_alone(served: Served) -> None:
    node = served.node
    found = node.find_valid(round_request(valid_rate=0.5, fraud_threshold=1e-7))
    prompts = some_prompts(6, seed=1)

    def said() -> list[str]:
        return completions(node.url, node.model, prompts, tokens=24, at_once=1)

    alone = said()
    before = node.status()["validation"]["slices_concurrent_with_inference"]
    with ThreadPoolExecutor() as pool:
        chat = pool.submit(said)
        answers = [node.poc("/validate", found)]
        while not chat.done():
            answers.append(node.poc("/validate", found))
    assert node.status()["validation"]["slices_concurrent_with_inference"] > before
    for answer in answers:
        assert (answer["verdict"], answer["computed_distances"]) == ("honest", found["dist"])
    assert chat.result() == alone
    assert said() == alone
    node.poc("/stop")


def test_a_stop_in_the_middle_of_a_batch_leaves_inference_as_it_was(served: Served) -> None:
    node = served.node
    prompt = "On and on and on"
    alone = node.complete(prompt, tokens=200)
    round_, many = round_request(), list(range(5_000))
    node.poc("/init/validate", round_)
    before = node.status()["validation"]["slices_concurrent_with_inference"]
    node.poc("/validate?wait=false", proof(round_, many, [1.0] * len(many)), status=202)
    with ThreadPoolExecutor() as pool:
        beside = pool.submit(node.complete, prompt, 200)
        node.wait_for(lambda status: status["validation"]["slices_concurrent_with_inference"] > before)
        node.poc("/stop")
        assert node.status()["state"] == "STOPPED"
        assert beside.result() == alone
    assert node.complete(prompt, tokens=200) == alone


def test_a_killed_server_goes_on_with_its_round_and_no_proof_is_lost_or_altered(
    served: Served, receiver: Receiver, tmp_path: Path
) -> None:
    """The last test of this fixture, since it takes the server away."""
    request = round_request(block_hash="a block with a crash", valid_rate=0.5, callback_url=receiver.url)
    shown = StatusHistory()
    node = served.node
    node.poc("/init/generate", request)
    shown.note(node.wait_for(lambda status: status["total_valid"] >= 3 * BATCH_SIZE))
    [server] = psutil.Process(node.process.pid).children()
    server.kill()
    assert node.process.wait(60) == 128 + signal.SIGKILL
    with running(served.family, served.model, served.log) as again:
        assert again.status()["interrupted_round"]["is_resumed"]
        least = shown.counts[-1][1] + 3 * BATCH_SIZE
        again.wait_for(lambda status: status["total_valid"] >= least)
        again.poc("/stop")
        # The batch that was in flight counts too, once it is done.
        over = again.wait_for(lambda status: not status["projection"]["bytes"])
        shown.note(over)
        total = over["total_valid"]
        receiver.wait_for("generated", lambda found: sum(len(body["nonces"]) for body in found) == total)
        received = Received.of(tmp_path / "receiver.sqlite3", request["public_key"])
        assert problems(received, shown, request, ever_queued(served.log.with_suffix(".outbox.db"))) == []
        assert lost(received, shown) == []
        with PoCClient(again.url, use_proxies=False, timeout=120) as poc:
            assert differing(received, request, poc) == 0
