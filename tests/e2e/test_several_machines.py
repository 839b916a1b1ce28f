"""A model on several machines, each played by processes of this one: by Ray, vLLM's launcher, groups."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import vllm_plugin
from node import BATCH_SIZE, HALLMARK, Node, round_request, running_node
from python_path import with_support
from tolerances import ENGINE_TOLERANCES

from hallmark.poc.protocol.law import distance_std
from hallmark.server.processes.child import ChildProcess, free_port

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

# At the default threshold chance may convict an honest batch once in some hundreds.
ROUND = round_request(valid_rate=0.5, fraud_threshold=1e-7)
TWO_RANKS = ("--enforce-eager", "--tensor-parallel-size", "2")
# Without compilation vLLM for CPUs has no buffer for what its second stage is given.
TWO_STAGES = ("--pipeline-parallel-size", "2")
# Each machine has one core, which vLLM would look for among this one's.
ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}


def check_a_round(several: Node, node: Node, dtype: str) -> None:
    """Found on several machines and judged on them and on one, with chat before, beside and after."""
    said = several.complete("The proof of the pudding")
    found = several.find_valid(ROUND)
    numerics = several.status()["numerics"]
    assert numerics["tensor_parallel_size"] * numerics["pipeline_parallel_size"] == 2
    verdict = several.poc("/validate", found)
    assert (verdict["verdict"], verdict["computed_distances"]) == ("honest", found["dist"])
    assert several.complete("The proof of the pudding") == said

    node.poc("/init/validate", ROUND)
    verdict = node.poc("/validate", found)
    assert verdict["verdict"] == "honest"
    tolerance = ENGINE_TOLERANCES[dtype, "two ranks"] * distance_std(256)
    apart = zip(verdict["computed_distances"], found["dist"], strict=True)
    assert max(abs(a - b) for a, b in apart) < tolerance
    forged = {**found, "public_key": "another"}
    assert several.poc("/validate", forged)["verdict"] == "fraud"
    several.poc("/stop")
    assert several.chat().status_code == 200


@pytest.fixture
def ray_environment(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Of a server on two nodes of Ray's."""
    environment = {
        **ENVIRONMENT,
        "PYTHONPATH": vllm_plugin.install(tmp_path / "plugin", "vllm.platform_plugins", "ray_cpu_platform"),
        "PYTHONSAFEPATH": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TRITON_INTERPRET": "0",
    }
    script, address = Path(vllm_plugin.__file__).with_name("ray_nodes.py"), tmp_path / "address"
    command = [sys.executable, "-P", str(script), str(address)]
    with ChildProcess("ray", command, log=tmp_path / "ray.log", environment=environment) as process:
        process.wait_until(address.exists, seconds=120)
        yield {**environment, "RAY_ADDRESS": address.read_text(encoding="utf-8")}


@pytest.mark.slow
def test_a_round_on_two_nodes_of_rays(
    ray_environment: dict[str, Any], node: Node, dtype: str, small_model: Path, tmp_path: Path
) -> None:
    flags = (*TWO_RANKS, "--distributed-executor-backend", "ray")
    log = tmp_path / "server.log"
    with running_node(small_model, log, *flags, dtype=dtype, **ray_environment) as several:
        assert len({rank["pid"] for rank in several.probe("pid")}) == 2
        check_a_round(several, node, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [TWO_RANKS, TWO_STAGES], ids=["ranks", "stages"])
def test_a_round_on_two_nodes_of_vllms_launcher(
    node: Node, dtype: str, small_model: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """The other one does not see the first end, and has to be asked to."""
    nodes = (*flags, "--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", str(free_port()))
    command = [
        *(*HALLMARK, "serve", str(small_model), *nodes, "--node-rank", "1", "--headless"),
        *("--dtype", dtype, "--max-model-len", "2048", "--max-num-seqs", str(BATCH_SIZE)),
        *("--worker-extension-cls", "probe.Probe"),
        *("--additional-config.hallmark.allow_developer_mode", "true"),
    ]
    environment: dict[str, Any] = {
        **ENVIRONMENT,
        "PYTHONPATH": with_support(),
        "TRITON_INTERPRET": "0",
        "VLLM_HOST_IP": "127.0.0.1",
    }
    log = tmp_path / "other.log"
    with ChildProcess("the other node", command, log=log, environment=environment) as other:
        first_log = tmp_path / "server.log"
        with running_node(small_model, first_log, *nodes, dtype=dtype, **environment) as several:
            check_a_round(several, node, dtype)
        other.terminate()
    said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("hallmark: ")]
    assert "hallmark: no server answers on this node: proof of compute does at the node of rank 0" in said
    assert "SIGTERM" in said[-1], said


def test_two_servers_share_a_walk_by_groups(node: Node, pair: Node) -> None:
    """As two engines of data parallelism would; each validates what the other has found."""
    servers = (node, pair)
    rounds = [{**ROUND, "node_id": 1, "node_count": 3, "n_groups": 2, "group_id": i} for i in range(2)]
    found = []
    for server, round_ in zip(servers, rounds, strict=True):
        valid = server.find_valid(round_)
        found.append({**valid, "node_id": 1, "numerics": server.status()["numerics"]})
    for group, batch in enumerate(found):
        assert {nonce % 6 for nonce in batch["nonces"]} == {1 + 3 * group}
        for server in servers:
            assert server.poc("/validate", batch)["verdict"] == "honest"
    pair.poc("/stop")
