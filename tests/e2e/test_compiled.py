"""A server that compiles its inference: PoC runs its own eager forward beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from node import BATCH_SIZE, Node, proof, round_request, running_node
from tolerances import ENGINE_TOLERANCES

from hallmark.poc.law import distance_std

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def compiled(demo_model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    log = tmp_path_factory.mktemp("compiled") / "server.log"
    with running_node(demo_model_directory, log) as node:
        yield node


def test_a_round_beside_compiled_inference(node: Node, compiled: Node) -> None:
    prompts = ["The proof of the pudding", "1, 2, 3, 4"]
    before = [compiled.complete(prompt) for prompt in prompts]
    compiled.probe("fill_guards")
    cache = compiled.probe("cache_checksum")
    round_ = round_request(seq_len=64)
    nonces = list(range(2 * BATCH_SIZE))
    claims = proof(round_, nonces, [1.0] * len(nonces))
    compiled.poc("/init/validate", round_)
    distances = compiled.poc("/validate", claims)["computed_distances"]
    assert distances == compiled.poc("/validate", claims)["computed_distances"]
    assert compiled.probe("cache_checksum") == cache
    assert compiled.probe("guards_hold") == [{"hold": True, "used": True}]
    assert [compiled.complete(prompt) for prompt in prompts] == before

    numerics = compiled.status()["numerics"]
    assert numerics["inference_compiled"] is True
    assert numerics["forward"] == "eager"
    node.poc("/init/validate", round_)
    eager = node.poc("/validate", claims)["computed_distances"]
    tolerance = ENGINE_TOLERANCES[("bfloat16", "other custom ops")] * distance_std(256)
    assert max(abs(a - b) for a, b in zip(distances, eager, strict=True)) < tolerance


def test_generation_on_a_server_that_compiles(compiled: Node) -> None:
    round_ = round_request(valid_rate=0.5)
    compiled.poc("/init/generate", round_)
    assert compiled.chat().status_code == 503
    compiled.wait_for(lambda status: status["total_valid"] >= 50)
    compiled.poc("/phase/validate")
    status = compiled.status()
    found = proof(round_, status["valid_nonces"][:50], status["valid_distances"][:50])
    verdict = compiled.poc("/validate", found)
    assert (verdict["fraud_detected"], verdict["computed_distances"]) == (False, found["dist"])
    compiled.poc("/stop")
    assert compiled.chat().status_code == 200
