"""The judge: what is fraud, what is not, and what is no verdict."""

import math
from typing import Any

import pytest
from rounds import BLOCK, make_round
from scipy.stats import binomtest

from hallmark.poc.errors import EngineError
from hallmark.poc.fraud import PROBABILITY_MISMATCH, ValidatedBatch, Verdict, judge, probability_at_least
from hallmark.poc.proof import ProofBatch
from hallmark.poc.round import Round

ROUND = make_round()
TAU = ROUND.tolerance or math.nan
HONEST = {nonce: 1.35 + 0.002 * nonce for nonce in range(50)}


def claim(nonces: list[int], dist: list[float], **changes: Any) -> ProofBatch:
    fields: dict[str, Any] = {
        "public_key": "key",
        "block_hash": BLOCK,
        "block_height": 7,
        "node_id": 0,
        "nonces": tuple(nonces),
        "dist": tuple(dist),
    }
    return ProofBatch(**{**fields, **changes})


def judged(changed: dict[int, float], round_: Round = ROUND) -> ValidatedBatch:
    """Fifty honest claims of which some were changed."""
    claims = {**HONEST, **changed}
    return judge(claim(list(claims), list(claims.values())), HONEST, round_)


def test_honest_claims_are_honest() -> None:
    result = judged({})
    assert result.verdict is Verdict.HONEST
    assert not result.fraud_detected
    assert (result.n_invalid, result.n_judged, result.probability_honest) == (0, 50, 1.0)
    assert result.received_dist == result.computed_dist == tuple(HONEST.values())
    assert (result.r_target, result.fraud_threshold, result.tolerance) == (2.0, 0.01, TAU)


@pytest.mark.parametrize(
    ("factor", "n_invalid", "verdict"),
    [
        (0.90, 50, Verdict.FRAUD),
        (0.99, 0, Verdict.HONEST),
        (0.999, 0, Verdict.HONEST),
        (1.0, 0, Verdict.HONEST),
        (1.001, 0, Verdict.HONEST),
        (1.01, 0, Verdict.HONEST),
        (1.02, 50, Verdict.FRAUD),
        (1.10, 50, Verdict.FRAUD),
    ],
)
def test_tamper_ladder_of_factors(factor: float, n_invalid: int, verdict: Verdict) -> None:
    """At width 256 tau is 0.0155: one per cent of 1.4 is within it, two are not."""
    result = judged({nonce: d * factor for nonce, d in HONEST.items()})
    assert (result.n_invalid, result.verdict) == (n_invalid, verdict)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("units_of_tau", "n_invalid"), [(0.5, 0), (0.99, 0), (1.01, 10), (2, 10), (20, 10)])
def test_tamper_ladder_of_offsets(sign: int, units_of_tau: float, n_invalid: int) -> None:
    changed = {nonce: HONEST[nonce] + sign * units_of_tau * TAU for nonce in range(10)}
    result = judged(changed)
    assert result.n_invalid == n_invalid
    assert result.invalid_nonces == tuple(range(n_invalid))
    assert result.fraud_detected is (n_invalid > 0)


def test_the_boundary_of_the_tolerance_is_inside() -> None:
    """Against a computed distance of 0 the difference is the claim itself, to the bit."""
    at = judge(claim([1], [TAU]), {1: 0.0}, ROUND)
    beyond = judge(claim([1], [math.nextafter(TAU, 1)]), {1: 0.0}, ROUND)
    assert (at.n_invalid, beyond.n_invalid) == (0, 1)


def test_one_invalid_claim_of_few_is_fraud_and_of_many_is_not() -> None:
    assert judge(claim([1], [1.0]), {1: 1.4}, ROUND).fraud_detected
    claims = [1.4] * 21
    computed = dict.fromkeys(range(21), 1.4)
    claims[0] = 1.0
    assert not judge(claim(list(range(21)), claims), computed, ROUND).fraud_detected
    claims[1] = 1.0
    assert judge(claim(list(range(21)), claims), computed, ROUND).fraud_detected


def test_a_claim_that_does_not_count_is_invalid_even_if_true() -> None:
    round_ = make_round(r_target=1.4)
    result = judge(claim([1, 2, 3], [1.39, 1.4, 1.41]), {1: 1.39, 2: 1.4, 3: 1.41}, round_)
    assert result.invalid_nonces == (2, 3)


def test_a_true_claim_may_lie_across_the_target_within_the_tolerance() -> None:
    """What the older rule convicts honest nodes for."""
    computed = {1: 1.4 + 0.5 * TAU}
    proof = claim([1], [1.4 - 0.1 * TAU])
    assert judge(proof, computed, make_round(r_target=1.4)).verdict is Verdict.HONEST
    older = judge(proof, computed, make_round(r_target=1.4, distance_tolerance=None))
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
    round_ = make_round(r_target=1.4, distance_tolerance=None)
    result = judge(claim([1], [received]), {1: computed}, round_)
    assert result.invalid_nonces == ((1,) if invalid else ())


