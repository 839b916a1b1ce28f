"""What one prover sent over rounds, judged together: which of its nonces count, and what they have shown.

A nonce counts once, by its first claim in the first batch that has it: a second computation of the same
nonce is no further evidence. Nonces of a batch count in ascending order, or where a test decided how many of
them were recomputed in the order in which they were drawn, and batches in that of their arrival: nothing of
this depends on how far off they are.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from hallmark.poc.core.checks import check_float
from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.config import TOLERANCE_IN_SIGMAS
from hallmark.poc.protocol.law import distance_std, valid_rate
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.verdict_body import claimed_batch, recomputed_batch
from hallmark.poc.verdict.hypothesis_tests import number_errors
from hallmark.poc.verdict.judge import ValidatedBatch
from hallmark.poc.verdict.sequential_test import Evidence, mean_square_ratios

__all__ = ["ProverRecord", "Reason", "ScoredBatch"]


_MIN_WIDTH: Final = 2
_MAX_WIDTH: Final = 2**31
"""Of a model; more than any's."""


class Reason(StrEnum):
    """Why a nonce does not count."""

    NO_SIGMA = "no_sigma"
    """Its round is judged by the older rule, which says nothing of errors."""
    SELECTED = "selected"
    """Its round is below rate 1, and it is judged by the one number that selected it."""
    NOT_RECOMPUTED = "not_recomputed"
    """It failed, or was not in the sample."""
    REPEATED = "repeated"
    """An earlier batch of the same block and key had it."""


class _Recomputed(NamedTuple):
    """What was recomputed, each nonce with its distance and its numbers, [n, k], where they are known."""

    nonces: Iterable[int]
    dist: npt.ArrayLike
    numbers: npt.NDArray[np.float64] | None


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """How far the nonces of a judged batch are off.

    Attributes:
        public_key: The prover's.
        block_hash: Of the block they were computed for.
        ratios: Mean square error over what it may be, of each nonce that can count, in ascending order; where
            a test decided how many were drawn, in the order in which they were.
        uncounted: How many others it claims, and why they cannot.
    """

    public_key: str
    block_hash: str
    ratios: Mapping[int, float]
    uncounted: Mapping[Reason, int]

    @classmethod
    def of_verdict(cls, judged: ValidatedBatch, hidden_size: int) -> Self:
        """Score a batch that was judged here, by a model of this width."""
        known = np.isfinite(judged.computed_numbers[:, 0])
        nonces = np.asarray(judged.nonces, dtype=np.int64)[known].tolist()
        dist = np.asarray(judged.computed_dist, dtype=np.float64)[known]
        recomputed = _Recomputed(nonces, dist, judged.computed_numbers[known])
        return cls._scored(judged.proof, recomputed, judged.honest_sigma, hidden_size, judged.r_target)

    @classmethod
    def of_body(cls, body: Mapping[str, Any]) -> Self:
        """Score a batch that a server has judged, by the body of its `/validated` callback.

        The body does not name the width; ``tolerance = 3.5·honest_sigma/√(2·D)`` does. Its recomputed vectors
        are rounded to halves, which adds 3·10⁻⁴ s to the noise at most.

        Raises:
            FieldError: A field is of another type or out of its range.
        """
        claimed = ProofBatch.parse(claimed_batch(body))
        found = ProofBatch.parse({**recomputed_batch(body), "numerics": None})
        recomputed = _Recomputed(found.nonces, found.dist, found.numbers())
        tolerance, sigma = _stated(body, "tolerance"), _stated(body, "honest_sigma")
        if tolerance is None or sigma is None:
            return cls._scored(claimed, recomputed, None, _MIN_WIDTH, 2.0)
        std = tolerance / (TOLERANCE_IN_SIGMAS * sigma)
        if not distance_std(_MAX_WIDTH) <= std < distance_std(_MIN_WIDTH) * 1.01:
            raise FieldError("tolerance", tolerance, "3.5 · honest_sigma / √(2 · the width)")
        return cls._scored(claimed, recomputed, sigma, round(0.5 / std**2), body["r_target"])

    @classmethod
    def _scored(
        cls,
        claimed: ProofBatch,
        recomputed: _Recomputed,
        sigma: float | None,
        hidden_size: int,
        r_target: float,
    ) -> Self:
        """Score claims: by all numbers where both sides have them, else by distances, number 0."""
        first_claim = {nonce: place for place, nonce in reversed([*enumerate(claimed.nonces)])}
        theirs, ours = claimed.numbers(), recomputed.numbers
        numbers = 1 if theirs is None or ours is None else theirs.shape[1]
        rate = valid_rate(r_target, hidden_size)
        if sigma is None:
            return cls(claimed.public_key, claimed.block_hash, {}, {Reason.NO_SIGMA: len(first_claim)})
        if rate < 1.0 and (numbers < 2 or not rate):
            return cls(claimed.public_key, claimed.block_hash, {}, {Reason.SELECTED: len(first_claim)})
        place_of = {nonce: place for place, nonce in enumerate(recomputed.nonces)}
        nonces = sorted(first_claim.keys() & place_of.keys())
        claims = [first_claim[nonce] for nonce in nonces]
        places = [place_of[nonce] for nonce in nonces]
        errors = number_errors(
            np.asarray(claimed.dist, dtype=np.float64)[claims],
            np.asarray(recomputed.dist, dtype=np.float64)[places],
            distance_std(hidden_size),
            None if theirs is None else theirs[claims],
            None if ours is None else ours[places],
        )
        ratios = mean_square_ratios(errors, sigma, rate)
        missing = len(first_claim) - len(nonces)
        return cls(
            claimed.public_key,
            claimed.block_hash,
            dict(zip(nonces, ratios.tolist(), strict=True)),
            {Reason.NOT_RECOMPUTED: missing} if missing else {},
        )


