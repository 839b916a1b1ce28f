"""Servers with another cache than Qwen3's: a quantised one, a draft model's, latent attention's."""

import asyncio
import json
import random
from pathlib import Path

import pytest
from _traffic import Batches, Traffic
from models import build_deepseek
from node import BATCH_SIZE, Node, proof, round_request, running_node
from tolerances import ENGINE_TOLERANCES
from transformers_engine import TransformersEngine

from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.round import Round

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600)]

REQUEST = round_request()
NONCES = list(range(2 * BATCH_SIZE))


@pytest.fixture
def deepseek(tmp_path: Path) -> Path:
    return build_deepseek(tmp_path / "deepseek")


def distances_on(node: Node) -> list[float]:
    """A round's distances, twice the same."""
    node.poc("/init/validate", REQUEST)
    claims = proof(REQUEST, NONCES, [1.0] * len(NONCES))
    distances: list[float] = node.poc("/validate", claims)["computed_distances"]
    assert node.poc("/validate", claims)["computed_distances"] == distances
    return distances


def check_with_transformers(model: Path, distances: list[float]) -> None:
    engine = TransformersEngine(model, served_names=("demo",))
    round_ = Round.resolve(PoCConfig(**REQUEST), engine.model)
    asyncio.run(engine.open_round(round_.spec()))
    keys = [(round_.config.public_key, nonce) for nonce in NONCES]
    expected = engine.distances(keys[:BATCH_SIZE]) + engine.distances(keys[BATCH_SIZE:])
    errors = [abs(a - b) for a, b in zip(distances, expected, strict=True)]
    assert max(errors) < ENGINE_TOLERANCES[engine.model.dtype, "transformers"] * round_.distance_std


@pytest.mark.next
def test_a_quantised_cache_is_told_and_refuses_proofs_of_another(small_model: Path, tmp_path: Path) -> None:
    flags = ("--enforce-eager", "--kv-cache-dtype", "fp8")
    with running_node(small_model, tmp_path / "server.log", *flags) as node:
        distances = distances_on(node)
        numerics = node.status()["numerics"]
        assert numerics["kv_cache_dtype"] == "fp8_e4m3"
        honest = proof(REQUEST, NONCES, distances, numerics=numerics)
        assert node.poc("/validate", honest)["fraud_detected"] is False
        other = {**honest, "numerics": {**numerics, "kv_cache_dtype": "auto"}}
        detail = node.poc("/validate", other, status=409)["detail"]
        assert f"KV cache dtype {numerics['dtype']!r}, it would be judged" in detail
        assert "with the KV cache dtype 'fp8_e4m3'" in detail
    with pytest.raises(AssertionError):  # which is why
        check_with_transformers(small_model, distances)


@pytest.mark.next
def test_a_model_beside_its_draft_model(small_model: Path, tmp_path: Path) -> None:
    """Whose layers are inference's too, and which a PoC batch does not run."""
    draft = {"method": "draft_model", "model": str(small_model), "num_speculative_tokens": 2}
    flags = ("--enforce-eager", "--speculative-config", json.dumps(draft))
    with running_node(small_model, tmp_path / "server.log", *flags) as node:
        alone = node.complete("The proof of the pudding")
        cache = node.probe("cache_checksum")
        distances = distances_on(node)
        assert node.probe("cache_checksum") == cache
        assert node.complete("The proof of the pudding") == alone
    check_with_transformers(small_model, distances)


def test_a_model_with_latent_attention_and_experts(deepseek: Path, tmp_path: Path) -> None:
    """Sliced beside traffic too; its cache has another shape. On CPUs vLLM gives it 2,048 tokens at once.

    Transformers is no oracle here: on this model vLLM's own inference on CPUs has other logits than it.
    """
    settings = {"seq_len": 64}
    with running_node(deepseek, tmp_path / "server.log", "--enforce-eager", settings=settings) as node:
        alone = node.complete("The proof of the pudding")
        cache = node.probe("cache_checksum")
        distances = distances_on(node)
        assert node.probe("cache_checksum") == cache
        assert "MLA" in node.status()["numerics"]["attention"]
        assert node.complete("The proof of the pudding") == alone
        keys = [("a prover", nonce) for nonce in range(4)]
        batches = Batches(node.http, random.Random(0))  # noqa: S311
        idle = batches.whole(keys)
        node.probe("fill_guards")
        with Traffic(node.url, node.model, clients=3, seed=1).running():
            for _ in range(40):
                assert batches.sliced(keys) == idle
        assert node.probe("guards_hold") == [{"hold": True, "used": True}]
        assert distances_on(node) == distances
