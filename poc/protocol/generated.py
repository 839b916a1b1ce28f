"""What a prover has computed: spans of its walk, merged into the batches that it reports."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.protocol.law import distance_of
from hallmark.poc.protocol.nonces import NonceSpan
from hallmark.poc.protocol.proof import Numerics, ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.streams import PROTOCOL
from hallmark.poc.protocol.vectors import encode, encoding_of

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
        vectors: Their numbers, as the wire has them; none of what an older Hallmark found.
        failed_nonces: Those that could not be computed.
    """

    covered: tuple[int, int]
    nonces: tuple[int, ...]
    dist: tuple[float, ...]
    vectors: tuple[str, ...]
    failed_nonces: tuple[int, ...]

    @classmethod
    def sort_out(cls, span: NonceSpan, numbers: Sequence[Sequence[float]], round_: Round) -> Self:
        """Tell the nonces that count from the others; one with a number that is not finite has failed.

        Args:
            span: The nonces.
            numbers: The k numbers of each, in order.
            round_: The round.

        Raises:
            ValueError: There are not k numbers for each nonce.
        """
        valid: list[tuple[int, float, Sequence[float]]] = []
        failed: list[int] = []
        for nonce, its_own in zip(span.nonces, numbers, strict=True):
            if len(its_own) != round_.numbers:
                raise ValueError(f"{len(its_own)} numbers for nonce {nonce} instead of {round_.numbers}")
            if not all(map(math.isfinite, its_own)):
                failed.append(nonce)
                continue
            distance = distance_of(its_own[0], round_.hidden_size)
            if round_.is_valid(distance):
                valid.append((nonce, distance, its_own))
        return cls(
            covered=span.covered,
            nonces=tuple(nonce for nonce, _, _ in valid),
            dist=tuple(distance for _, distance, _ in valid),
            vectors=encode([its_own for _, _, its_own in valid]),
            failed_nonces=tuple(failed),
        )

    @classmethod
    def merged(cls, batches: Sequence[Self]) -> Self:
        """Return several spans, each right after the last, as one."""
        return cls(
            covered=(batches[0].covered[0], batches[-1].covered[1]),
            nonces=tuple(nonce for batch in batches for nonce in batch.nonces),
            dist=tuple(distance for batch in batches for distance in batch.dist),
            vectors=tuple(vector for batch in batches for vector in batch.vectors),
            failed_nonces=tuple(nonce for batch in batches for nonce in batch.failed_nonces),
        )

    @property
    def n_checked(self) -> int:
        """How many nonces the span has."""
        return self.covered[1] - self.covered[0] + 1

    def proof(self, round_: Round, numerics: Numerics) -> ProofBatch | None:
        """Return the batch to be reported; None when no nonce of the span counts and none failed."""
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
            vectors=self.vectors,
            encoding=encoding_of(round_.numbers),
            protocol=PROTOCOL,
            round_digest=round_.digest,
            round_settings=round_.settings,
            covered=self.covered,
            failed_nonces=self.failed_nonces,
            numerics=numerics,
        )

    def fields(self) -> dict[str, Any]:
        """Return what a callback says of the span, as JSON has it; vectors where there are some."""
        found: dict[str, Any] = {
            "covered": list(self.covered),
            "nonces": list(self.nonces),
            "dist": list(self.dist),
            "vectors": list(self.vectors),
            "failed_nonces": list(self.failed_nonces),
        }
        if self.nonces and not self.vectors:
            del found["vectors"]
        return found


def merged_bodies(
    template: Mapping[str, Any], batches: Iterable[ComputedSpan], max_bytes: int
) -> list[bytes]:
    """Return the bodies of callbacks that report spans: as few as keep within a size.

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
        size = len(compact_json([batch.nonces, batch.dist, batch.vectors, batch.failed_nonces]))
        if group and used + size > room:
            yield group
            group, used = [], 0
        group.append(batch)
        used += size
    if group:
        yield group
