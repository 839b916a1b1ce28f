"""Transformers as an independent oracle: another implementation of the model gives the same distances."""

import asyncio
from pathlib import Path

import pytest
from node import BATCH_SIZE, Node, proof, round_request
from tolerances import ENGINE_TOLERANCES
from transformers_engine import TransformersEngine

from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.law import distance_of
from hallmark.poc.protocol.round import Round

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


async def oracle_distances(engine: TransformersEngine, round_: Round, nonces: list[int]) -> list[float]:
    await engine.open_round(round_.spec())
    key = round_.config.public_key
    keys = [(key, nonce) for nonce in nonces]
    starts = range(0, len(keys), round_.batch_size)
    done = await engine.start([keys[start : start + round_.batch_size] for start in starts], None)
    return [
        distance_of(numbers[0], round_.hidden_size)
        for batch in done.batches or ()
        for numbers in batch.numbers
    ]


@pytest.mark.both_dtypes
@pytest.mark.parametrize("use_random_projection", [True, False])
def test_distances_agree_with_transformers(
    node: Node, dtype: str, small_model: Path, use_random_projection: bool
) -> None:
    request = round_request(seq_len=64, use_random_projection=use_random_projection)
    nonces = list(range(1000, 1000 + 2 * BATCH_SIZE))
    node.poc("/init/validate", request)
    answer = node.poc("/validate", proof(request, nonces, [1.0] * len(nonces)))

    engine = TransformersEngine(small_model, dtype=dtype, served_names=("demo",))
    round_ = Round.resolve(PoCConfig(**request), engine.model)
    config = node.status()["config"]
    assert config["round"] == round_.digest, "both decide alike on what the request leaves open"
    assert (config["inputs"], config["readout"]) == (
        ("tokens", "rows") if use_random_projection else ("normal", "last")
    )
    expected = asyncio.run(oracle_distances(engine, round_, nonces))
    errors = [abs(a - b) for a, b in zip(answer["computed_distances"], expected, strict=True)]
    tolerance = ENGINE_TOLERANCES[dtype, "transformers"]
    assert max(errors) < tolerance * round_.distance_std
