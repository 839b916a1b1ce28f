"""`hallmark verify --ray`: what a command in one process says, whatever is killed in the middle."""

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import vllm_plugin
from descendants import descendants, wait_until_gone
from node import HALLMARK
from offline_proofs import SHORT, Prover, claiming, part, write
from python_path import with_support
from ray_processes import ENVIRONMENT, RayNodes, command_line, ray_cluster, wait_for

from hallmark.server.models.small import build_small_model
from hallmark.server.models.smollm2 import SMOLLM2

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

NONCES = 800
"""As many of the small model's take half a minute."""


@dataclass(frozen=True)
class Proofs:
    """What is verified.

    Attributes:
        model: The model's folder.
        file: Proofs: an honest batch and a forged one.
        count: How many nonces they have together.
    """

    model: Path
    file: Path
    count: int


def command(proofs: Proofs, *arguments: object) -> list[str]:
    """The command line on some proofs."""
    options = ("--model", proofs.model, *SHORT, "--json", *arguments)
    return [*HALLMARK, "verify", str(proofs.file), *map(str, options)]


def environment() -> dict[str, str]:
    """Of a command that computes with as many threads as the nodes do."""
    bind = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return {**os.environ, **ENVIRONMENT, **bind, "PYTHONPATH": with_support()}


def run(proofs: Proofs, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(proofs, *arguments), capture_output=True, text=True, check=False, env=environment()
    )


