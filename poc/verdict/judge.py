"""What a verifier concludes: claims against recomputed distances."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from hallmark.poc.core.errors import EngineError, FieldError
from hallmark.poc.protocol.law import distance_of
from hallmark.poc.protocol.proof import Numerics, ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.hypothesis_tests import (
    LIMIT_IN_SIGMAS,
    PROBABILITY_MISMATCH,
    NonceBound,
    beyond_test,
    binomial_test,
    bonferroni,
    counted_kurtosis,
    density_test,
    mean_squares,
    nonce_bound,
    number_errors,
    rms_test,
    signed_mean_test,
)

__all__ = ["MAX_FAILED", "ValidatedBatch", "Verdict", "asks_density", "judge"]

MAX_FAILED: Final = 0.01
"""With a larger share of the nonces not recomputed there is no verdict.

Nor is there one of honesty where the prover itself declares a larger share as failed: it could else choose
which nonces to be judged by. The density test counts what is more as not valid.
"""


_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]


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
        numbers: How many numbers of a nonce it was judged by: the round's, or 1 where it has no vectors.
        computed_numbers: The recomputed numbers, the round's k of each nonce, [n, k]; NaN where it failed.
        r_target: The round's.
        fraud_threshold: The round's.
        tolerance: Of an honest distance, 3.5 · `honest_sigma` as an absolute number; None is the older rule.
        honest_sigma: RMS of honest errors in units of s that the tests allowed for; None by the older rule.
        n_invalid: Number of invalid claims among those judged.
        n_judged: Number of nonces that entered the tests of received against computed.
        n_duplicates: Number of claims beyond the first of their nonce, in the whole batch.
        n_covered: Number of nonces among which the density test expected valid ones; None where it did not
            run.
        declares_too_many_failed: Whether more than a share of `MAX_FAILED` of what the prover walked failed,
            as it says itself.
        invalid_nonces: Whose claims are invalid.
        failed_nonces: Whose recomputation failed; they left the tests.
        error_rms: RMS of the errors of all numbers of the nonces judged, in units of s; None where none was.
        error_mean: The mean error of their distances, received − computed, in units of s.
        tests: The p-value of each test that was asked, by its name: `nonces`, `rms`, `beyond`, `signed_mean`,
            `density`.
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
    numbers: int
    computed_numbers: npt.NDArray[np.float64] = field(compare=False)
    r_target: float
    fraud_threshold: float
    tolerance: float | None
    honest_sigma: float | None
    n_invalid: int
    n_judged: int
    n_duplicates: int
    n_covered: int | None
    declares_too_many_failed: bool
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
    computed: Mapping[int, Sequence[float]],
    round_: Round,
    numerics: Numerics | None = None,
    *,
    sampled: Collection[int] | None = None,
    n_walked: int | None = None,
) -> ValidatedBatch:
    """Judge a batch against recomputed numbers.

    With an honest sigma a claim is invalid when it does not count in the round or the RMS of its errors is
    beyond the bound of `nonce_bound`; by the older rule, when either distance does not count, and nothing
    else is asked of errors. A batch without vectors is judged by its distances, each nonce's first number.

    Args:
        proof: The batch; whether it belongs to the round is `ProofBatch.check_against`'s question.
        computed: The recomputed numbers of each nonce of the batch, or of the sample, the round's k each; one
            that is not finite: the nonce failed.
        round_: The round.
        numerics: The fingerprint of the arithmetic that recomputed them.
        sampled: The nonces that were recomputed, drawn after the batch was delivered; None: all. The others
            leave every test but the one of density, in which a claim that does not count is not valid.
        n_walked: How many nonces a batch that was put together of several covers, where that is known; None:
            as many as its `covered` says.

    Raises:
        EngineError: A nonce that was to be recomputed was not at all, or not to k numbers. That is never a
            pass.
        FieldError: The sample is empty, or has a nonce that the batch does not claim.
    """
    claimed = dict.fromkeys(proof.nonces)
    drawn = _check_sample(sampled, claimed)
    nonces = tuple(nonce for nonce in claimed if nonce in drawn)
    ours = _recomputed(nonces, computed, round_.numbers)
    is_known = np.isfinite(ours[:, 0])
    failed = tuple(nonce for nonce, known in zip(nonces, is_known.tolist(), strict=True) if not known)
    vectors = proof.numbers()
    numbers = 1 if vectors is None else round_.numbers
    bound = _bound(round_, numbers)
    row_of = {nonce: row for row, nonce in enumerate(nonces)}
    # The row of each claim's nonce, -1 where it was not drawn.
    rows = np.fromiter((row_of.get(nonce, -1) for nonce in proof.nonces), np.int64, len(proof.nonces))
    places = np.flatnonzero((rows >= 0) & is_known[rows] if nonces else rows >= 0)
    distances = np.array([distance_of(number, round_.hidden_size) for number in ours[:, 0].tolist()])
    errors = number_errors(
        np.asarray(proof.dist, dtype=np.float64)[places],
        distances[rows[places]],
        round_.distance_std,
        None if vectors is None else vectors[places],
        ours[rows[places]],
    )
    counts = np.array([round_.is_valid(distance) for distance in proof.dist], dtype=np.bool_)
    is_invalid = ~counts[places] | _is_too_far(distances[rows[places]], errors, round_, bound)
    # An invalid claim is worse than a valid one, then the farthest off, then the first.
    worst = _last_of_each(rows[places], np.lexsort((-places, mean_squares(errors), is_invalid, rows[places])))
    errors = errors[worst]
    invalid = tuple(nonces[row] for row in rows[places[worst[is_invalid[worst]]]].tolist())
    received = _first_of_each(rows, len(nonces))
    received[rows[places[worst]]] = places[worst]
    length = _length(proof, n_walked)
    n_covered = _n_covered(length, proof, round_)

    tests = {"nonces": binomial_test(len(invalid), len(worst), bound.probability)}
    tests.update(_tests_of_errors(errors, round_))
    if n_covered is not None:
        # A nonce is valid if all its claims are.
        not_valid = {proof.nonces[place] for place in np.flatnonzero(~counts).tolist()}
        n_valid = len(claimed) - len(not_valid)
        tests["density"] = density_test(n_valid, n_covered, round_.valid_rate, round_.honest_sigma or 0.0)
    threshold = round_.config.fraud_threshold
    probability = bonferroni(tests.values())
    declares_too_many_failed = _declares_too_many_failed(length, proof)
    if not len(worst) or len(failed) > MAX_FAILED * len(nonces):
        verdict = Verdict.NO_VERDICT
    elif probability < threshold:
        verdict = Verdict.FRAUD
    else:
        verdict = Verdict.NO_VERDICT if declares_too_many_failed else Verdict.HONEST
    return ValidatedBatch(
        proof=proof,
        nonces=nonces,
        received_dist=tuple(proof.dist[place] for place in received.tolist()),
        computed_dist=tuple(distances.tolist()),
        numbers=numbers,
        computed_numbers=ours,
        r_target=round_.r_target,
        fraud_threshold=threshold,
        tolerance=round_.tolerance,
        honest_sigma=round_.honest_sigma,
        n_invalid=len(invalid),
        n_judged=len(worst),
        n_duplicates=len(proof.nonces) - len(claimed),
        n_covered=n_covered,
        declares_too_many_failed=declares_too_many_failed,
        invalid_nonces=invalid,
        failed_nonces=failed,
        error_rms=float(np.sqrt(np.mean(np.square(errors)))) if len(worst) else None,
        error_mean=float(np.mean(errors[:, 0])) if len(worst) else None,
        tests=MappingProxyType(tests),
        rejected_by=tuple(name for name, p_value in tests.items() if len(tests) * p_value < threshold),
        probability_honest=probability,
        verdict=verdict,
        numerics_differ=_differing(proof.numerics or {}, numerics or {}),
    )


def _recomputed(nonces: Sequence[int], computed: Mapping[int, Sequence[float]], numbers: int) -> _Floats:
    """Return the recomputed numbers of nonces, [n, k]: NaN in all of them where one is not finite.

    Raises:
        EngineError: A nonce has none, or not k of them.
    """
    missing = set(nonces) - computed.keys()
    if missing:
        raise EngineError(f"no numbers were computed for {len(missing)} nonces, the first is {min(missing)}")
    found = np.full((len(nonces), numbers), math.nan)
    # One by one: NumPy's reading of a list of lists keeps all other threads from running until it is over.
    for row, nonce in enumerate(nonces):
        of_nonce = computed[nonce]
        if len(of_nonce) == numbers:
            found[row] = of_nonce
        elif all(map(math.isfinite, of_nonce)):
            raise EngineError(f"{len(of_nonce)} numbers were computed for nonce {nonce} instead of {numbers}")
    found[~np.isfinite(found).all(axis=1)] = math.nan
    return found


def _bound(round_: Round, numbers: int) -> NonceBound:
    """When a claim is invalid; by the older rule its errors do not matter."""
    if round_.honest_sigma is None:
        return NonceBound(math.inf, PROBABILITY_MISMATCH)
    found = nonce_bound(numbers, round_.config.honest_kurtosis, round_.config.honest_beyond)
    return found._replace(size=found.size * round_.honest_sigma)


def _is_too_far(
    distances: _Floats, errors: _Floats, round_: Round, bound: NonceBound
) -> npt.NDArray[np.bool_]:
    """Return which claims are too far off, by their recomputed distances, [m], and their errors, [m, k]."""
    if round_.honest_sigma is None:
        # The older systems let a recomputed distance of exactly r_target pass.
        return np.asarray(distances > round_.r_target)
    # A single number is compared as it is, with what clipping would be to.
    limit = math.inf if errors.shape[1] == 1 else LIMIT_IN_SIGMAS * round_.honest_sigma
    return np.asarray(np.sqrt(mean_squares(errors, limit)) > bound.size)


def _last_of_each(rows: _Integers, order: _Integers) -> _Integers:
    """Of an order that goes through the rows one after the other, the last entry of each."""
    return order[np.append(np.diff(rows[order]) != 0, True)] if len(order) else order


def _first_of_each(rows: _Integers, count: int) -> _Integers:
    """Return the first place of each row, [count]; a place of row -1 is no row's."""
    first = np.zeros(count, dtype=np.int64)
    places = np.flatnonzero(rows >= 0)[::-1]
    first[rows[places]] = places
    return first