def test_at_rate_one_every_distance_counts() -> None:
    for tolerance in (0.35, None):
        round_ = make_round(distance_tolerance=tolerance)
        assert judge(claim([1], [2.0]), {1: 2.0}, round_).verdict is Verdict.HONEST


def test_a_duplicate_counts_once_by_its_worst_claim() -> None:
    proof = claim([5, 6, 5, 5], [HONEST[5], HONEST[6], HONEST[5] + 2 * TAU, HONEST[5] - 0.5 * TAU])
    result = judge(proof, HONEST, ROUND)
    assert result.nonces == (5, 6)
    assert (result.n_judged, result.n_duplicates, result.n_invalid) == (2, 2, 1)
    assert result.received_dist == (HONEST[5] + 2 * TAU, HONEST[6])
    assert result.invalid_nonces == (5,)


def test_an_invalid_claim_is_worse_than_a_farther_valid_one() -> None:
    round_ = make_round(r_target=1.4)
    result = judge(claim([1, 1], [1.4, 1.4 - 0.9 * TAU]), {1: 1.4 - 0.1 * TAU}, round_)
    assert result.received_dist == (1.4,)
    assert result.n_invalid == 1


def test_repeating_honest_nonces_does_not_dilute_the_test() -> None:
    nonces = [0] * 1000 + [1, 2]
    proof = claim(nonces, [HONEST[0]] * 1000 + [HONEST[1] + 2 * TAU, HONEST[2] + 2 * TAU])
    result = judge(proof, HONEST, ROUND)
    assert result.n_judged == 3
    assert result.probability_honest == pytest.approx(binomtest(2, 3, 5e-4, "greater").pvalue)
    assert result.fraud_detected


@pytest.mark.parametrize("failure", [math.nan, math.inf, -math.inf])
def test_failed_nonces_leave_the_test(failure: float) -> None:
    computed = {**dict.fromkeys(range(200), 1.4), 17: failure}
    claims = [1.4] * 200
    claims[17] = 0.5  # would be invalid, but nobody can say
    result = judge(claim(list(range(200)), claims), computed, ROUND)
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
    result = judge(claim(list(range(count)), [1.0] * count), computed, ROUND)
    assert result.verdict is verdict
    assert result.fraud_detected is (verdict is Verdict.FRAUD)
    assert len(result.failed_nonces) == failed


def test_failures_are_counted_over_unique_nonces() -> None:
    """Repeating good nonces must not turn 'no verdict' into a verdict."""
    proof = claim([0] * 500 + [1], [1.4] * 501)
    assert judge(proof, {0: 1.4, 1: math.nan}, ROUND).verdict is Verdict.NO_VERDICT


def test_nothing_to_judge_is_no_verdict() -> None:
    """Zero samples once meant honest."""
    proof = claim([], [], failed_nonces=(3, 4))
    result = judge(proof, {}, ROUND)
    assert result.verdict is Verdict.NO_VERDICT
    assert (result.n_judged, result.probability_honest) == (0, 1.0)


def test_a_nonce_that_was_not_computed_is_never_a_pass() -> None:
    """`zip` once stopped at the shorter list, and missing proofs meant no mismatch."""
    with pytest.raises(EngineError, match="2 nonces, the first is 60"):
        judge(claim([1, 61, 60], [1.35, 1.4, 1.4]), HONEST, ROUND)


@pytest.mark.parametrize(
    ("k", "n"),
    [(k, n) for k in (0, 1, 2, 5, 12) for n in (1, 5, 100, 200, 1000, 9031) if k <= n],
)
def test_p_value_is_the_binomial_test_s(k: int, n: int) -> None:
    expected = binomtest(k, n, PROBABILITY_MISMATCH, alternative="greater").pvalue
    assert probability_at_least(k, n, PROBABILITY_MISMATCH) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("n", "at_one_per_cent", "at_1e_7"),
    [(5, 1, 3), (10, 1, 3), (20, 1, 4), (21, 2, 4), (100, 2, 5), (200, 2, 5), (1000, 4, 8)],
)
def test_smallest_fraudulent_count_is_the_published_one(n: int, at_one_per_cent: int, at_1e_7: int) -> None:
    for threshold, smallest in ((0.01, at_one_per_cent), (1e-7, at_1e_7)):
        round_ = make_round(fraud_threshold=threshold)
        for k, verdict in ((smallest - 1, Verdict.HONEST), (smallest, Verdict.FRAUD)):
            claims = [1.0] * k + [1.4] * (n - k)
            result = judge(claim(list(range(n)), claims), dict.fromkeys(range(n), 1.4), round_)
            assert result.verdict is verdict
            assert result.fraud_threshold == threshold
