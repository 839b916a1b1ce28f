"""What a verifier concludes: claims against recomputed distances."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from hallmark.poc.core.errors import EngineError, FieldError
from hallmark.poc.protocol.proof import Numerics, ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.hypothesis_tests import (
    binomial_test,
    bonferroni,
    cosine_errors,
    density_test,
    rms_test,
    signed_mean_test,
)

__all__ = ["MAX_FAILED", "ValidatedBatch", "Verdict", "judge"]

MAX_FAILED: Final = 0.01
"""With a larger share of the nonces not recomputed there is no verdict.

Nor is there one of honesty where the prover itself declares a larger share as failed: it could else choose
which nonces to be judged by. The density test counts what is more as not valid.
"""


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
        nonces: Its nonces without repetitions; of a sampled batch those of the sample only, and so in
            everything that is said of nonces below.
        received_dist: The claim that was judged, the worst where a nonce was claimed more than once.
        computed_dist: The recomputed distance; NaN where the recomputation failed.
        r_target: The round's.
        fraud_threshold: The round's.
        tolerance: Absolute; None is the older rule.
        honest_sigma: RMS of honest errors in units of s that the tests allowed for; None where there is none.
        n_invalid: Number of invalid claims among those judged.
        n_judged: Number of nonces that entered the tests of received against computed.
        n_duplicates: Number of claims beyond the first of their nonce, in the whole batch.
        n_covered: Number of nonces among which the density test expected valid ones; None where it did not
            run.
        invalid_nonces: Whose claims are invalid.
        failed_nonces: Whose recomputation failed; they left the tests.
        error_rms: RMS of received − computed over the nonces judged, in units of s; None where none was.
        error_mean: Their mean.
        tests: The p-value of each test that ran, by its name: `binomial`, `rms`, `signed_mean`, `density`.
        rejected_by: The tests that alone would bring the verdict: their p-value times the number of tests is
            below the threshold.
        probability_honest: The tests' p-values combined, min(1, m · the smallest of m).
        verdict: The conclusion; where enough was recomputed, it is fraud exactly if `probability_honest` is
            below the threshold.
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
    honest_sigma: float | None
    n_invalid: int
    n_judged: int
    n_duplicates: int
    n_covered: int | None
    invalid_nonces: tuple[int, ...]
    failed_nonces: tuple[int, ...]
    error_rms: float | None
    error_mean: float | None
    tests: Mapping[str, float]
    rejected_by: tuple[str, ...]
    probability_honest: float
    verdict: Verdict
    numerics_differ: tuple[str, ...]

    @property
    def fraud_detected(self) -> bool:
        """Whether the verdict is fraud; the absence of a verdict is not."""
        return self.verdict is Verdict.FRAUD


def judge(
    proof: ProofBatch,
    computed: Mapping[int, float],
    round_: Round,
    numerics: Numerics | None = None,
    *,
    sampled: Collection[int] | None = None,
) -> ValidatedBatch:
    """Judge a batch against recomputed distances.

    With the round's tolerance a claim is invalid when it does not count in the round or is farther than the
    tolerance from the recomputed distance; by the older rule, when either distance does not count, and only
    the binomial test runs.

    Args:
        proof: The batch; whether it belongs to the round is `ProofBatch.check_against`'s question.
        computed: The recomputed distance of each nonce of the batch, or of the sample; not finite where that
            failed.
        round_: The round.
        numerics: The fingerprint of the arithmetic that recomputed them.
        sampled: The nonces that were recomputed, drawn after the batch was delivered; None: all. The others
            leave every test but the one of density, in which a claim that does not count is not valid.

    Raises:
        EngineError: A nonce that was to be recomputed was not at all. That is never a pass.
        FieldError: The sample is empty, or has a nonce that the batch does not claim.
    """
    claims: defaultdict[int, list[float]] = defaultdict(list)
    for nonce, distance in zip(proof.nonces, proof.dist, strict=True):
        claims[nonce].append(distance)
    drawn = _check_sample(sampled, claims)
    missing = drawn - computed.keys()
    if missing:
        raise EngineError(f"no distance was computed for {len(missing)} nonces, the first is {min(missing)}")

    received = {
        nonce: _worst(distances, computed[nonce], round_)
        for nonce, distances in claims.items()
        if nonce in drawn
    }
    judged = [nonce for nonce in received if math.isfinite(computed[nonce])]
    failed = tuple(nonce for nonce in received if not math.isfinite(computed[nonce]))
    invalid = tuple(nonce for nonce in judged if _is_invalid(received[nonce], computed[nonce], round_))
    ours = np.array([computed[nonce] for nonce in judged], dtype=np.float64)
    theirs = np.array([received[nonce] for nonce in judged], dtype=np.float64)
    errors = (theirs - ours) / round_.distance_std
    n_covered = _n_covered(proof, round_)

    tests = {"binomial": binomial_test(len(invalid), len(judged))}
    tests.update(_tests_of_errors(cosine_errors(theirs, ours, round_.distance_std), round_))
    if n_covered is not None:
        # A nonce is valid if all its claims are.
        n_valid = sum(all(map(round_.is_valid, distances)) for distances in claims.values())
        sigma = round_.honest_sigma or 0.0
        tests["density"] = density_test(n_valid, n_covered, round_.valid_rate, sigma)
    threshold = round_.config.fraud_threshold
    probability = bonferroni(tests.values())
    if not judged or len(failed) > MAX_FAILED * len(received):
        verdict = Verdict.NO_VERDICT
    elif probability < threshold:
        verdict = Verdict.FRAUD
    else:
        verdict = Verdict.NO_VERDICT if _declares_too_many_failed(proof) else Verdict.HONEST
    return ValidatedBatch(
        proof=proof,
        nonces=tuple(received),
        received_dist=tuple(received.values()),
        computed_dist=tuple(computed[n] if math.isfinite(computed[n]) else math.nan for n in received),
        r_target=round_.r_target,
        fraud_threshold=threshold,
        tolerance=round_.tolerance,
        honest_sigma=round_.honest_sigma,
        n_invalid=len(invalid),
        n_judged=len(judged),
        n_duplicates=len(proof.nonces) - len(claims),
        n_covered=n_covered,
        invalid_nonces=invalid,
        failed_nonces=failed,
        error_rms=float(np.sqrt(np.mean(np.square(errors)))) if judged else None,
        error_mean=float(np.mean(errors)) if judged else None,
        tests=MappingProxyType(tests),
        rejected_by=tuple(name for name, p_value in tests.items() if len(tests) * p_value < threshold),
        probability_honest=probability,
        verdict=verdict,
        numerics_differ=_differing(proof.numerics or {}, numerics or {}),
    )


def _check_sample(sampled: Collection[int] | None, claims: Mapping[int, object]) -> set[int]:
    if sampled is None:
        return set(claims)
    drawn = set(sampled)
    strays = drawn - claims.keys()
    if strays or not drawn:
        raise FieldError("sampled", sorted(strays), "at least one nonce, each one that the batch claims")
    return drawn


def _tests_of_errors(errors: npt.NDArray[np.float64], round_: Round) -> Iterator[tuple[str, float]]:
    """The tests that look at how far claims are off, where there is an honest sigma to compare with."""
    sigma, limit = round_.honest_sigma, round_.config.distance_tolerance
    if sigma is None or limit is None or not errors.size:
        return
    rate, kurtosis = round_.valid_rate, round_.config.honest_kurtosis
    yield "rms", rms_test(errors, sigma, kurtosis, rate=rate, limit=limit)
    yield "signed_mean", signed_mean_test(errors, sigma, kurtosis, rate=rate, limit=limit)


def _n_covered(proof: ProofBatch, round_: Round) -> int | None:
    """Among how many nonces valid ones are to be expected; None where the density test does not run.

    Nonces that the prover declares as failed are not among them up to a share of `MAX_FAILED`: beyond it a
    prover could skip what looks unpromising and call it failed.
    """
    if proof.covered is None or round_.every_nonce_counts or round_.tolerance is None:
        return None
    length = proof.covered[1] - proof.covered[0] + 1
    return length - min(len(set(proof.failed_nonces)), math.floor(MAX_FAILED * length))


def _declares_too_many_failed(proof: ProofBatch) -> bool:
    """Whether more than a share of `MAX_FAILED` of what the prover walked failed, as it says."""
    failed = len(set(proof.failed_nonces))
    walked = len(set(proof.nonces)) + failed
    if proof.covered is not None:
        walked = max(walked, proof.covered[1] - proof.covered[0] + 1)
    return failed > MAX_FAILED * walked


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
