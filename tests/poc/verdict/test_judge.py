"""The judge: what is fraud, what is not, and what is no verdict."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from builders import MODEL, last_row_round, make_batch, with_numbers
from hypothesis import given
from hypothesis import strategies as st
from judged import judge_distances as judge
from scipy.stats import binom, binomtest, chi2, norm

from hallmark.poc.core.errors import EngineError, FieldError
from hallmark.poc.protocol.law import distance_of, distance_std, r_target_for
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.vectors import encode, encoding_of
from hallmark.poc.verdict.hypothesis_tests import (
    beyond_test,
    binomial_test,
    cosine_errors,
    density_bounds,
    density_test,
    mean_squares,
    nonce_bound,
    rms_test,
    signed_mean_test,
)
from hallmark.poc.verdict.judge import ValidatedBatch, Verdict
from hallmark.poc.verdict.judge import judge as judge_numbers

ROUND = last_row_round(honest_kurtosis=3.0)
TAU = ROUND.tolerance or math.nan
HONEST = {nonce: 1.35 + 0.002 * nonce for nonce in range(50)}


def off(distance: float, error: float, s: float = ROUND.distance_std) -> float:
    """A claim that is off by an error in units of s."""
    return math.sqrt(distance**2 + 2 * math.sqrt(2) * s * error)


def judged(changed: dict[int, float], round_: Round = ROUND) -> ValidatedBatch:
    """Fifty honest claims of which some were changed."""
    claims = {**HONEST, **changed}
    return judge(make_batch(claims, claims.values()), HONEST, round_)


def test_honest_claims_are_honest() -> None:
    result = judged({})
    assert result.verdict is Verdict.HONEST
    assert not result.fraud_detected
    assert (result.n_invalid, result.n_judged, result.probability_honest) == (0, 50, 1.0)
    assert list(result.tests) == ["nonces", "rms", "signed_mean"]
    assert (result.rejected_by, result.error_rms, result.error_mean) == ((), 0.0, 0.0)
    assert result.received_dist == result.computed_dist == tuple(HONEST.values())
    assert (result.r_target, result.fraud_threshold, result.tolerance) == (2.0, 0.01, TAU)


@pytest.mark.parametrize(
    ("factor", "n_invalid", "spoke"),
    [
        (0.90, 50, ("nonces", "rms", "signed_mean")),
        (0.99, 0, ("rms", "signed_mean")),
        (0.998, 0, ("signed_mean",)),
        (0.999, 0, ()),
        (1.0, 0, ()),
        (1.001, 0, ()),
        (1.003, 0, ()),
        (1.01, 0, ("rms",)),
        (1.02, 50, ("nonces", "rms")),
        (1.10, 50, ("nonces", "rms")),
    ],
)
def test_tamper_ladder_of_factors(factor: float, n_invalid: int, spoke: tuple[str, ...]) -> None:
    """At width 256 tau is 0.0155: one per cent of 1.4 is within it, two are not."""
    result = judged({nonce: d * factor for nonce, d in HONEST.items()})
    assert (result.n_invalid, result.rejected_by) == (n_invalid, spoke)
    assert result.verdict is (Verdict.FRAUD if spoke else Verdict.HONEST)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("units_of_tau", "n_invalid"), [(0.5, 0), (0.99, 0), (1.01, 10), (2, 10), (20, 10)])
def test_tamper_ladder_of_offsets(sign: int, units_of_tau: float, n_invalid: int) -> None:
    changed = {nonce: off(HONEST[nonce], sign * units_of_tau * 0.35) for nonce in range(10)}
    result = judged(changed)
    assert result.n_invalid == n_invalid
    assert result.invalid_nonces == tuple(range(n_invalid))
    assert ("nonces" in result.rejected_by) is (n_invalid > 0)
    # Ten errors of nearly tau among fifty nonces are too many for a sigma of tau / 3.5.
    assert ("rms" in result.rejected_by) is (units_of_tau > 0.5)
    assert result.fraud_detected is (units_of_tau > 0.5)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_boundary_of_the_tolerance(sign: int) -> None:
    within, beyond = (
        judge(make_batch([1], [off(1.4, sign * 0.35 * factor)]), {1: 1.4}, ROUND)
        for factor in (1 - 1e-9, 1 + 1e-9)
    )
    assert (within.n_invalid, beyond.n_invalid) == (0, 1)


def test_one_invalid_claim_of_few_is_fraud_and_of_many_is_not() -> None:
    """A single number is beyond the limit in one honest case of fifty, but not as the only one there is."""
    assert judge(make_batch([1], [1.0]), {1: 1.4}, ROUND).rejected_by == ("rms", "signed_mean")
    n = 21
    smallest = next(k for k in range(n) if 3 * binom.sf(k - 1, n, 0.02) < 0.01)
    for count, spoke in ((smallest - 1, ()), (smallest, ("nonces",))):
        claims = [off(1.4, 0.3501)] * count + [1.4] * (n - count)
        result = judge(make_batch(range(n), claims), dict.fromkeys(range(n), 1.4), ROUND)
        assert [name for name in result.rejected_by if name == "nonces"] == [*spoke]


def test_a_claim_that_does_not_count_is_invalid_even_if_true() -> None:
    round_ = last_row_round(r_target=1.4)
    result = judge(make_batch([1, 2, 3], [1.39, 1.4, 1.41]), {1: 1.39, 2: 1.4, 3: 1.41}, round_)
    assert result.invalid_nonces == (2, 3)


def test_a_true_claim_may_lie_across_the_target_within_the_tolerance() -> None:
    """What the older rule convicts honest nodes for."""
    computed = {1: 1.4 + 0.5 * TAU}
    proof = make_batch([1], [1.4 - 0.1 * TAU])
    assert judge(proof, computed, last_row_round(r_target=1.4)).verdict is Verdict.HONEST
    older = judge(proof, computed, last_row_round(r_target=1.4, distance_tolerance=None))
    assert older.verdict is Verdict.FRAUD
    assert older.tolerance is None


@pytest.mark.parametrize(
    ("received", "computed", "invalid"),
    [
        (1.39, 1.39, False),
        (0.5, 1.39, False),  # the older rule never compares the two
        (1.39, 1.4, False),
        (1.39, math.nextafter(1.4, 2), True),
        (1.4, 1.39, True),
        (math.nextafter(1.4, 0), 1.39, False),
        (1.5, 1.5, True),
    ],
)
def test_the_older_rule_compares_with_the_target_only(
    received: float, computed: float, invalid: bool
) -> None:
    round_ = last_row_round(r_target=1.4, distance_tolerance=None)
    result = judge(make_batch([1], [received]), {1: computed}, round_)
    assert result.invalid_nonces == ((1,) if invalid else ())


def test_at_rate_one_every_distance_counts() -> None:
    for tolerance in (0.35, None):
        round_ = last_row_round(distance_tolerance=tolerance)
        assert judge(make_batch([1], [2.0]), {1: 2.0}, round_).verdict is Verdict.HONEST


def test_a_duplicate_counts_once_by_its_worst_claim() -> None:
    proof = make_batch([5, 6, 5, 5], [HONEST[5], HONEST[6], HONEST[5] + 2 * TAU, HONEST[5] - 0.5 * TAU])
    result = judge(proof, HONEST, ROUND)
    assert result.nonces == (5, 6)
    assert (result.n_judged, result.n_duplicates, result.n_invalid) == (2, 2, 1)
    assert result.received_dist == (HONEST[5] + 2 * TAU, HONEST[6])
    assert result.invalid_nonces == (5,)


def test_an_invalid_claim_is_worse_than_a_farther_valid_one() -> None:
    round_ = last_row_round(r_target=1.4)
    result = judge(make_batch([1, 1], [1.4, 1.4 - 0.9 * TAU]), {1: 1.4 - 0.1 * TAU}, round_)
    assert result.received_dist == (1.4,)
    assert result.n_invalid == 1


def test_repeating_honest_nonces_does_not_dilute_the_test() -> None:
    nonces = [0] * 1000 + [1, 2]
    proof = make_batch(nonces, [HONEST[0]] * 1000 + [HONEST[1] + 2 * TAU, HONEST[2] + 2 * TAU])
    result = judge(proof, HONEST, ROUND)
    assert result.n_judged == 3
    assert result.tests["nonces"] == pytest.approx(binomtest(2, 3, 0.02, "greater").pvalue)
    assert result.fraud_detected


@pytest.mark.parametrize(
    ("claimed", "failed", "verdict"),
    [
        (100, 1, Verdict.HONEST),
        (100, 2, Verdict.NO_VERDICT),
        (1000, 10, Verdict.HONEST),
        (1000, 11, Verdict.NO_VERDICT),
        (3, 1, Verdict.NO_VERDICT),
    ],
)
def test_who_declares_more_than_one_per_cent_failed_is_not_called_honest(
    claimed: int, failed: int, verdict: Verdict
) -> None:
    """It could otherwise choose its nonces: run all of them cheaply, and call failed what came out wrong."""
    nonces = list(range(claimed))
    computed = dict.fromkeys(nonces, 1.4)
    declared = tuple(range(claimed, claimed + failed))
    assert (
        judge(make_batch(nonces, [1.4] * claimed, failed_nonces=declared), computed, ROUND).verdict is verdict
    )
    # Said twice, it is one; and in a round below rate 1 the share is of all that was walked.
    twice = make_batch(nonces, [1.4] * claimed, failed_nonces=declared * 2)
    assert judge(twice, computed, ROUND).verdict is verdict
    covered = make_batch(nonces, [1.4] * claimed, failed_nonces=declared, covered=(0, 100 * failed - 1))
    assert judge(covered, computed, ROUND).verdict is Verdict.HONEST


def test_failures_save_no_forger() -> None:
    nonces = list(range(100))
    forged = make_batch(nonces, [1.4] * 100, failed_nonces=tuple(range(100, 200)))
    assert judge(forged, dict.fromkeys(nonces, 1.3), ROUND).verdict is Verdict.FRAUD


@pytest.mark.parametrize("failure", [math.nan, math.inf, -math.inf])
def test_failed_nonces_leave_the_test(failure: float) -> None:
    computed = {**dict.fromkeys(range(200), 1.4), 17: failure}
    claims = [1.4] * 200
    claims[17] = 0.5  # would be invalid, but nobody can say
    result = judge(make_batch(range(200), claims), computed, ROUND)
    assert result.failed_nonces == (17,)
    assert (result.n_judged, result.n_invalid) == (199, 0)
    assert math.isnan(result.computed_dist[17])
    assert result.verdict is Verdict.HONEST


@pytest.mark.parametrize(
    ("count", "failed", "verdict"),
    [
        (100, 1, Verdict.FRAUD),
        (100, 2, Verdict.NO_VERDICT),
        (99, 1, Verdict.NO_VERDICT),
        (200, 2, Verdict.FRAUD),
        (200, 3, Verdict.NO_VERDICT),
        (1, 1, Verdict.NO_VERDICT),
    ],
)
def test_above_one_per_cent_of_failures_there_is_no_verdict(
    count: int, failed: int, verdict: Verdict
) -> None:
    """All claims are forged here: it is not honesty that is found."""
    computed = {nonce: math.nan if nonce < failed else 1.4 for nonce in range(count)}
    result = judge(make_batch(range(count), [1.0] * count), computed, ROUND)
    assert result.verdict is verdict
    assert result.fraud_detected is (verdict is Verdict.FRAUD)
    assert len(result.failed_nonces) == failed


def test_failures_are_counted_over_unique_nonces() -> None:
    """Repeating good nonces must not turn 'no verdict' into a verdict."""
    proof = make_batch([0] * 500 + [1], [1.4] * 501)
    assert judge(proof, {0: 1.4, 1: math.nan}, ROUND).verdict is Verdict.NO_VERDICT


def test_nothing_to_judge_is_no_verdict() -> None:
    """Zero samples once meant honest."""
    proof = make_batch([], [], failed_nonces=(3, 4))
    result = judge(proof, {}, ROUND)
    assert result.verdict is Verdict.NO_VERDICT
    assert (result.n_judged, result.probability_honest) == (0, 1.0)


def test_a_nonce_that_was_not_computed_is_never_a_pass() -> None:
    """`zip` once stopped at the shorter list, and missing proofs meant no mismatch."""
    with pytest.raises(EngineError, match="2 nonces, the first is 60"):
        judge(make_batch([1, 61, 60], [1.35, 1.4, 1.4]), HONEST, ROUND)


@pytest.mark.parametrize("threshold", [0.01, 1e-7])
@pytest.mark.parametrize("n", [5, 6, 20, 21, 100, 200, 1000])
def test_the_smallest_fraudulent_count_by_the_older_rule(n: int, threshold: float) -> None:
    round_ = last_row_round(fraud_threshold=threshold, r_target=1.6, distance_tolerance=None)
    smallest = next(k for k in range(n) if binomtest(k, n, 5e-4, "greater").pvalue < threshold)
    for k, verdict in ((smallest - 1, Verdict.HONEST), (smallest, Verdict.FRAUD)):
        claims = [1.8] * k + [1.4] * (n - k)
        result = judge(make_batch(range(n), claims), dict.fromkeys(range(n), 1.4), round_)
        assert result.verdict is verdict
        assert result.fraud_threshold == threshold


WIDTH = 2048
WIDE = replace(MODEL, hidden_size=WIDTH)
S = distance_std(WIDTH)
COUNT = 400


def noise(sigma: float, count: int = COUNT, seed: int = 1) -> npt.NDArray[np.float64]:
    """Gaussian errors in units of s whose mean and mean square are exactly those of their distribution."""
    drawn = np.random.default_rng(seed).standard_normal(count)
    drawn -= drawn.mean()
    return np.asarray(sigma * drawn / np.sqrt(np.mean(drawn**2)))


def batch_of(
    errors: npt.NDArray[np.float64], round_: Round, **changes: Any
) -> tuple[ProofBatch, dict[int, float]]:
    """A batch whose claims are off by the given errors, and the distances to be recomputed for it.

    Distances lie evenly over the law; below rate 1 over half of its valid part, so that the errors leave the
    claims valid.
    """
    share = 1.0 if round_.every_nonce_counts else round_.valid_rate / 2
    rates = share * (np.arange(errors.size) + 0.5) / errors.size
    computed = [r_target_for(float(rate), WIDTH) for rate in rates]
    received = [off(d, float(error), S) for d, error in zip(computed, errors, strict=True)]
    return make_batch(range(errors.size), received, **changes), dict(enumerate(computed))


LADDER = {
    "none": (0.0, 0.0, 0.0, ()),
    "honest noise": (0.02, 0.0, 0.0, ()),
    "noise as large as the round allows": (0.07, 0.0, 0.0, ()),
    "a seventieth of tau lower": (0.02, -0.005, 0.0, ()),
    "a tenth of tau lower": (0.02, -0.035, 0.0, ("signed_mean",)),
    "a tenth of tau higher": (0.02, 0.035, 0.0, ()),
    "noise of another kernel": (0.08, 0.0, 0.0, ("rms",)),
    "just below tau": (0.01, -0.2, 0.0, ("rms", "signed_mean")),
    "INT4": (0.24, 0.0, 0.0, ("nonces", "rms")),
    "one in a hundred forged": (0.02, 0.0, 0.01, ()),
    "one in ten forged": (0.02, 0.0, 0.1, ("nonces", "rms")),
    "forged": (0.0, 0.0, 1.0, ("nonces", "rms")),
}


@pytest.mark.parametrize("rung", LADDER)
def test_a_ladder_of_tampering_and_which_test_speaks(rung: str) -> None:
    sigma, shift, forged, spoke = LADDER[rung]
    round_ = last_row_round(WIDE, honest_sigma=0.07, honest_kurtosis=3.0)
    errors = noise(sigma) + shift
    errors[: round(forged * COUNT)] = np.resize([1.0, -1.0], round(forged * COUNT))
    proof, computed = batch_of(errors, round_)
    result = judge(proof, computed, round_)
    assert result.rejected_by == spoke
    assert result.verdict is (Verdict.FRAUD if spoke else Verdict.HONEST)
    assert result.error_rms == pytest.approx(float(np.sqrt(np.mean(errors**2))))
    assert result.error_mean == pytest.approx(float(np.mean(errors)))


def test_the_p_values_are_those_of_the_tests() -> None:
    round_ = last_row_round(WIDE, valid_rate=0.1, honest_sigma=0.08, honest_kurtosis=4.5)
    proof, computed = batch_of(noise(0.09) - 0.004, round_, covered=(0, 3999))
    result = judge(proof, computed, round_)
    ours, theirs = np.array(result.computed_dist), np.array(result.received_dist)
    errors = cosine_errors(theirs, ours, S)
    assert dict(result.tests) == {
        "nonces": binomial_test(result.n_invalid, COUNT, 0.02),
        "rms": rms_test(errors, 0.08, 4.5, rate=0.1, limit=3.5 * 0.08),
        "signed_mean": signed_mean_test(errors, 0.08, 4.5, rate=0.1, limit=3.5 * 0.08),
        "density": density_test(COUNT, 4000, 0.1, 0.08),
    }
    assert result.n_covered == 4000
    assert result.probability_honest == min(1.0, 4 * min(result.tests.values()))
    assert result.honest_sigma == 0.08


def test_one_gross_error_among_many_honest_claims_convicts_nobody() -> None:
    """A bit that flips, on either side: the binomial test allows for it, and no other looks beyond tau."""
    round_ = last_row_round(WIDE)
    errors = noise(0.1, 3000)
    errors[7] = -30.0
    proof, computed = batch_of(errors, round_)
    result = judge(proof, computed, round_)
    assert result.verdict is Verdict.HONEST
    assert min(result.tests.values()) > 0.05
    assert result.error_rms == pytest.approx(math.sqrt(np.mean(errors**2)))


@pytest.mark.parametrize("threshold", [0.01, 1e-7])
@pytest.mark.parametrize("test", ["rms", "signed_mean"])
def test_each_threshold_from_both_sides(test: str, threshold: float) -> None:
    round_ = last_row_round(WIDE, honest_sigma=0.07, honest_kurtosis=3.0, fraud_threshold=threshold)
    for factor, spoke in ((0.99, ()), (1.01, (test,))):
        if test == "rms":
            errors = noise(factor * 0.07 * math.sqrt(chi2.isf(threshold / 3, COUNT) / COUNT))
        else:
            errors = noise(0.01) + factor * 0.07 * norm.ppf(threshold / 3) / math.sqrt(COUNT)
        proof, computed = batch_of(errors, round_)
        assert judge(proof, computed, round_).rejected_by == spoke


class TestDensity:
    ROUND = last_row_round(WIDE, valid_rate=0.1)
    LENGTH = 4000

    def test_it_is_not_asked_where_the_rate_is_one_in_floating_point(self) -> None:
        round_ = last_row_round(WIDE, r_target=1.99)
        assert (round_.valid_rate, round_.every_nonce_counts) == (1.0, False)
        result = judge(*batch_of(np.zeros(50), round_, covered=(0, 49)), round_)
        assert list(result.tests) == ["nonces", "rms", "signed_mean"]
        assert (result.verdict, result.n_covered) == (Verdict.HONEST, None)

    def judged(self, n_valid: int, round_: Round = ROUND, **changes: Any) -> ValidatedBatch:
        proof, computed = batch_of(np.zeros(n_valid), round_, **changes)
        return judge(proof, computed, round_)

    @pytest.mark.parametrize("threshold", [0.01, 1e-7])
    def test_the_threshold_from_both_sides(self, threshold: float) -> None:
        round_ = last_row_round(WIDE, valid_rate=0.1, fraud_threshold=threshold)
        low, high = density_bounds(0.1, 0.1)
        fewest = int(binom.ppf(threshold / 8, self.LENGTH, low))
        most = int(binom.isf(threshold / 8, self.LENGTH, high))
        for n_valid, spoke in (
            (fewest - 1, ("density",)),
            (fewest, ()),
            (most, ()),
            (most + 1, ("density",)),
        ):
            result = self.judged(n_valid, round_, covered=(100, 100 + self.LENGTH - 1))
            assert result.rejected_by == spoke
            assert result.fraud_detected is bool(spoke)

    def test_grinding_and_a_batch_that_skips_half_of_its_valid_nonces_are_found(self) -> None:
        assert self.judged(400, covered=(0, 3999)).verdict is Verdict.HONEST
        assert self.judged(200, covered=(0, 3999)).rejected_by == ("density",)

    def test_old_clients_say_nothing_of_coverage(self) -> None:
        result = self.judged(200)
        assert (result.verdict, result.n_covered) == (Verdict.HONEST, None)
        assert "density" not in result.tests

    def test_at_rate_one_it_does_not_run(self) -> None:
        result = self.judged(200, last_row_round(WIDE), covered=(0, 199))
        assert result.n_covered is None
        assert list(result.tests) == ["nonces", "rms", "signed_mean"]

    @pytest.mark.parametrize(
        ("n_failed", "n_covered"), [(0, 4000), (39, 3961), (40, 3960), (41, 3960), (3000, 3960)]
    )
    def test_failed_nonces_excuse_up_to_one_per_cent(self, n_failed: int, n_covered: int) -> None:
        failed = tuple(range(10_000, 10_000 + n_failed))
        result = self.judged(300, covered=(0, 3999), failed_nonces=failed)
        assert result.n_covered == n_covered
        assert result.tests["density"] == density_test(300, n_covered, 0.1, 0.1)

    def test_a_nonce_called_failed_twice_is_one(self) -> None:
        assert self.judged(300, covered=(0, 3999), failed_nonces=(5000,) * 30).n_covered == 3999

    def test_what_is_skipped_and_called_failed_is_found(self) -> None:
        """A prover that runs the more promising half, and says of the other half that it failed."""
        failed = tuple(range(10_000, 12_000))
        assert self.judged(300, covered=(0, 3999), failed_nonces=failed).rejected_by == ("density",)

    def test_a_nonce_is_valid_once_and_only_if_all_its_claims_are(self) -> None:
        proof, computed = batch_of(np.zeros(400), self.ROUND, covered=(0, 3999))
        last = 1.9
        doubled = replace(
            proof, nonces=(*proof.nonces, *proof.nonces[:100]), dist=(*proof.dist, *(last,) * 100)
        )
        result = judge(doubled, computed, self.ROUND)
        assert result.n_duplicates == 100
        assert result.tests["density"] == density_test(300, 4000, 0.1, 0.1)


def test_by_the_older_rule_only_the_binomial_test_runs() -> None:
    round_ = last_row_round(WIDE, valid_rate=0.1, distance_tolerance=None, honest_sigma=0.07)
    proof, computed = batch_of(noise(0.3, 60) - 1.0, round_, covered=(0, 9999))
    result = judge(proof, computed, round_)
    assert dict(result.tests) == {"nonces": 1.0}
    assert (result.verdict, result.n_covered, result.honest_sigma) == (Verdict.HONEST, None, None)
    assert result.error_mean == pytest.approx(-1.0)


def test_nothing_judged_has_no_errors() -> None:
    result = judge(make_batch([1], [1.4]), {1: math.nan}, ROUND)
    assert (result.error_rms, result.error_mean) == (None, None)
    assert dict(result.tests) == {"nonces": 1.0}


class TestSamples:
    def test_the_others_leave_the_tests_of_received_against_computed(self) -> None:
        forged = dict.fromkeys(range(25, 50), 1.0)
        proof = make_batch([*HONEST], [*{**HONEST, **forged}.values()])
        sample = [40, 3, 5]
        result = judge(proof, {n: HONEST[n] for n in sample}, ROUND, sampled=sample)
        assert result.nonces == (3, 5, 40), "in the order of the batch"
        assert result.received_dist == (HONEST[3], HONEST[5], 1.0)
        assert result.computed_dist == (HONEST[3], HONEST[5], HONEST[40])
        assert (result.n_judged, result.n_invalid, result.invalid_nonces) == (3, 1, (40,))
        assert result.tests["nonces"] == binomial_test(1, 3, 0.02)
        assert judge(proof, HONEST, ROUND, sampled={3, 5}).verdict is Verdict.HONEST

    def test_a_sample_of_everything_is_the_whole_batch(self) -> None:
        proof = make_batch([*HONEST], [d + 0.002 for d in HONEST.values()])
        assert judge(proof, HONEST, ROUND, sampled=[*HONEST]) == judge(proof, HONEST, ROUND)

    def test_the_density_is_that_of_the_whole_batch(self) -> None:
        round_ = TestDensity.ROUND
        proof, computed = batch_of(np.zeros(200), round_, covered=(0, 3999))
        result = judge(proof, computed, round_, sampled=range(10))
        assert result.n_judged == 10
        assert result.rejected_by == ("density",)
        assert result.tests["density"] == density_test(200, 4000, 0.1, 0.1)

    def test_a_claim_that_does_not_count_and_is_not_in_the_sample_is_not_valid_for_the_density(self) -> None:
        round_ = TestDensity.ROUND
        proof, computed = batch_of(np.zeros(400), round_, covered=(0, 3999))
        raised = replace(proof, dist=(*proof.dist[:200], *(1.9,) * 200))
        result = judge(raised, computed, round_, sampled=range(10))
        assert (result.n_judged, result.n_invalid) == (10, 0)
        assert result.tests["density"] == density_test(200, 4000, 0.1, 0.1)

    def test_repetitions_outside_of_the_sample_are_counted(self) -> None:
        proof = make_batch([1, 2, 2, 3], [HONEST[1], HONEST[2], HONEST[2], HONEST[3]])
        result = judge(proof, HONEST, ROUND, sampled=[1])
        assert (result.nonces, result.n_duplicates) == ((1,), 1)

    def test_failures_are_a_share_of_the_sample(self) -> None:
        proof = make_batch(HONEST, HONEST.values())
        computed = {**HONEST, 4: math.nan}
        assert judge(proof, computed, ROUND, sampled=[4, 5]).verdict is Verdict.NO_VERDICT
        assert judge(proof, computed, ROUND, sampled=[5, 6]).failed_nonces == ()

    @pytest.mark.parametrize("sampled", [[], [1, 60], [60]])
    def test_a_sample_of_nothing_or_of_something_else_is_refused(self, sampled: list[int]) -> None:
        with pytest.raises(FieldError, match="at least one nonce") as caught:
            judge(make_batch([1, 2], [1.4, 1.4]), dict.fromkeys(range(100), 1.4), ROUND, sampled=sampled)
        assert caught.value.field == "sampled"

    def test_a_sampled_nonce_that_was_not_computed_is_never_a_pass(self) -> None:
        with pytest.raises(EngineError, match="1 nonces, the first is 2"):
            judge(make_batch([1, 2], [1.4, 1.4]), {1: 1.4}, ROUND, sampled=[1, 2])


@given(
    errors=st.lists(st.floats(-1.2, 1.2), min_size=1, max_size=60),
    rate=st.sampled_from([1.0, 0.5, 0.1]),
    covered=st.none() | st.integers(60, 5000),
    threshold=st.sampled_from([0.3, 0.01, 1e-7]),
    tolerance=st.sampled_from([0.35, 1.0, None]),
)
def test_old_clients_and_the_verdict_agree(
    errors: list[float], rate: float, covered: int | None, threshold: float, tolerance: float | None
) -> None:
    """`probability_honest` below the threshold, a test that spoke, and fraud are one and the same."""
    round_ = last_row_round(WIDE, valid_rate=rate, fraud_threshold=threshold, distance_tolerance=tolerance)
    walked = None if covered is None else (0, covered - 1)
    proof, computed = batch_of(np.array(errors), round_, covered=walked)
    result = judge(proof, computed, round_)
    m = len(result.tests)
    assert result.probability_honest == min(1.0, m * min(result.tests.values()))
    assert result.fraud_detected is (result.probability_honest < threshold) is bool(result.rejected_by)
    assert result.rejected_by == tuple(name for name, p in result.tests.items() if m * p < threshold)
    assert all(0.0 <= p <= 1.0 for p in result.tests.values())


K = 16


def vector_batch(
    errors: npt.NDArray[np.float64], round_: Round, **changes: Any
) -> tuple[ProofBatch, dict[int, list[float]]]:
    """A batch with vectors that are off by errors in units of s, [n, k], and the numbers to be recomputed."""
    rng = np.random.default_rng(7)
    numbers = rng.standard_normal(errors.shape)
    if not round_.every_nonce_counts:
        numbers[:, 0] = 1.5 + 0.2 * rng.random(len(errors))
    received = numbers - errors
    dist = [distance_of(number, WIDTH) for number in received[:, 0].tolist()]
    proof = make_batch(
        [*range(len(errors))],
        dist,
        vectors=encode(received.tolist()),
        encoding=encoding_of(errors.shape[1]),
        **changes,
    )
    proof.check_against(round_)
    return proof, dict(enumerate(numbers.tolist()))


class TestNumbers:
    """Verdicts by all numbers of a nonce."""

    ROUND = with_numbers(last_row_round(WIDE, honest_sigma=0.05, honest_kurtosis=3.0), K)

    def errors(self, sigma: float = 0.05, n: int = 200, seed: int = 3) -> npt.NDArray[np.float64]:
        return np.random.default_rng(seed).normal(0, sigma, (n, K))

    def judged(
        self, errors: npt.NDArray[np.float64], round_: Round = ROUND, **changes: Any
    ) -> ValidatedBatch:
        proof, computed = vector_batch(errors, round_, **changes)
        return judge_numbers(proof, computed, round_)

    def test_honest_claims_are_honest(self) -> None:
        result = self.judged(self.errors())
        assert list(result.tests) == ["nonces", "rms", "beyond", "signed_mean"]
        assert (result.verdict, result.numbers) == (Verdict.HONEST, K)
        assert result.error_rms == pytest.approx(0.05, rel=0.03)
        assert np.shape(result.computed_numbers) == (200, K)

    def test_the_p_values_are_those_of_the_tests(self) -> None:
        errors = self.errors(0.052)
        result = self.judged(errors)
        received = result.proof.numbers()
        assert received is not None
        vectors = result.computed_numbers - received
        exact = np.concatenate([errors[:, :1], vectors[:, 1:]], axis=1)
        bound = nonce_bound(K, 3.0, 0.02)
        invalid = np.sqrt(mean_squares(exact, 0.175)) > bound.size * 0.05
        assert result.n_invalid == int(invalid.sum())
        assert dict(result.tests) == pytest.approx(
            {
                "nonces": binomial_test(result.n_invalid, 200, 5e-4),
                "rms": rms_test(exact, 0.05, 3.0, limit=0.175),
                "beyond": beyond_test(exact, 0.175, 0.02, 4.0),
                "signed_mean": signed_mean_test(exact[:, 0], 0.05, 3.0, limit=0.175),
            }
        )

    def test_without_vectors_it_is_judged_by_distances_alone(self) -> None:
        proof, computed = vector_batch(self.errors(), self.ROUND)
        bare = replace(proof, vectors=None, encoding=None)
        result = judge_numbers(bare, computed, self.ROUND)
        assert (result.numbers, list(result.tests)) == (1, ["nonces", "rms", "signed_mean"])
        assert result.verdict is Verdict.HONEST

    def test_a_forged_nonce_is_told_by_itself(self) -> None:
        errors = self.errors()
        errors[[4, 9, 90]] = np.random.default_rng(1).normal(0, 1.4, (3, K))
        result = self.judged(errors)
        assert result.invalid_nonces == (4, 9, 90)
        assert "nonces" in result.rejected_by

    def test_one_flipped_number_spoils_no_nonce(self) -> None:
        errors = self.errors(0.04)
        errors[5, 3] = 2.0
        assert self.judged(errors).verdict is Verdict.HONEST

    def test_garbage_below_the_clipping_is_told_by_how_much_of_it_there_is(self) -> None:
        errors = self.errors(0.0)
        errors[:, :2] = 1.0
        errors[::2, :2] = -1.0
        assert "beyond" in self.judged(errors, with_numbers(last_row_round(WIDE), K)).rejected_by

    def test_below_rate_1_the_first_number_counts_for_nonces_alone(self) -> None:
        round_ = with_numbers(last_row_round(WIDE, valid_rate=0.1, honest_sigma=0.05), K)
        errors = self.errors(0.04)
        plain = self.judged(errors, round_)
        errors[:, 0] += 0.1
        moved = self.judged(errors, round_)
        assert moved.tests["rms"] == plain.tests["rms"]
        assert moved.tests["beyond"] == plain.tests["beyond"]

    def test_a_number_that_failed_fails_the_nonce(self) -> None:
        proof, computed = vector_batch(self.errors(), self.ROUND)
        computed[11][7] = math.nan
        result = judge_numbers(proof, computed, self.ROUND)
        assert result.failed_nonces == (11,)
        assert math.isnan(result.computed_dist[11])
        assert result.n_judged == 199

    @pytest.mark.parametrize("numbers", [0, 1, K - 1, K + 1])
    def test_other_numbers_than_the_rounds_are_never_a_pass(self, numbers: int) -> None:
        proof, computed = vector_batch(self.errors(), self.ROUND)
        computed[3] = [0.1] * numbers
        with pytest.raises(EngineError, match=f"{numbers} numbers were computed for nonce 3 instead of 16"):
            judge_numbers(proof, computed, self.ROUND)

    def test_by_the_older_rule_numbers_do_not_matter(self) -> None:
        round_ = with_numbers(last_row_round(WIDE, distance_tolerance=None), K)
        result = self.judged(self.errors(1.0), round_)
        assert (dict(result.tests), result.verdict) == ({"nonces": 1.0}, Verdict.HONEST)

    def test_of_several_claims_the_farthest_off_is_judged(self) -> None:
        proof, computed = vector_batch(self.errors(), self.ROUND)
        far, computed_far = vector_batch(self.errors(0.3), self.ROUND)
        assert computed == computed_far
        doubled = replace(
            proof,
            nonces=proof.nonces * 2,
            dist=proof.dist + far.dist,
            vectors=(proof.vectors or ()) + (far.vectors or ()),
        )
        assert judge_numbers(doubled, computed, self.ROUND).received_dist == far.dist
