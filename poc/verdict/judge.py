"""What a verifier concludes: claims against recomputed distances."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

__all__ = ["MAX_FAILED", "ValidatedBatch", "Verdict", "judge"]

MAX_FAILED: Final = 0.01
"""With a larger share of the nonces not recomputed there is no verdict.

Nor is there one of honesty where the prover itself declares a larger share as failed: it could else choose
which nonces to be judged by. The density test counts what is more as not valid.
"""


_Floats = npt.NDArray[np.float64]


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
        received_numbers: The numbers of the claim that was judged, as vectors have them; none without these.
        computed_numbers: The recomputed numbers, the round's k of each nonce.
        r_target: The round's.
        fraud_threshold: The round's.
        tolerance: Of an honest distance, 3.5 · `honest_sigma` as an absolute number; None is the older rule.
        honest_sigma: RMS of honest errors in units of s that the tests allowed for; None by the older rule.
        n_invalid: Number of invalid claims among those judged.
        n_judged: Number of nonces that entered the tests of received against computed.
        n_duplicates: Number of claims beyond the first of their nonce, in the whole batch.
        n_covered: Number of nonces among which the density test expected valid ones; None where it did not
            run.
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
    received_numbers: tuple[tuple[float, ...], ...]
    computed_numbers: tuple[tuple[float, ...], ...]
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
    computed: Mapping[int, Sequence[float]],
    round_: Round,
    numerics: Numerics | None = None,
    *,
    sampled: Collection[int] | None = None,
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

    Raises:
        EngineError: A nonce that was to be recomputed was not at all, or not to k numbers. That is never a
            pass.
        FieldError: The sample is empty, or has a nonce that the batch does not claim.
    """
    claims: defaultdict[int, list[int]] = defaultdict(list)
    for place, nonce in enumerate(proof.nonces):
        claims[nonce].append(place)
    drawn = _check_sample(sampled, claims)
    _check_computed(drawn, computed, round_)
    nonces = tuple(nonce for nonce in claims if nonce in drawn)
    failed = tuple(nonce for nonce in nonces if not all(map(math.isfinite, computed[nonce])))
    left = set(failed)
    vectors = proof.numbers()
    numbers = 1 if vectors is None else round_.numbers
    bound = _bound(round_, numbers)
    places = [place for nonce in nonces if nonce not in left for place in claims[nonce]]
    distances, errors = _errors(proof, vectors, places, computed, round_)
    is_invalid = _invalid(proof, places, distances, errors, round_, bound)
    sizes = mean_squares(errors)
    # An invalid claim is worse than a valid one, then the farthest off.
    worst: dict[int, int] = {}
    for row, place in enumerate(places):
        other = worst.setdefault(proof.nonces[place], row)
        if (is_invalid[row], sizes[row]) > (is_invalid[other], sizes[other]):
            worst[proof.nonces[place]] = row
    judged = [*worst.values()]
    errors = errors[judged]
    invalid = tuple(nonce for nonce, row in worst.items() if is_invalid[row])
    received = [places[worst[nonce]] if nonce in worst else claims[nonce][0] for nonce in nonces]
    n_covered = _n_covered(proof, round_)

    tests = {"nonces": binomial_test(len(invalid), len(judged), bound.probability)}
    tests.update(_tests_of_errors(errors, round_))
    if n_covered is not None:
        # A nonce is valid if all its claims are.
        n_valid = sum(
            all(round_.is_valid(proof.dist[place]) for place in its_own) for its_own in claims.values()
        )
        tests["density"] = density_test(n_valid, n_covered, round_.valid_rate, round_.honest_sigma or 0.0)
    threshold = round_.config.fraud_threshold
    probability = bonferroni(tests.values())
    if not judged or len(failed) > MAX_FAILED * len(nonces):
        verdict = Verdict.NO_VERDICT
    elif probability < threshold:
        verdict = Verdict.FRAUD
    else:
        verdict = Verdict.NO_VERDICT if _declares_too_many_failed(proof) else Verdict.HONEST
    return ValidatedBatch(
        proof=proof,
        nonces=nonces,
        received_dist=tuple(proof.dist[place] for place in received),
        computed_dist=tuple(float(distances[worst[n]]) if n in worst else math.nan for n in nonces),
        numbers=numbers,
        received_numbers=() if vectors is None else tuple(map(tuple, vectors[received].tolist())),
        computed_numbers=tuple(tuple(map(float, computed[nonce])) for nonce in nonces),
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
        error_mean=float(np.mean(errors[:, 0])) if judged else None,
        tests=MappingProxyType(tests),
        rejected_by=tuple(name for name, p_value in tests.items() if len(tests) * p_value < threshold),
        probability_honest=probability,
        verdict=verdict,
        numerics_differ=_differing(proof.numerics or {}, numerics or {}),
    )


