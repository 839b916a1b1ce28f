"""`hallmark verify --ray`: what a command in one process says, whatever is killed in the middle."""

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from descendants import descendants, wait_until_gone
from node import HALLMARK
from offline_proofs import SHORT, Prover, claiming, part, write
from python_path import with_support
from ray_processes import ENVIRONMENT, RayNodes, command_line, ray_cluster, wait_for

from hallmark.server.models.small import build_small_model

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

NONCES = 800


def command(folder: Path, *arguments: object) -> list[str]:
    """The command line on a folder's proofs."""
    options = ("--model", folder / "model", "--device", "cpu", *SHORT, "--json", *arguments)
    return [*HALLMARK, "verify", str(folder / "proofs.json"), *map(str, options)]


def environment() -> dict[str, str]:
    """Of a command that computes with as many threads as the nodes do."""
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": with_support()}


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *arguments), capture_output=True, text=True, check=False, env=environment()
    )


@contextmanager
def running(folder: Path, state: Path, *arguments: object) -> "Iterator[subprocess.Popen[str]]":
    """Run a command until it is killed here, once it has kept a tenth of all nonces more than there were."""
    enough = len(kept(state)) + NONCES // 10
    with subprocess.Popen(
        command(folder, "--state", state, *arguments),
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, and proofs: an honest batch and a forged one."""
    folder = tmp_path_factory.mktemp("verified")
    build_small_model(folder / "model")
    proof = Prover(folder / "model").prove(range(NONCES))
    forged = part(proof, slice(NONCES // 2, NONCES))
    forged = claiming(forged, [*reversed(forged.dist)])
    honest = part(proof, slice(NONCES // 2))
    write(folder / "proofs.json", honest.as_dict(), forged.as_dict())
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> str:
    """What one process says of them."""
    done = run(folder, "--no-state")
    assert (done.returncode, done.stderr) == (1, ""), "one of them is a forgery"
    return done.stdout


@pytest.fixture(scope="module")
def nodes(folder: Path) -> Iterator[RayNodes]:
    with ray_cluster(folder) as cluster:
        yield cluster


def check_resumed(folder: Path, state: Path, alone: str, *arguments: object) -> None:
    """Run it again, to the end: the same verdicts, and each nonce once."""
    before = len(kept(state))
    assert 0 < before < NONCES
    done = run(folder, "--state", state, *arguments)
    assert done.returncode == 1, done.stderr
    assert done.stderr == f"{before} nonces taken from {state}\n"
    assert verdicts(done.stdout) == verdicts(alone)
    assert kept(state) == Counter({("02a1b2c3", nonce): 1 for nonce in range(NONCES)})


def test_on_a_ray_of_its_own_which_ends_with_it(folder: Path, alone: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(folder, state, "--ray") as process:
        started = descendants(process.pid)
        [warden] = [line for line in map(command_line, started) if "actors.warden" in line]
        rays = Path(warden.split()[-1])
        assert rays.is_dir()
    wait_until_gone(started)
    assert not rays.exists()
    check_resumed(folder, state, alone, "--ray")


def test_on_a_cluster_that_loses_the_command_and_then_an_actor(
    folder: Path, alone: str, nodes: RayNodes, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with running(folder, state, "--ray", nodes.address):
        assert nodes.actors()
    wait_for(lambda: not nodes.actors())
    before = len(kept(state))
    with running(folder, state, "--ray", nodes.address) as process:
        os.kill(nodes.actors()[0], signal.SIGKILL)
        out, err = process.communicate()
    assert (process.returncode, err) == (1, f"{before} nonces taken from {state}\n")
    assert verdicts(out) == verdicts(alone)
    assert kept(state) == Counter({("02a1b2c3", nonce): 1 for nonce in range(NONCES)})
    wait_for(lambda: not nodes.actors())


@pytest.mark.slow
def test_ctrl_c_ends_it_and_leaves_the_cluster_as_it_was(
    folder: Path, alone: str, nodes: RayNodes, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with running(folder, state, "--ray", nodes.address, "--actors", 1) as process:
        assert len(nodes.actors()) == 1
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.startswith("interrupted with ")
    assert f"what was computed is kept in {state}; run it again to go on" in " ".join(err.split())
    wait_for(lambda: not nodes.actors())
    check_resumed(folder, state, alone, "--ray", nodes.address)


def test_refusals_are_those_of_one_process(folder: Path, nodes: RayNodes, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    one = run(folder, "--no-state", "--model", empty)
    many = run(folder, "--no-state", "--model", empty, "--ray", nodes.address)
    assert (many.returncode, many.stdout) == (one.returncode, one.stdout) == (2, "")
    assert many.stderr == one.stderr
    assert many.stderr.startswith("hallmark: --model: ")
    asked = run(folder, "--no-state", "--ray", nodes.address, "--gpus", 3)
    assert (asked.returncode, asked.stdout) == (2, "")
    assert asked.stderr.startswith("hallmark: --gpus: 3 is not allowed; allowed: what one node has; ")
