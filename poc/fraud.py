"""What a verifier concludes: claims against recomputed distances."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from scipy.special import betainc

from hallmark.poc.errors import EngineError
from hallmark.poc.proof import Numerics, ProofBatch
from hallmark.poc.round import Round

__all__ = [
    "MOST_FAILED",
    "PROBABILITY_MISMATCH",
    "ValidatedBatch",
    "Verdict",
    "judge",
    "probability_at_least",
]

PROBABILITY_MISMATCH = 5e-4
"""p0: the probability that an honest claim is invalid."""

MOST_FAILED = 0.01
"""With a larger share of the nonces not recomputed there is no verdict."""


class Verdict(StrEnum):
    """What the verifier says of a batch."""

    HONEST = "honest"
    FRAUD = "fraud"
    NO_VERDICT = "no_verdict"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatedBatch:
    """A judged batch; the per-nonce tuples run in step, each nonce once, in the order of the batch.

    Attributes:
        proof: The batch as it was received.
        nonces: Its nonces without repetitions.
        received_dist: The claim that was judged, the worst where a nonce was claimed more than once.
        computed_dist: The recomputed distance; NaN where the recomputation failed.
        r_target: The round's.
        fraud_threshold: The round's.
        tolerance: Absolute; None is the older rule.
        n_invalid: Number of invalid claims among those judged.
        n_judged: Number of nonces that entered the test.
        n_duplicates: Number of claims beyond the first of their nonce.
        invalid_nonces: Whose claims are invalid.
        failed_nonces: Whose recomputation failed; they left the test.
        probability_honest: p-value of `n_invalid` among `n_judged`; 1 where none was judged.
        verdict: The conclusion.
        numerics_differ: What the prover's numerics and the verifier's differ in, e.g. `forward` where one
            computed with the compiled model and the other without. It explains distances and excuses none.
    """

    proof: ProofBatch
    nonces: tuple[int, ...]
    received_dist: tuple[float, ...]
    computed_dist: tuple[float, ...]
    r_target: float
    fraud_threshold: float
    tolerance: float | None
    n_invalid: int
    n_judged: int
    n_duplicates: int
    invalid_nonces: tuple[int, ...]
    failed_nonces: tuple[int, ...]
    probability_honest: float
    verdict: Verdict
    numerics_differ: tuple[str, ...]

    @property
    def fraud_detected(self) -> bool:
        """Whether the verdict is fraud; the absence of a verdict is not."""
        return self.verdict is Verdict.FRAUD


def probability_at_least(k: int, n: int, p: float) -> float:
    """P[Binomial(n, p) ≥ k], exact, by the regularised incomplete beta function."""
    return 1.0 if k == 0 else float(betainc(k, n - k + 1, p))


def judge(
    proof: ProofBatch, computed: Mapping[int, float], round_: Round, numerics: Numerics | None = None
) -> ValidatedBatch:
    """Judge a batch against recomputed distances.

    With the round's tolerance a claim is invalid when it does not count in the round or is farther than the
    tolerance from the recomputed distance; by the older rule, when either distance does not count.

    Args:
        proof: The batch; whether it belongs to the round is `ProofBatch.check_against`'s question.
        computed: The recomputed distance of each nonce of the batch; not finite where that failed.
        round_: The round.
        numerics: The fingerprint of the arithmetic that recomputed them.

    Raises:
        EngineError: A nonce of the batch was not recomputed at all. That is never a pass.
    """
    claims: defaultdict[int, list[float]] = defaultdict(list)
    for nonce, distance in zip(proof.nonces, proof.dist, strict=True):
        claims[nonce].append(distance)
    missing = claims.keys() - computed.keys()
    if missing:
        raise EngineError(f"no distance was computed for {len(missing)} nonces, the first is {min(missing)}")

    received = {nonce: _worst(distances, computed[nonce], round_) for nonce, distances in claims.items()}
    failed = tuple(nonce for nonce in received if not math.isfinite(computed[nonce]))
    invalid = tuple(
        nonce
        for nonce, claim in received.items()
        if math.isfinite(computed[nonce]) and _is_invalid(claim, computed[nonce], round_)
    )
    n_judged = len(received) - len(failed)
    probability = probability_at_least(len(invalid), n_judged, PROBABILITY_MISMATCH)
    if n_judged == 0 or len(failed) > MOST_FAILED * len(received):
        verdict = Verdict.NO_VERDICT
    else:
        verdict = Verdict.FRAUD if probability < round_.config.fraud_threshold else Verdict.HONEST
    return ValidatedBatch(
        proof=proof,
        nonces=tuple(received),
        received_dist=tuple(received.values()),
        computed_dist=tuple(computed[n] if math.isfinite(computed[n]) else math.nan for n in received),
        r_target=round_.r_target,
        fraud_threshold=round_.config.fraud_threshold,
        tolerance=round_.tolerance,
        n_invalid=len(invalid),
        n_judged=n_judged,
        n_duplicates=len(proof.nonces) - len(received),
        invalid_nonces=invalid,
        failed_nonces=failed,
        probability_honest=probability,
        verdict=verdict,
        numerics_differ=_differing(proof.numerics or {}, numerics or {}),
    )


def _differing(theirs: Numerics, ours: Numerics) -> tuple[str, ...]:
    """What both tell of and tell differently."""
    return tuple(sorted(name for name in theirs.keys() & ours.keys() if theirs[name] != ours[name]))


def _is_invalid(claim: float, computed: float, round_: Round) -> bool:
    if not round_.is_valid(claim):
        return True
    if round_.tolerance is not None:
        return abs(claim - computed) > round_.tolerance
    # The older systems let a recomputed distance of exactly r_target pass.
    return computed > round_.r_target


def _worst(claims: list[float], computed: float, round_: Round) -> float:
    """Of several claims for one nonce, an invalid one before a valid one, then the farthest off."""
    if not math.isfinite(computed):
        return claims[0]
    return max(claims, key=lambda claim: (_is_invalid(claim, computed, round_), abs(claim - computed)))