def _stated(body: Mapping[str, Any], name: str) -> float | None:
    if body.get(name) is None:
        return None
    allowed = "a finite number above 0, or null by the older rule"
    return check_float(name, body[name], least=math.ulp(0.0), most=math.inf, allowed=allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProverRecord:
    """What one prover sent over rounds.

    Attributes:
        public_key: The prover's.
        rounds: Blocks of which nonces counted.
        batches: Batches that were judged, counted or not.
        evidence: What the nonces that counted have shown.
        uncounted: How many others it claimed, by the reason why they do not count.
    """

    public_key: str
    rounds: int = 0
    batches: int = 0
    evidence: Evidence = field(default_factory=Evidence)
    uncounted: Mapping[Reason, int] = field(default_factory=dict)

    def after(self, batch: ScoredBatch, new: Collection[int], *, opens_round: bool, batches: int = 1) -> Self:
        """Return the record after a further batch of the prover.

        Args:
            batch: The batch.
            new: Its nonces that no earlier batch of the block has had.
            opens_round: Whether no nonce of the block has counted before.
            batches: How many it is, where it is several that were judged as one.
        """
        ratios = [ratio for nonce, ratio in batch.ratios.items() if nonce in new]
        uncounted = Counter(self.uncounted) + Counter(batch.uncounted)
        uncounted += Counter({Reason.REPEATED: len(batch.ratios) - len(ratios)})
        return replace(
            self,
            rounds=self.rounds + (opens_round and bool(ratios)),
            batches=self.batches + batches,
            evidence=self.evidence.after(ratios),
            uncounted=dict(uncounted),
        )

    def is_fraud(self, threshold: float) -> bool:
        """Return whether it is convicted.

        An honest prover ever is with a probability of the threshold at most.
        """
        return self.evidence.p_value < threshold

    def as_dict(self, threshold: float) -> dict[str, Any]:
        """Return the record as JSON has it, with its verdict at a threshold.

        Wealth by its logarithm to base 10.
        """
        return {
            "public_key": self.public_key,
            "rounds": self.rounds,
            "batches": self.batches,
            "nonces": self.evidence.nonces,
            "uncounted": {reason.value: count for reason, count in self.uncounted.items()},
            "log10_wealth": _log10(self.evidence.log_wealth),
            "log10_largest_wealth": _log10(self.evidence.log_largest_wealth),
            "p_value": self.evidence.p_value,
            "fraud_threshold": threshold,
            "fraud_detected": self.is_fraud(threshold),
        }


def _log10(natural: float) -> float:
    return natural / math.log(10.0)
