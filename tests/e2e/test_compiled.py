"""Servers that compile: PoC runs the compiled model where that takes embeddings, an eager forward else."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from node import BATCH_SIZE, Node, proof, round_request, running_node
from tolerances import ENGINE_TOLERANCES

from hallmark.poc.protocol.law import distance_std

pytestmark = [pytest.mark.server, pytest.mark.timeout(1200)]

ROUND = round_request(seq_len=64)
NONCES = list(range(2 * BATCH_SIZE))
CLAIMS = proof(ROUND, NONCES, [1.0] * len(NONCES))


@pytest.fixture
def compiled_for_tokens(dtype: str, small_model: Path, tmp_path: Path) -> Iterator[Node]:
    with running_node(small_model, tmp_path / "server.log", dtype=dtype) as node:
        yield node


def check_a_round(compiled: Node, node: Node, dtype: str) -> tuple[list[float], list[float]]:
    """Nothing of inference is touched, and the distances are an eager server's but for rounding.

    Returns:
        The distances of both.
    """
    prompts = ["The proof of the pudding", "1, 2, 3, 4"]
    before = [compiled.complete(prompt) for prompt in prompts]
    compiled.probe("fill_guards")
    cache = compiled.probe("cache_checksum")
    compiled.poc("/init/validate", ROUND)
    distances = compiled.poc("/validate", CLAIMS)["computed_distances"]
    assert distances == compiled.poc("/validate", CLAIMS)["computed_distances"]
    assert compiled.probe("cache_checksum") == cache
    assert all(rank == {"hold": True, "used": True} for rank in compiled.probe("guards_hold"))
    assert [compiled.complete(prompt) for prompt in prompts] == before
    node.poc("/init/validate", ROUND)
    eager = node.poc("/validate", CLAIMS)["computed_distances"]
    tolerance = ENGINE_TOLERANCES[dtype, "other custom ops"] * distance_std(256)
    assert max(abs(a - b) for a, b in zip(distances, eager, strict=True)) < tolerance
    return distances, eager


@pytest.mark.both_dtypes
def test_a_round_on_the_compiled_model(node: Node, compiled: Node, dtype: str) -> None:
    check_a_round(compiled, node, dtype)
    numerics = compiled.status()["numerics"]
    assert numerics["forward"] == "compiled"
    assert numerics["embedding"] == "PoC's"
    assert numerics["final_norm"] == "the model's own", "its graph has it in it"


@pytest.mark.slow
@pytest.mark.next
@pytest.mark.both_dtypes
def test_a_round_beside_inference_that_is_compiled_for_tokens(
    node: Node, compiled_for_tokens: Node, dtype: str
) -> None:
    """Its numbers and its fingerprint are those of a server that compiles nothing."""
    compiled, eager = check_a_round(compiled_for_tokens, node, dtype)
    assert compiled == eager
    assert compiled_for_tokens.status()["numerics"] == node.status()["numerics"]


@pytest.mark.both_dtypes
def test_generation_on_the_compiled_model_and_a_validator_that_is_not(node: Node, compiled: Node) -> None:
    round_ = round_request(valid_rate=0.5, fraud_threshold=1e-7)
    found = {**compiled.find_valid(round_), "numerics": compiled.status()["numerics"]}
    verdict = compiled.poc("/validate", found)
    assert (verdict["fraud_detected"], verdict["computed_distances"]) == (False, found["dist"])
    assert verdict["numerics_differ"] == []
    compiled.poc("/stop")
    assert compiled.chat().status_code == 200

    node.poc("/init/validate", round_)
    verdict = node.poc("/validate", found)
    assert verdict["fraud_detected"] is False
    assert "forward" in verdict["numerics_differ"]
