"""Bodies of deliveries and verdicts as they go over the wire, made by the code that makes a server's."""

import json
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.protocol.config import DeployedModel, PoCConfig
from hallmark.poc.protocol.generated import ComputedSpan, merged_bodies
from hallmark.poc.protocol.nonces import NonceSchedule
from hallmark.poc.protocol.proof import Numerics, ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.rounds.payloads import generated_template, validated_payload
from hallmark.poc.settings.settings import Settings
from hallmark.poc.verdict.judge import judge

__all__ = ["FORWARD", "MAX_BODY_BYTES", "BodySizes", "Prover", "round_of", "sizes"]

FORWARD: Final = 32
"""Nonces that the engine computes at once: spans are merged whole."""

MAX_BODY_BYTES: Final = Settings().callback_max_payload_bytes
"""Longest body that a server merges, by default."""

_BIG: Final = 2**40
_NUMERICS: Final[Numerics] = {
    "vllm": "0.32.0",
    "torch": "2.13.0",
    "device": "NVIDIA H100 80GB HBM3",
    "dtype": "bfloat16",
    "batch_size": FORWARD,
    "seq_len": 256,
}


def round_of(public_key: str, node_id: int, nodes: int, *, valid_rate: float = 1.0, block: int = 0) -> Round:
    """Return a node's round of a model as wide as an 8B one.

    Args:
        public_key: The node's.
        node_id: Its number.
        nodes: How many there are.
        valid_rate: The share of nonces that count.
        block: The number of the block.
    """
    model = DeployedModel(
        hidden_size=4096,
        dtype="bfloat16",
        vocabulary=151_936,
        table_rows=151_936,
        first=None,
        served_names=("org/model",),
        max_batched_tokens=FORWARD * 256,
        max_sequences=FORWARD,
        max_model_len=4096,
    )
    config = PoCConfig(
        block_hash=f"{block:064x}",
        block_height=812_345 + block,
        public_key=public_key,
        node_id=node_id,
        node_count=nodes,
        batch_size=FORWARD,
        seq_len=256,
        valid_rate=valid_rate,
        honest_sigma=0.05,
        fraud_threshold=1e-7,
    )
    return Round.resolve(config, model)


class Prover:
    """A node that walks its nonces and finds numbers as the law has them.

    Args:
        round_: Its round.
        seed: Of the numbers.
    """

    def __init__(self, round_: Round, seed: int = 0) -> None:
        self.round = round_
        config = round_.config
        self._schedule = NonceSchedule(config.node_id or 0, config.node_count or 1)
        # As far into the walk as after a minute at 1,000 a second.
        self._schedule.position = 60_000
        self._rng = np.random.default_rng(seed)
        self._template = generated_template(round_, _NUMERICS)

    def delivery(self, n_nonces: int, *, has_vectors: bool = True) -> bytes:
        """Return the next body of `/generated` with so many nonces.

        In as many spans as the engine would compute.

        Args:
            n_nonces: How many count; about 1/`valid_rate` times as many are walked.
            has_vectors: Whether all numbers are in it, as in those of a server; else distances alone.
        """
        [body] = merged_bodies(self._template, [self._found(n_nonces)], _BIG)
        if has_vectors:
            return body
        fields = json.loads(body)
        del fields["vectors"], fields["encoding"]
        return compact_json(fields)

    def verdict(self, n_nonces: int, n_sampled: int | None = None, noise: float = 0.02) -> bytes:
        """Return the body of `/validated` of a batch.

        Args:
            n_nonces: Of the batch.
            n_sampled: How many of them were recomputed; None: all, a sample that came as a batch of its own.
            noise: RMS of the recomputation's errors, in units of s.
        """
        span = self._found(n_nonces)
        proof = span.proof(self.round, _NUMERICS)
        assert proof is not None
        sampled = span.nonces[: n_sampled or n_nonces]
        claimed = proof.numbers()
        assert claimed is not None
        ours = claimed[: len(sampled)] + noise * self._rng.standard_normal((len(sampled), self.round.numbers))
        computed = dict(zip(sampled, ours.tolist(), strict=True))
        judged = judge(proof, computed, self.round, _NUMERICS, sampled=sampled)
        return compact_json(validated_payload(judged, f"{int(self._rng.integers(2**62)):032x}"))

    def _found(self, n_nonces: int) -> ComputedSpan:
        spans: list[ComputedSpan] = []
        left = n_nonces
        while left:
            count = min(left, FORWARD) if self.round.every_nonce_counts else FORWARD
            span = self._schedule.take(count)
            found = ComputedSpan.sort_out(span, self._numbers(count).tolist(), self.round)
            if len(found.nonces) > left:
                found = replace(
                    found,
                    nonces=found.nonces[:left],
                    dist=found.dist[:left],
                    vectors=found.vectors[:left],
                )
            spans.append(found)
            left -= len(found.nonces)
        return ComputedSpan.merged(spans)

    def _numbers(self, count: int) -> npt.NDArray[np.float64]:
        return self._rng.standard_normal((count, self.round.numbers))


@dataclass(frozen=True, slots=True)
class BodySizes:
    """How long bodies are: ``fixed + each·n`` bytes with n nonces.

    Attributes:
        fixed: Bytes of what a body says beside its nonces.
        each: Bytes of a nonce.
    """

    fixed: float
    each: float

    @classmethod
    def between(cls, few: tuple[int, int], many: tuple[int, int]) -> "BodySizes":
        """Of two bodies, each by its nonces and bytes."""
        each = (many[1] - few[1]) / (many[0] - few[0])
        return cls(few[1] - few[0] * each, each)

    def of(self, n_nonces: float) -> float:
        """Return bytes of a body with so many nonces."""
        return self.fixed + self.each * n_nonces

    def most(self, limit: int) -> int:
        """Return how many nonces a body of at most so many bytes has, in whole batches of the engine."""
        return int((limit - self.fixed) / self.each) // FORWARD * FORWARD


@cache
def sizes(kind: str, *, nodes: int = 10_000, has_vectors: bool = True, valid_rate: float = 1.0) -> BodySizes:
    """Measure bodies of `generated` and `validated` callbacks on ones of 32 and of 1,000 nonces.

    Args:
        kind: `generated`, `validated`, or `validated, one nonce recomputed`.
        nodes: By which nonces have more digits.
        has_vectors: As `Prover.delivery` has it.
        valid_rate: The round's.
    """
    round_ = round_of("02" + "ab" * 32, nodes // 2, nodes, valid_rate=valid_rate)
    prover = Prover(round_)

    def measured(n_nonces: int) -> tuple[int, int]:
        if kind.startswith("validated"):
            return n_nonces, len(prover.verdict(n_nonces, None if kind == "validated" else 1))
        body = prover.delivery(n_nonces, has_vectors=has_vectors)
        # A receiver takes it.
        assert len(ProofBatch.parse(json.loads(body)).nonces) == n_nonces
        return n_nonces, len(body)

    return BodySizes.between(measured(FORWARD), measured(1_000))
