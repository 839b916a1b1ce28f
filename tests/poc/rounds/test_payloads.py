"""The wire's fields about distances."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from builders import last_row_round, make_batch, with_numbers
from judged import judge_distances as judge

from hallmark.poc.protocol.generated import ComputedSpan
from hallmark.poc.protocol.law import number_of
from hallmark.poc.protocol.nonces import NonceSchedule
from hallmark.poc.protocol.proof import Numerics, ProofBatch
from hallmark.poc.protocol.vectors import decode, encode, encoding_of
from hallmark.poc.protocol.verdict_body import claimed_batch, recomputed_batch
from hallmark.poc.rounds.payloads import generated_template, validated_payload, verdict_fields
from hallmark.poc.verdict.judge import judge as judge_numbers

ROUND = last_row_round(r_target=1.45, distance_tolerance=0.35)
BATCH = make_batch((*range(300), 5), public_key="02ff", node_id=3)
COMPUTED = dict.fromkeys(range(300), 1.4) | {7: math.nan, 8: 1.6}
VALIDATED = judge(BATCH, COMPUTED, ROUND)

ORIG_VALIDATED = {
    "public_key",
    "block_hash",
    "block_height",
    "nonces",
    "node_id",
    "dist",
    "received_dist",
    "r_target",
    "fraud_threshold",
    "n_invalid",
    "probability_honest",
    "fraud_detected",
}
G1_VALIDATED = {"computed_distances", "received_distances", "valid", "fraud_detected", "nonces", "public_key"}


def test_validated_has_the_fields_of_both_older_generations() -> None:
    payload: Any = validated_payload(VALIDATED, "some-id")
    assert payload.keys() >= ORIG_VALIDATED | G1_VALIDATED
    assert payload["public_key"] == "02ff", "the batch's key, not the round's"
    assert payload["node_id"] == 3
    assert payload["request_id"] == "some-id"
    assert payload["n_invalid"] == 1
    assert payload["fraud_detected"] is False
    assert payload["n_duplicates"] == 1


def test_validated_is_the_batch_as_it_came_with_repeated_nonces_and_failed_ones() -> None:
    payload: Any = validated_payload(VALIDATED, "some-id")
    json.dumps(payload, allow_nan=False)
    assert payload["nonces"] == list(BATCH.nonces) == [*range(300), 5]
    assert payload["received_dist"] == payload["received_distances"] == list(BATCH.dist)
    assert payload["failed_nonces"] == [7]
    assert payload["dist"][7] is None
    assert payload["dist"][300] == payload["dist"][5] == pytest.approx(1.4)
    assert (payload["n_judged"], payload["n_duplicates"]) == (299, 1), "a repeated nonce is judged once"
    at_8 = payload["nonces"].index(8)
    assert payload["dist"][at_8] == payload["computed_distances"][at_8] == pytest.approx(1.6)
    assert payload["received_dist"][at_8] == payload["received_distances"][at_8] == 1.4
    assert payload["valid"][at_8] is False
    assert payload["valid"].count(False) == 2, "nor is one valid that failed"
    arrays = ("dist", "received_dist", "computed_distances", "received_distances", "valid")
    assert {len(payload[field]) for field in arrays} == {301}


def test_a_callback_has_both_batches_that_it_tells_of() -> None:
    body = json.loads(json.dumps(validated_payload(VALIDATED, "some-id")))
    assert ProofBatch.parse(claimed_batch(body)) == BATCH
    recomputed = ProofBatch.parse(recomputed_batch(body))
    assert recomputed.nonces == tuple(nonce for nonce in BATCH.nonces if nonce != 7)
    assert recomputed.failed_nonces == (7,)


def test_the_answer_runs_in_step_with_what_was_sent() -> None:
    answer = verdict_fields(VALIDATED)
    json.dumps(answer, allow_nan=False)
    assert answer["nonces"] == [*range(300), 5]
    assert len(answer["computed_distances"]) == len(answer["valid"]) == 301
    assert answer["computed_distances"][7] is None
    assert answer["valid"][7] is False
    assert answer["computed_distances"][300] == pytest.approx(1.4)
    assert (answer["verdict"], answer["fraud_detected"]) == ("honest", False)


def test_without_a_verdict_the_answer_says_so() -> None:
    validated = judge(BATCH, dict.fromkeys(range(300), math.nan), ROUND)
    answer = verdict_fields(validated)
    assert (answer["verdict"], answer["fraud_detected"], answer["n_judged"]) == ("no_verdict", False, 0)


def test_answers_and_callbacks_tell_the_p_value_of_each_test() -> None:
    round_ = last_row_round(valid_rate=0.25, honest_sigma=0.08)
    batch = replace(BATCH, nonces=tuple(range(40)), dist=(1.3,) * 40, covered=(0, 159))
    validated = judge(batch, dict.fromkeys(range(40), 1.31), round_)
    payload: Any
    for payload in (validated_payload(validated, "some-id"), verdict_fields(validated)):
        json.dumps(payload, allow_nan=False)
        assert payload["tests"] == dict(validated.tests)
        assert list(payload["tests"]) == ["nonces", "rms", "signed_mean", "density"]
        assert payload["rejected_by"] == payload["spoke"] == ["rms", "signed_mean"]
        assert payload["probability_honest"] == 4 * min(payload["tests"].values())
        assert payload["error_rms"] == pytest.approx(-payload["error_mean"], rel=1e-9)
        assert payload["error_rms"] == validated.error_rms
        assert (payload["n_covered"], payload["honest_sigma"]) == (160, 0.08)


def test_what_was_not_measured_is_null() -> None:
    validated = judge(BATCH, dict.fromkeys(range(300), math.nan), last_row_round(distance_tolerance=None))
    payload: Any
    for payload in (validated_payload(validated, "some-id"), verdict_fields(validated)):
        json.dumps(payload, allow_nan=False)
        assert (payload["tests"], payload["spoke"]) == ({"nonces": 1.0}, [])
        assert [payload[name] for name in ("error_rms", "error_mean", "n_covered", "honest_sigma")] == [
            None
        ] * 4


def test_of_a_sampled_batch_what_is_not_in_the_sample_is_null() -> None:
    validated = judge(BATCH, {5: 1.4, 7: math.nan, 9: 1.41}, ROUND, sampled=[9, 5, 7])
    bodies: list[Any] = [validated_payload(validated, "some-id"), verdict_fields(validated)]
    for body in bodies:
        json.dumps(body, allow_nan=False)
        assert (body["nonces"], body["failed_nonces"]) == ([*range(300), 5], [7])
        computed = {place: d for place, d in enumerate(body["computed_distances"]) if d is not None}
        assert computed == pytest.approx({5: 1.4, 9: 1.41, 300: 1.4})


def test_at_rate_1_a_distance_of_2_is_valid() -> None:
    round_ = last_row_round()
    batch = replace(BATCH, nonces=(1,), dist=(2.0,))
    validated = judge(batch, {1: 2.0}, round_)
    assert validated.n_invalid == 0
    assert verdict_fields(validated)["valid"] == [True]
    assert validated_payload(validated, "some-id")["valid"] == [True]


def test_generated_is_the_batch_with_the_target_it_was_found_under() -> None:
    round_ = last_row_round(r_target=1.45, node_id=1, node_count=3)
    numerics: Numerics = {"dtype": "bfloat16", "batch_size": 32, "eager": True}
    walked = ComputedSpan.sort_out(
        NonceSchedule(1, 3).take(4), [[number_of(d, 256)] for d in (1.4, math.nan, 1.5, 1.2)], round_
    )
    proof = walked.proof(round_, numerics)
    assert proof is not None
    payload = {**generated_template(round_, numerics), **walked.fields()}
    assert payload == {**proof.as_dict(), "r_target": 1.45}
    assert payload.keys() >= {"public_key", "block_hash", "block_height", "nonces", "dist", "node_id"}
    assert ProofBatch.parse(json.loads(json.dumps(payload, allow_nan=False))) == proof


def test_generated_never_has_a_node_id_that_is_none() -> None:
    assert generated_template(last_row_round(), {})["node_id"] == 0


def test_a_verdict_by_vectors_has_those_of_both_sides() -> None:
    round_ = with_numbers(last_row_round(), 3)
    numbers = [[0.5, 1.0, -1.0], [-0.5, 2.0, 0.25]]
    dist = tuple(math.sqrt(2 - first / 8) for first, *_ in numbers)
    batch = replace(BATCH, nonces=(4, 7), dist=dist, vectors=encode(numbers), encoding=encoding_of(3))
    computed = {4: [0.5, 1.0, -1.0], 7: [-0.5, math.nan, 0.0]}
    payload: Any = validated_payload(judge_numbers(batch, computed, round_), "some-id")
    assert (payload["nonces"], payload["numbers"], payload["encoding"]) == ([4, 7], 3, encoding_of(3))
    assert decode(payload["vectors"][:1], 3).tolist() == numbers[:1]
    assert payload["vectors"][1] is None, "it failed"
    assert payload["received_vectors"] == list(encode(numbers)), "as they came"
    recomputed = ProofBatch.parse(recomputed_batch(payload))
    assert (recomputed.nonces, recomputed.failed_nonces) == ((4,), (7,))
    bare = replace(batch, vectors=None, encoding=None)
    payload = validated_payload(judge_numbers(bare, computed, round_), "some-id")
    assert (payload["received_vectors"], payload["numbers"]) == (None, 1)
