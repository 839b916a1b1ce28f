"""What a prover has computed: spans of its walk, merged into the batches that it reports."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.protocol.nonces import NonceSpan
from hallmark.poc.protocol.proof import Numerics, ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.streams import PROTOCOL

__all__ = ["ComputedSpan", "merged_bodies"]

# The indices of a covered span, and the names of all fields that are merged in.
_FRAME_BYTES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputedSpan:
    """A computed span of a node's walk.

    Attributes:
        covered: First and last index of the span.
        nonces: Those of its nonces that count.
        dist: Their distances.
        failed_nonces: Those that could not be computed.
    """

    covered: tuple[int, int]
    nonces: tuple[int, ...]
    dist: tuple[float, ...]
    failed_nonces: tuple[int, ...]

    @classmethod
    def sort_out(cls, span: NonceSpan, distances: Sequence[float], round_: Round) -> Self:
        """Tell the nonces that count from the others; a distance that is not finite is a failed nonce.

        Raises:
            ValueError: There is not one distance for each nonce.
        """
        computed = list(zip(span.nonces, distances, strict=True))
        finite = [(nonce, distance) for nonce, distance in computed if math.isfinite(distance)]
        valid = [(nonce, distance) for nonce, distance in finite if round_.is_valid(distance)]
        return cls(
            covered=span.covered,
            nonces=tuple(nonce for nonce, _ in valid),
            dist=tuple(distance for _, distance in valid),
            failed_nonces=tuple(nonce for nonce, distance in computed if not math.isfinite(distance)),
        )

    @classmethod
    def merged(cls, batches: Sequence[Self]) -> Self:
        """Several spans, each right after the last, as one."""
        return cls(
            covered=(batches[0].covered[0], batches[-1].covered[1]),
            nonces=tuple(nonce for batch in batches for nonce in batch.nonces),
            dist=tuple(distance for batch in batches for distance in batch.dist),
            failed_nonces=tuple(nonce for batch in batches for nonce in batch.failed_nonces),
        )

    @property
    def n_checked(self) -> int:
        """How many nonces the span has."""
        return self.covered[1] - self.covered[0] + 1

    def proof(self, round_: Round, numerics: Numerics) -> ProofBatch | None:
        """The batch to be reported; None when no nonce of the span counts and none failed."""
        if not self.nonces and not self.failed_nonces:
            return None
        config = round_.config
        return ProofBatch(
            public_key=config.public_key,
            block_hash=config.block_hash,
            block_height=config.block_height,
            node_id=config.node_id or 0,
            nonces=self.nonces,
            dist=self.dist,
            protocol=PROTOCOL,
            round_digest=round_.digest,
            round_settings=round_.settings,
            covered=self.covered,
            failed_nonces=self.failed_nonces,
            numerics=numerics,
        )

    def fields(self) -> dict[str, Any]:
        """What a callback says of the span, as JSON has it."""
        return {
            "covered": list(self.covered),
            "nonces": list(self.nonces),
            "dist": list(self.dist),
            "failed_nonces": list(self.failed_nonces),
        }


def merged_bodies(
    template: Mapping[str, Any], batches: Iterable[ComputedSpan], max_bytes: int
) -> list[bytes]:
    """The bodies of callbacks that report spans: as few as keep within a size.

    Args:
        template: What every body says beside them.
        batches: The spans, each right after the last.
        max_bytes: Longest body; a span alone that is longer is not divided.
    """
    room = max_bytes - len(compact_json(template)) - _FRAME_BYTES
    return [
        compact_json({**template, **ComputedSpan.merged(group).fields()})
        for group in _groups([*batches], room)
    ]


def _groups(batches: Sequence[ComputedSpan], room: int) -> Iterator[list[ComputedSpan]]:
    group: list[ComputedSpan] = []
    used = 0
    for batch in batches:
        size = len(compact_json([batch.nonces, batch.dist, batch.failed_nonces]))
        if group and used + size > room:
            yield group
            group, used = [], 0
        group.append(batch)
        used += size
    if group:
        yield group
