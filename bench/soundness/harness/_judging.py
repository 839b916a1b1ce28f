"""Batches and rounds as the product has them, for experiments on its verdict."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hallmark.poc.protocol.config import DeployedModel, PoCConfig
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.judge import ValidatedBatch, judge

WIDTH = 4096
"""Of the model where only distances are at stake, whose errors are in units of s."""


def round_for(hidden_size: int = WIDTH, **config: Any) -> Round:
    """Return a round that batches are judged in, by the protocol's defaults but for what is stated."""
    return Round.resolve(
        PoCConfig(**{"block_hash": "soundness", "block_height": 1, "public_key": "prover", **config}),
        DeployedModel(
            hidden_size=hidden_size,
            dtype="bfloat16",
            vocabulary=1 << 16,
            table_rows=1 << 16,
            first=0,
            served_names=("model",),
            max_batched_tokens=1 << 20,
            max_sequences=4096,
            max_model_len=4096,
        ),
    )


def proof(
    round_: Round,
    nonces: Sequence[int],
    received: Sequence[float] | npt.NDArray[np.float64],
    **more: Any,
) -> ProofBatch:
    """Return a batch of the round.

    Args:
        round_: The round.
        nonces: The claimed nonces.
        received: Their distances.
        **more: Further fields of the batch, or others in the place of the round's.
    """
    fields: dict[str, Any] = {
        "public_key": round_.config.public_key,
        "block_hash": round_.config.block_hash,
        "block_height": round_.config.block_height,
        "node_id": 0,
        "round_digest": round_.digest,
    }
    return ProofBatch(
        **{**fields, **more},
        nonces=tuple(int(nonce) for nonce in nonces),
        dist=tuple(float(distance) for distance in received),
    )


def judge_distances(
    round_: Round,
    nonces: Sequence[int],
    received: Sequence[float] | npt.NDArray[np.float64],
    computed: Mapping[int, float],
    *,
    sampled: Collection[int] | None = None,
    **more: Any,
) -> ValidatedBatch:
    """Check a batch against the round and judge it by number 0 alone, as the server does without vectors.

    Raises:
        HallmarkError: The product refuses the batch.
    """
    batch = proof(round_, nonces, received, **more)
    batch.check_against(round_)
    return judge(batch, computed_numbers(round_, computed), round_, sampled=sampled)


def computed_numbers(round_: Round, distances: Mapping[int, float]) -> dict[int, tuple[float, ...]]:
    """Return numbers of nonces with these distances; all but number 0, which no vector is held to, are 0."""
    others = (0.0,) * (round_.numbers - 1)
    root = math.sqrt(round_.hidden_size)
    return {nonce: (root * (1.0 - float(d) ** 2 / 2), *others) for nonce, d in distances.items()}