def _check_sample(sampled: Collection[int] | None, claims: Mapping[int, object]) -> Collection[int]:
    if sampled is None:
        return claims.keys()
    drawn = set(sampled)
    strays = drawn - claims.keys()
    if strays or not drawn:
        raise FieldError("sampled", sorted(strays), "at least one nonce, each one that the batch claims")
    return drawn


def _tests_of_errors(errors: npt.NDArray[np.float64], round_: Round) -> Iterator[tuple[str, float]]:
    """Yield the tests that look at how far claims are off, [n, k], where there is a sigma to compare with."""
    sigma, config = round_.honest_sigma, round_.config
    if sigma is None or not errors.size:
        return
    rate, kurtosis, limit = (
        round_.valid_rate,
        counted_kurtosis(config.honest_kurtosis),
        LIMIT_IN_SIGMAS * sigma,
    )
    yield "rms", rms_test(errors, sigma, kurtosis, rate=rate, limit=limit)
    if errors.shape[1] > 1:
        # Below rate 1 nonces are selected by number 0.
        unselected = errors if round_.every_nonce_counts else errors[:, 1:]
        yield "beyond", beyond_test(unselected, limit, config.honest_beyond, config.honest_design_effect)
    yield "signed_mean", signed_mean_test(errors[:, 0], sigma, kurtosis, rate=rate, limit=limit)


