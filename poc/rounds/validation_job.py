"""A batch on its way to a verdict."""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hallmark.poc.core.errors import HallmarkError
from hallmark.poc.protocol.bodies import VerdictBody
from hallmark.poc.protocol.proof import Numerics, ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.rounds.payloads import verdict_fields
from hallmark.poc.verdict.judge import ValidatedBatch, judge

__all__ = ["JobStatus", "SettledJob", "ValidationJob"]

JobStatus = Literal["queued", "running", "completed", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledJob:
    """What is kept of a job that has been settled: what is answered to whoever asks for it.

    The job itself has the batch and every number of it, over 1,000 bytes a nonce.

    Attributes:
        request_id: As of the job.
        public_key: Whose batch it was.
        block_hash: The block it was about.
        settled_at: When, in seconds since the epoch.
        status: `completed` or `failed`.
        n_claims: As of the job.
        size: As of the job.
        verdict: What it came to; None where it failed.
        error: What took the verdict's place, for people.
    """

    request_id: str
    public_key: str
    block_hash: str
    settled_at: float = field(compare=False)
    status: JobStatus
    n_claims: int
    size: int
    verdict: VerdictBody | None
    error: str | None


class ValidationJob:
    """One submitted batch, from the queue to its verdict or to the error that took its place.

    Args:
        proof: As of the attribute.
        round_: As of the attribute.
        numerics: As of the attribute.
        now: Seconds since the epoch.

    Attributes:
        request_id: What the client asks for it by.
        proof: The batch.
        round: The round it is judged in.
        numerics: The fingerprint of the arithmetic that judges it.
        nonces: Its nonces without repetitions.
        size: What it takes of the queue's room: every claimed and failed nonce, repetitions included.
        settled: Set once there is a verdict or an error.
        released: Set when waiting on a connection is of no use any more: it is settled, or the phase has
            turned to GENERATING.
        error: What took the verdict's place.
        asked_by: The id of the HTTP request that brought it; None where none did.
    """

    def __init__(
        self,
        proof: ProofBatch,
        round_: Round,
        numerics: Numerics | None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.request_id = str(uuid.uuid4())
        self.proof = proof
        self.round = round_
        self.numerics = numerics
        self.nonces = tuple(dict.fromkeys(proof.nonces))
        self.size = len(proof.nonces) + len(proof.failed_nonces)
        self.settled = asyncio.Event()
        self.released = asyncio.Event()
        self._now = now
        self._taken = 0
        self._computed: dict[int, Sequence[float]] = {}
        self._verdict: tuple[ValidatedBatch, VerdictBody] | None = None
        self.error: HallmarkError | None = None
        self.asked_by: str | None = None

    @property
    def status(self) -> JobStatus:
        """Where the job stands."""
        if self.error is not None:
            return "failed"
        if self._verdict is not None and self.settled.is_set():
            return "completed"
        return "running" if self._taken else "queued"

    @property
    def n_claims(self) -> int:
        """Nonces that the batch claims, repetitions included."""
        return len(self.proof.nonces)

    @property
    def n_open(self) -> int:
        """Nonces that have still to be computed, before it is settled."""
        return len(self.nonces) - len(self._computed)

    def outcome(self) -> ValidatedBatch:
        """Return the verdict of a job that has been judged.

        Raises:
            HallmarkError: The error that took the verdict's place.
        """
        return self._known()[0]

    def answer(self) -> VerdictBody:
        """Return the same as it is answered; raises as `outcome` does."""
        return self._known()[1]

    def _known(self) -> tuple[ValidatedBatch, VerdictBody]:
        if self.error is not None:
            raise self.error
        if self._verdict is None:
            raise RuntimeError("the outcome of a job that has not been judged")
        return self._verdict

    def take(self, count: int) -> tuple[int, ...]:
        """Return up to `count` nonces that nobody has taken yet."""
        taken = self.nonces[self._taken : self._taken + count]
        self._taken += len(taken)
        return taken

    @property
    def all_taken(self) -> bool:
        """Whether no nonce is left to be taken."""
        return self._taken == len(self.nonces)

    def record(self, nonce: int, numbers: Sequence[float]) -> None:
        """Note a nonce's recomputed numbers."""
        self._computed[nonce] = numbers

    @property
    def is_computed(self) -> bool:
        """Whether every nonce has been recomputed: it can be judged, and nothing else may become of it."""
        return len(self._computed) == len(self.nonces)

    def judge(self) -> None:
        """Judge the batch, all of which has been recomputed, on any thread.

        Raises:
            EngineError: The numbers are not those of the round.
        """
        verdict = judge(self.proof, self._computed, self.round, self.numerics)
        self._verdict = verdict, verdict_fields(verdict)

    @property
    def has_verdict(self) -> bool:
        """Whether it has been judged, be it settled or not."""
        return self._verdict is not None

    def fail(self, error: HallmarkError) -> None:
        """Let an error take the verdict's place."""
        self.error = error
        self.settle()

    def settle(self) -> None:
        """Let everybody know the outcome."""
        self._computed = {}
        self.settled.set()
        self.released.set()

    def to_keep(self) -> SettledJob:
        """Return what is kept of it once it is settled."""
        failed = self.error is not None
        return SettledJob(
            request_id=self.request_id,
            public_key=self.proof.public_key,
            block_hash=self.proof.block_hash,
            settled_at=self._now(),
            status=self.status,
            n_claims=self.n_claims,
            size=self.size,
            verdict=None if failed else self.answer(),
            error=str(self.error) if failed else None,
        )
