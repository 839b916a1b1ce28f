"""What a prover has computed: stretches of its walk, merged into the batches that it reports."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from hallmark.poc.nonces import Stretch
from hallmark.poc.proof import Numerics, ProofBatch
from hallmark.poc.round import Round

__all__ = ["GeneratedBuffer", "WalkedBatch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkedBatch:
    """A computed stretch of a node's walk.

    Attributes:
        covered: First and last index of the stretch.
        nonces: Those of its nonces that count.
        dist: Their distances.
        failed_nonces: Those that could not be computed.
    """

    covered: tuple[int, int]
    nonces: tuple[int, ...]
    dist: tuple[float, ...]
    failed_nonces: tuple[int, ...]

    @classmethod
    def sort_out(cls, stretch: Stretch, distances: Sequence[float], round_: Round) -> Self:
        """Tell the nonces that count from the others; a distance that is not finite is a failed nonce.

        Raises:
            ValueError: There is not one distance for each nonce.
        """
        computed = list(zip(stretch.nonces, distances, strict=True))
        finite = [(nonce, distance) for nonce, distance in computed if math.isfinite(distance)]
        valid = [(nonce, distance) for nonce, distance in finite if round_.is_valid(distance)]
        return cls(
            covered=stretch.covered,
            nonces=tuple(nonce for nonce, _ in valid),
            dist=tuple(distance for _, distance in valid),
            failed_nonces=tuple(nonce for nonce, distance in computed if not math.isfinite(distance)),
        )

    @property
    def n_checked(self) -> int:
        """How many nonces the stretch has."""
        return self.covered[1] - self.covered[0] + 1

    def proof(self, round_: Round, numerics: Numerics) -> ProofBatch | None:
        """The batch to be reported; None when no nonce of the stretch counts and none failed."""
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
            round=round_.digest,
            covered=self.covered,
            failed_nonces=self.failed_nonces,
            numerics=numerics,
        )


class GeneratedBuffer:
    """Merges what is found within `interval` seconds into one report.

    A report waits until there is a nonce to report, found or failed; what is covered without one goes into
    the next.

    Args:
        report: Takes a merged stretch.
        interval: Least time between two reports, in seconds.
    """

    def __init__(self, report: Callable[[WalkedBatch], None], interval: float) -> None:
        self._report = report
        self._interval = interval
        self._timer: asyncio.TimerHandle | None = None
        self._covered: tuple[int, int] | None = None
        self._nonces: list[int] = []
        self._dist: list[float] = []
        self._failed_nonces: list[int] = []

    def add(self, batch: WalkedBatch) -> None:
        """Take a computed stretch, the one right after the last."""
        first = batch.covered[0] if self._covered is None else self._covered[0]
        self._covered = (first, batch.covered[1])
        self._nonces += batch.nonces
        self._dist += batch.dist
        self._failed_nonces += batch.failed_nonces
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._report_if_found)

    def flush(self) -> None:
        """Report now what has not been reported yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._covered is None:
            return
        merged = WalkedBatch(
            covered=self._covered,
            nonces=tuple(self._nonces),
            dist=tuple(self._dist),
            failed_nonces=tuple(self._failed_nonces),
        )
        self._covered, self._nonces, self._dist, self._failed_nonces = None, [], [], []
        self._report(merged)

    def _report_if_found(self) -> None:
        self._timer = None
        if self._nonces or self._failed_nonces:
            self.flush()