def asks_density(proof: ProofBatch, round_: Round, n_walked: int | None = None) -> bool:
    """Return whether the density test is one of a batch's, which needs no recomputation.

    Args:
        proof: The batch.
        round_: The round.
        n_walked: As for `judge`.
    """
    return _n_covered(_length(proof, n_walked), proof, round_) is not None


def _length(proof: ProofBatch, n_walked: int | None) -> int | None:
    """Return how many nonces a batch says that it covers, or is known to."""
    if n_walked is not None:
        return n_walked
    return None if proof.covered is None else proof.covered[1] - proof.covered[0] + 1


def _n_covered(length: int | None, proof: ProofBatch, round_: Round) -> int | None:
    """Among how many nonces valid ones are to be expected; None where the density test does not run.

    Nonces that the prover declares as failed are not among them up to a share of `MAX_FAILED`: beyond it a
    prover could skip what looks unpromising and call it failed.
    """
    # An r_target below 2 is rate 1 too, in floating point: at width 4,096 from 1.6 on.
    if length is None or round_.valid_rate >= 1.0 or round_.tolerance is None:
        return None
    return length - min(len(set(proof.failed_nonces)), math.floor(MAX_FAILED * length))


def _declares_too_many_failed(length: int | None, proof: ProofBatch) -> bool:
    """Return whether more than a share of `MAX_FAILED` of what the prover walked failed, as it says."""
    failed = len(set(proof.failed_nonces))
    walked = max(len(set(proof.nonces)) + failed, length or 0)
    return failed > MAX_FAILED * walked


def _differing(theirs: Numerics, ours: Numerics) -> tuple[str, ...]:
    """Return what both tell of and tell differently."""
    return tuple(sorted(name for name in theirs.keys() & ours.keys() if theirs[name] != ours[name]))
