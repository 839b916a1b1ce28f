"""The verdict of a prover of which nonce after nonce is recomputed until there is enough to say.

The tests of `judge` hold for a number of nonces that does not depend on what they show. Here it does: the
verdict is that of the two tests that may be looked at at any time, `sequential_test` to convict and
`clearing` to clear, and of the density test, which asks nothing of recomputed numbers.

Nonces count in the order in which they are drawn. Where a nonce is claimed several times, the first claim
counts against its prover, as over time, and the worst for it: else a second, wrong claim were cleared unseen.
Where it is claimed with vectors and without, the mean of the first of either counts against it: each is a
nonce's mean square error, and one that is right must not hide the other.
A claim that does not count in the round is as far off as can be, since an honest prover knows what it claims.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from hallmark.poc.protocol.law import distance_of
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.clearing import Clearing
from hallmark.poc.verdict.hypothesis_tests import bonferroni, number_errors
from hallmark.poc.verdict.judge import MAX_FAILED, ValidatedBatch, Verdict
from hallmark.poc.verdict.sequential_test import Evidence, mean_square_ratios

__all__ = ["Claims", "Decision", "Outcome", "decided"]

_TEST: Final = "sequential"

_Floats = npt.NDArray[np.float64]


class _Step(NamedTuple):
    """Nonces that were recomputed, and those before them; so that a step costs what is new in it."""

    before: "_Step | None"
    nonces: tuple[int, ...]
    ratios: Mapping[int, float]


class Outcome(StrEnum):
    """What the two sequential tests say of a prover so far."""

    CONVICTED = "convicted"
    CLEARED = "cleared"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a prover's nonces of a round have shown so far.

    Attributes:
        n_claimed: Distinct nonces that it claims.
        clearing: What they have shown for it.
        power: The probability with which the stated cheat is not cleared.
        level: It is convicted by a p-value below this: the threshold, divided by the number of tests.
        evidence: What they have shown against it.
        n_drawn: How many nonces were recomputed.
        n_failed: How many of these recomputations failed.
    """

    n_claimed: int
    clearing: Clearing
    power: float
    level: float
    evidence: Evidence = field(default_factory=Evidence)
    n_drawn: int = 0
    n_failed: int = 0
    # Neither shown nor compared: Python goes no more than a thousand steps deep.
    _last: _Step | None = field(default=None, repr=False, compare=False)

    def after(self, nonces: Sequence[int], scores: Mapping[int, tuple[float, float]]) -> Self:
        """Return the decision after further nonces.

        Args:
            nonces: The nonces, in the order in which they were drawn.
            scores: Of those that did not fail, the ratios that count against and for the prover.
        """
        known = [nonce for nonce in nonces if nonce in scores]
        return replace(
            self,
            evidence=self.evidence.after([scores[nonce][0] for nonce in known]),
            clearing=self.clearing.after([scores[nonce][1] for nonce in known]),
            n_drawn=self.n_drawn + len(nonces),
            n_failed=self.n_failed + len(nonces) - len(known),
            _last=_Step(self._last, tuple(nonces), {nonce: scores[nonce][0] for nonce in known}),
        )

    @property
    def nonces(self) -> tuple[int, ...]:
        """Those that were recomputed, in the order in which they were drawn."""
        return tuple(nonce for step in self._steps() for nonce in step.nonces)

    @property
    def ratios(self) -> dict[int, float]:
        """What counts against it: mean square error over what that may be, of each that did not fail."""
        return {nonce: ratio for step in self._steps() for nonce, ratio in step.ratios.items()}

    def _steps(self) -> Iterator[_Step]:
        found, last = [], self._last
        while last is not None:
            found.append(last)
            last = last.before
        return reversed(found)

    @property
    def outcome(self) -> Outcome:
        """What the tests say; a conviction weighs more than a clearance."""
        if self.evidence.p_value < self.level:
            return Outcome.CONVICTED
        return Outcome.CLEARED if self.clearing.is_cleared(self.power) else Outcome.UNDECIDED

    @property
    def is_over(self) -> bool:
        """Whether no further nonce is needed, or there is none.

        A few that failed among few would leave what the tests say without a verdict, and are few among more.
        """
        is_enough = self.outcome is not Outcome.UNDECIDED and self.n_failed <= MAX_FAILED * self.n_drawn
        return is_enough or self.n_drawn >= self.n_claimed

    def as_dict(self) -> dict[str, Any]:
        """Return the decision as JSON has it."""
        return {
            "outcome": self.outcome.value,
            "recomputed": self.n_drawn,
            "claimed": self.n_claimed,
            "p_value": self.evidence.p_value,
            "convicted_below": self.level,
            "p_value_of_cheat": self.clearing.p_value,
            "cleared_from": 1.0 - self.power,
        }


