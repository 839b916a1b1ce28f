"""A model whose final norm is not vLLM's plain RMSNorm: it keeps its own, and rounds go as with any other."""

import asyncio
from pathlib import Path

import pytest
import torch
from node import BATCH_SIZE, proof, round_request, running_node
from tolerances import ENGINE_TOLERANCES
from transformers import GemmaConfig, GemmaForCausalLM
from transformers_engine import TransformersEngine

from hallmark.poc.config import PoCConfig
from hallmark.poc.round import Round
from hallmark.server.demo_model import build_demo_model

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def gemma(tmp_path: Path) -> Path:
    """A small Gemma with random weights, and the demo model's tokenizer."""
    directory = tmp_path / "gemma"
    build_demo_model(directory)
    config = GemmaConfig(
        hidden_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=512,
        vocab_size=1024,
        max_position_embeddings=2048,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GemmaForCausalLM(config).to(torch.bfloat16)
        # Its norm multiplies by 1 + weight: a weight of zero would not tell one from the other.
        model.model.norm.weight.data.uniform_(-0.5, 0.5)
    model.save_pretrained(directory)
    return directory


def test_a_model_with_a_norm_of_its_own(gemma: Path, tmp_path: Path) -> None:
    request, nonces = round_request(), list(range(2 * BATCH_SIZE))
    with running_node(gemma, tmp_path / "server.log", "--enforce-eager") as node:
        node.poc("/init/validate", request)
        claims = proof(request, nonces, [1.0] * len(nonces))
        distances = node.poc("/validate", claims)["computed_distances"]
        assert node.poc("/validate", claims)["computed_distances"] == distances
        assert node.status()["numerics"]["final_norm"] == "the model's own"

    engine = TransformersEngine(gemma, served_names=("demo",))
    round_ = Round.resolve(PoCConfig(**request), engine.model)
    asyncio.run(engine.open_round(round_.spec()))
    keys = [(round_.config.public_key, nonce) for nonce in nonces]
    expected = engine.distances(keys[:BATCH_SIZE]) + engine.distances(keys[BATCH_SIZE:])
    errors = [abs(a - b) for a, b in zip(distances, expected, strict=True)]
    assert max(errors) < ENGINE_TOLERANCES["bfloat16", "transformers"] * round_.distance_std