@contextmanager
def running(proofs: Proofs, state: Path, *arguments: object) -> "Iterator[subprocess.Popen[str]]":
    """Run a command until it is killed here, once it has kept a tenth of all nonces more than there were."""
    enough = len(kept(state)) + proofs.count // 10
    with subprocess.Popen(
        command(proofs, "--state", state, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        try:
            wait_for(lambda: len(kept(state)) >= enough or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            process.kill()


def kept(state: Path) -> Counter[tuple[str, int]]:
    """How often each nonce is in a file of numbers."""
    if not state.exists():
        return Counter()
    lines = [json.loads(line) for line in state.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return Counter((key, nonce) for line in lines for key, nonce, _ in line.get("numbers", ()))


def verdicts(printed: str) -> Sequence[dict[str, Any]]:
    """The lines of JSON of a command; anything else among them fails."""
    return [json.loads(line) for line in printed.splitlines()]


def made(folder: Path, model: Path, count: int) -> Proofs:
    """Prove with a model, and forge."""
    proof = Prover(model).prove(range(count))
    forged = part(proof, slice(count // 2, count))
    forged = claiming(forged, [*reversed(forged.dist)])
    honest = part(proof, slice(count // 2))
    return Proofs(model, write(folder / "proofs.json", honest.as_dict(), forged.as_dict()), count)


@pytest.fixture(scope="module", params=["small", pytest.param("smollm2", marks=pytest.mark.slow)])
def proofs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Proofs:
    folder = tmp_path_factory.mktemp("verified")
    if request.param == "smollm2":
        return made(folder, SMOLLM2.ensure(lambda _: None), NONCES // 5)
    build_small_model(folder / "model")
    return made(folder, folder / "model", NONCES)


@pytest.fixture(scope="module")
def alone(proofs: Proofs) -> str:
    """What one process says of them."""
    done = run(proofs, "--no-state")
    assert (done.returncode, done.stderr) == (1, ""), "one of them is a forgery"
    return done.stdout


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    with ray_cluster(tmp_path_factory.mktemp("ray")) as cluster:
        yield cluster


def check_resumed(proofs: Proofs, state: Path, alone: str, *arguments: object) -> None:
    """Run it again, to the end: the same verdicts, and each nonce once."""
    before = len(kept(state))
    assert 0 < before < proofs.count
    done = run(proofs, "--state", state, *arguments)
    assert done.returncode == 1, done.stderr
    assert done.stderr == f"{before} nonces taken from {state}\n"
    assert verdicts(done.stdout) == verdicts(alone)
    assert kept(state) == Counter({("02a1b2c3", nonce): 1 for nonce in range(proofs.count)})


def test_on_a_ray_of_its_own_which_ends_with_it(proofs: Proofs, alone: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(proofs, state, "--ray") as process:
        started = descendants(process.pid)
        [warden] = [line for line in map(command_line, started) if "actors.warden" in line]
        rays = Path(warden.split()[-1])
        assert rays.is_dir()
    wait_until_gone(started)
    assert not rays.exists()
    check_resumed(proofs, state, alone, "--ray")


def test_on_a_cluster_that_loses_the_command_and_then_an_actor(
    proofs: Proofs, alone: str, nodes: RayNodes, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with running(proofs, state, "--ray", nodes.address):
        assert nodes.actors()
    wait_for(lambda: not nodes.actors())
    before = len(kept(state))
    with running(proofs, state, "--ray", nodes.address) as process:
        os.kill(nodes.actors()[0], signal.SIGKILL)
        out, err = process.communicate()
    assert (process.returncode, err) == (1, f"{before} nonces taken from {state}\n")
    assert verdicts(out) == verdicts(alone)
    assert kept(state) == Counter({("02a1b2c3", nonce): 1 for nonce in range(proofs.count)})
    wait_for(lambda: not nodes.actors())


@pytest.mark.slow
def test_ctrl_c_ends_it_and_leaves_the_cluster_as_it_was(
    proofs: Proofs, alone: str, nodes: RayNodes, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with running(proofs, state, "--ray", nodes.address, "--actors", 1) as process:
        assert len(nodes.actors()) == 1
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.startswith("interrupted with ")
    assert f"what was computed is kept in {state}; run it again to go on" in " ".join(err.split())
    wait_for(lambda: not nodes.actors())
    check_resumed(proofs, state, alone, "--ray", nodes.address)


@pytest.mark.slow
def test_refusals_are_those_of_one_process(proofs: Proofs, nodes: RayNodes, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    one = run(proofs, "--no-state", "--model", empty)
    many = run(proofs, "--no-state", "--model", empty, "--ray", nodes.address)
    assert (many.returncode, many.stdout) == (one.returncode, one.stdout) == (2, "")
    assert many.stderr == one.stderr
    assert many.stderr.startswith("hallmark: --model: ")
    asked = run(proofs, "--no-state", "--ray", nodes.address, "--gpus", 3)
    assert (asked.returncode, asked.stdout) == (2, "")
    assert asked.stderr.startswith("hallmark: --gpus: 3 is not allowed; allowed: what one node has; ")


@pytest.mark.slow
def test_vllm_in_actors(proofs: Proofs, nodes: RayNodes, tmp_path: Path) -> None:
    """One of which dies, as those of transformers do."""
    engine = ("--engine", "vllm")
    alone = run(proofs, "--no-state", *engine)
    assert alone.returncode == 1, alone.stderr
    state = tmp_path / "state"
    with running(proofs, state, "--ray", nodes.address, *engine) as process:
        os.kill(nodes.actors()[0], signal.SIGKILL)
        out, err = process.communicate()
    assert (process.returncode, err) == (1, "")
    assert verdicts(out) == verdicts(alone.stdout)
    assert kept(state) == Counter({("02a1b2c3", nonce): 1 for nonce in range(proofs.count)})


@pytest.mark.slow
def test_a_model_that_takes_both_nodes(proofs: Proofs, tmp_path: Path) -> None:
    """An actor's vLLM deals its ranks out by Ray."""
    path = vllm_plugin.install(tmp_path / "plugin", "vllm.platform_plugins", "ray_cpu_platform")
    flags = ("--tensor-parallel-size", 2, "--distributed-executor-backend", "ray")
    with ray_cluster(tmp_path, path) as nodes:
        done = run(proofs, "--no-state", "--ray", nodes.address, "--engine", "vllm", "--", *flags)
    assert (done.returncode, done.stderr) == (1, "")
    honest, forged, *_, last = verdicts(done.stdout)
    assert (honest["verdict"], forged["verdict"]) == ("honest", "fraud")
    assert last["summary"]["numerics"]["tensor_parallel_size"] == 2