def _check_computed(drawn: Collection[int], computed: Mapping[int, Sequence[float]], round_: Round) -> None:
    missing = set(drawn) - computed.keys()
    if missing:
        raise EngineError(f"no numbers were computed for {len(missing)} nonces, the first is {min(missing)}")
    for nonce in drawn:
        failed = not all(map(math.isfinite, computed[nonce]))
        if not failed and len(computed[nonce]) != round_.numbers:
            raise EngineError(
                f"{len(computed[nonce])} numbers were computed for nonce {nonce} instead of {round_.numbers}"
            )


def _bound(round_: Round, numbers: int) -> NonceBound:
    """When a claim is invalid; by the older rule its errors do not matter."""
    if round_.honest_sigma is None:
        return NonceBound(math.inf, PROBABILITY_MISMATCH)
    found = nonce_bound(numbers, round_.config.honest_kurtosis, round_.config.honest_beyond)
    return found._replace(size=found.size * round_.honest_sigma)


def _errors(
    proof: ProofBatch,
    vectors: _Floats | None,
    places: Sequence[int],
    computed: Mapping[int, Sequence[float]],
    round_: Round,
) -> tuple[_Floats, _Floats]:
    """How far claims are off.

    Args:
        proof: The batch.
        vectors: Its numbers, [claims, k]; None: it has distances alone.
        places: Which of its claims, m.
        computed: The recomputed numbers of their nonces.
        round_: The round.

    Returns:
        The recomputed distances, [m], and the errors in units of s, [m, k], the first by the distances.
    """
    shape = (len(places), round_.numbers)
    ours = np.array([computed[proof.nonces[place]] for place in places], dtype=np.float64).reshape(shape)
    distances = np.array([distance_of(number, round_.hidden_size) for number in ours[:, 0].tolist()])
    received = [proof.dist[place] for place in places]
    theirs = None if vectors is None else vectors[list(places)]
    return distances, number_errors(received, distances, round_.distance_std, theirs, ours)


def _invalid(
    proof: ProofBatch,
    places: Sequence[int],
    distances: _Floats,
    errors: _Floats,
    round_: Round,
    bound: NonceBound,
) -> list[bool]:
    """Which claims are invalid, by their recomputed distances, [m], and their errors, [m, k]."""
    counts = [round_.is_valid(proof.dist[place]) for place in places]
    if round_.honest_sigma is None:
        # The older systems let a recomputed distance of exactly r_target pass.
        too_far = distances > round_.r_target
    else:
        # A single number is compared as it is, with what clipping would be to.
        limit = math.inf if errors.shape[1] == 1 else LIMIT_IN_SIGMAS * round_.honest_sigma
        too_far = np.sqrt(mean_squares(errors, limit)) > bound.size
    return [not count or far for count, far in zip(counts, too_far.tolist(), strict=True)]


def _check_sample(sampled: Collection[int] | None, claims: Mapping[int, object]) -> set[int]:
    if sampled is None:
        return set(claims)
    drawn = set(sampled)
    strays = drawn - claims.keys()
    if strays or not drawn:
        raise FieldError("sampled", sorted(strays), "at least one nonce, each one that the batch claims")
    return drawn


def _tests_of_errors(errors: npt.NDArray[np.float64], round_: Round) -> Iterator[tuple[str, float]]:
    """The tests that look at how far claims are off, [n, k], where there is a sigma to compare with."""
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