class Claims:
    """A prover's claims of a round, by nonce; they are compared with recomputed numbers.

    Args:
        proofs: Its batches, in the order in which they count.
        round_: The round, with a sigma; below rate 1 all batches have vectors of 2 numbers or more.
        largest: What the ratio of a nonce is at most.
    """

    def __init__(self, proofs: Sequence[ProofBatch], round_: Round, largest: float) -> None:
        self._proofs = proofs
        self._round = round_
        self._largest = largest
        self._numbers = [proof.numbers() for proof in proofs]
        self._places: dict[int, list[tuple[int, int]]] = {}
        for which, proof in enumerate(proofs):
            for place, nonce in enumerate(proof.nonces):
                self._places.setdefault(nonce, []).append((which, place))

    @property
    def nonces(self) -> Sequence[int]:
        """All that are claimed, each once, in the order of the batches."""
        return [*self._places]

    def scores(
        self, nonces: Sequence[int], computed: Mapping[int, Sequence[float]]
    ) -> dict[int, tuple[float, float]]:
        """Return the ratios that count against and for a prover, of each nonce whose recomputation worked.

        Args:
            nonces: Which nonces.
            computed: Their recomputed numbers; not finite where one failed.
        """
        known = [nonce for nonce in nonces if np.isfinite(computed[nonce]).all()]
        found: dict[int, list[float]] = {nonce: [0.0] * len(self._places[nonce]) for nonce in known}
        of_batch: defaultdict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for nonce in known:
            for number, (which, place) in enumerate(self._places[nonce]):
                of_batch[which].append((nonce, number, place))
        for which, claims in of_batch.items():
            ours = np.array([computed[nonce] for nonce, _, _ in claims], dtype=np.float64)
            ratios = self._ratios(which, [place for _, _, place in claims], ours)
            for (nonce, number, _), ratio in zip(claims, ratios.tolist(), strict=True):
                found[nonce][number] = ratio
        return {nonce: (self._first(nonce, ratios), max(ratios)) for nonce, ratios in found.items()}

    def _first(self, nonce: int, ratios: Sequence[float]) -> float:
        """Return the mean of a nonce's first ratio with vectors and its first without, where it has both."""
        first: dict[bool, float] = {}
        for (which, _), ratio in zip(self._places[nonce], ratios, strict=True):
            first.setdefault(self._numbers[which] is None, ratio)
        return sum(first.values()) / len(first)

    def _ratios(self, which: int, places: Sequence[int], ours: _Floats) -> _Floats:
        """Return ratios of some claims of a batch, against recomputed numbers, [n, k]."""
        round_, theirs = self._round, self._numbers[which]
        dist = np.asarray(self._proofs[which].dist, dtype=np.float64)[places]
        errors = number_errors(
            dist,
            [distance_of(number, round_.hidden_size) for number in ours[:, 0].tolist()],
            round_.distance_std,
            None if theirs is None else theirs[places],
            ours,
        )
        rate = 1.0 if round_.every_nonce_counts else round_.valid_rate
        sigma = round_.honest_sigma
        if sigma is None:
            raise ValueError("a round of the older rule has no ratios")
        counts = [round_.is_valid(distance) for distance in dist.tolist()]
        return np.where(counts, mean_square_ratios(errors, sigma, rate), self._largest)


def decided(judged: ValidatedBatch, decision: Decision) -> ValidatedBatch:
    """Return a judged batch with the verdict of the sequential tests and of density.

    Args:
        judged: The prover's batches together, judged by the nonces that were recomputed; of its tests only
            density is kept.
        decision: What those nonces have shown.
    """
    tests = {_TEST: decision.evidence.p_value}
    if "density" in judged.tests:
        tests["density"] = judged.tests["density"]
    threshold, probability = judged.fraud_threshold, bonferroni(tests.values())
    verdict = Verdict.NO_VERDICT
    if judged.n_judged and len(judged.failed_nonces) <= MAX_FAILED * len(judged.nonces):
        if probability < threshold:
            verdict = Verdict.FRAUD
        elif decision.outcome is Outcome.CLEARED and not judged.declares_too_many_failed:
            verdict = Verdict.HONEST
    return replace(
        judged,
        tests=MappingProxyType(tests),
        rejected_by=tuple(name for name, p_value in tests.items() if len(tests) * p_value < threshold),
        probability_honest=probability,
        verdict=verdict,
    )
