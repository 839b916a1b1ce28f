"""Batches to judge, over HTTP."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from builders import small_config, small_request
from pydantic import ValidationError
from runtime import (
    POC,
    Engine,
    application,
    client_of,
    eventually,
    honest_proof,
    running_manager,
    running_receiver,
    snapshot,
)

from hallmark.poc.core.errors import EngineError, FieldError
from hallmark.poc.protocol.law import distance_of
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.vectors import encode, encoding_of
from hallmark.poc.rounds.validation_job import SettledJob, ValidationJob
from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager
from hallmark.server.http.examples import QUEUED, VERDICT


@pytest.fixture(scope="module")
def honest() -> dict[str, Any]:
    """What an honest prover sends, with the oldest generation's six fields."""
    return asyncio.run(honest_proof(small_config(), range(20))).as_dict()


@pytest.fixture
async def validating(http: httpx.AsyncClient) -> httpx.AsyncClient:
    answer = await http.post(f"{POC}/init/validate", json=small_request())
    assert answer.status_code == 200
    return http


async def test_a_batch_is_answered_with_its_verdict_and_the_keys_of_all_clients(
    validating: httpx.AsyncClient, honest: dict[str, Any]
) -> None:
    answer = await validating.post(f"{POC}/validate", json=honest)
    assert answer.status_code == 200
    verdict = answer.json()
    assert verdict["status"] == "OK"
    assert verdict["fraud_detected"] is False
    assert verdict["computed_distances"] == honest["dist"], "the same engine gives the same bits"
    assert (verdict["n_invalid"], verdict["probability_honest"]) == (0, 1.0)
    assert (verdict["failed_nonces"], verdict["n_duplicates"]) == ([], 0)


async def test_a_batch_that_says_it_covers_all_of_a_walk_is_fraud_and_the_round_goes_on(
    http: httpx.AsyncClient,
) -> None:
    """2^63 nonces, the longest stretch that two indices can name."""
    await http.post(f"{POC}/init/validate", json=small_request(valid_rate=0.5, node_id=None, node_count=None))
    proof = await honest_proof(small_config(valid_rate=0.5), range(8), covered=(0, 2**63 - 1))
    verdict = (await http.post(f"{POC}/validate", json=proof.as_dict())).json()
    assert (verdict["verdict"], verdict["n_covered"]) == ("fraud", 2**63)
    assert "density" in verdict["rejected_by"]
    assert (await http.get(f"{POC}/status")).json()["state"] == "VALIDATING"


@pytest.mark.parametrize("wait", ["true", "1"])
async def test_waiting_may_be_asked_for(
    validating: httpx.AsyncClient, honest: dict[str, Any], wait: str
) -> None:
    answer = await validating.post(f"{POC}/validate?wait={wait}", json=honest)
    assert (answer.status_code, answer.json()["verdict"]) == (200, "honest")


async def test_without_waiting_the_result_is_asked_for_by_its_id(
    validating: httpx.AsyncClient, engine: Engine, manager: PoCManager, honest: dict[str, Any]
) -> None:
    engine.hold()
    queued = await validating.post(f"{POC}/validate?wait=false", json=honest)
    assert queued.status_code == 202
    assert queued.json().keys() == {"status", "request_id", "queued_count", "ignored_fields"}
    assert (queued.json()["status"], queued.json()["queued_count"]) == ("queued", 20)
    path = f"{POC}/validate/{queued.json()['request_id']}"
    await eventually(lambda: engine.keys)
    assert (await validating.get(path)).json()["status"] == "running"
    engine.release()
    await eventually(lambda: isinstance(manager.result(queued.json()["request_id"]), SettledJob))
    result = (await validating.get(path)).json()
    assert result["status"] == "completed"
    assert result["verdict"] == "honest"
    assert result["computed_distances"] == honest["dist"]
    assert (await validating.get(path)).json() == result


async def test_a_forgery_is_fraud(validating: httpx.AsyncClient, honest: dict[str, Any]) -> None:
    forged = {**honest, "dist": [1.0] * 20}  # several s away from what is computed
    verdict = (await validating.post(f"{POC}/validate", json=forged)).json()
    assert verdict["fraud_detected"] is True
    assert verdict["probability_honest"] < 1e-7
    assert len(verdict["invalid_nonces"]) == verdict["n_invalid"] == 20


async def test_duplicates_are_judged_once_and_counted(
    validating: httpx.AsyncClient, engine: Engine, honest: dict[str, Any]
) -> None:
    doubled = {**honest, "nonces": honest["nonces"] * 2, "dist": honest["dist"] * 2}
    verdict = (await validating.post(f"{POC}/validate", json=doubled)).json()
    assert (verdict["n_duplicates"], verdict["n_judged"], verdict["verdict"]) == (20, 20, "honest")
    assert verdict["computed_distances"] == honest["dist"] * 2, "in step with what was sent"
    assert sum(len(keys) for keys in engine.keys) == 20


async def test_a_worse_second_claim_for_a_nonce_counts(
    validating: httpx.AsyncClient, honest: dict[str, Any]
) -> None:
    doubled = {**honest, "nonces": honest["nonces"] * 2, "dist": honest["dist"] + [1.0] * 20}
    verdict = (await validating.post(f"{POC}/validate", json=doubled)).json()
    assert verdict["fraud_detected"] is True


async def test_failed_recomputations_are_null_and_named(
    validating: httpx.AsyncClient, engine: Engine, honest: dict[str, Any]
) -> None:
    engine.failed_nonces = {3}
    verdict = (await validating.post(f"{POC}/validate", json=honest)).json()
    assert verdict["computed_distances"][3] is None
    assert verdict["failed_nonces"] == [3]
    assert (verdict["verdict"], verdict["fraud_detected"]) == ("no_verdict", False)


async def test_our_own_provers_fields_are_checked(
    validating: httpx.AsyncClient, honest: dict[str, Any]
) -> None:
    complete = {**honest, "covered": [0, 19], "failed_nonces": [], "numerics": {"dtype": "bfloat16", "tp": 1}}
    assert (await validating.post(f"{POC}/validate", json=complete)).json()["verdict"] == "honest"
    for change, named in (({"covered": [0, 20]}, "nonces: "), ({"covered": [1, 20]}, "nonces: ")):
        answer = await validating.post(f"{POC}/validate", json={**complete, **change})
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(named)


async def test_a_node_id_that_is_not_stated_is_taken(
    validating: httpx.AsyncClient, honest: dict[str, Any]
) -> None:
    without = {field: value for field, value in honest.items() if field != "node_id"}
    for body in (without, {**honest, "node_id": -1}):
        assert (await validating.post(f"{POC}/validate", json=body)).status_code == 200


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"nonces": [], "dist": []}, "nonces: []"),
    ({"nonces": [], "dist": [], "failed_nonces": [1]}, "nonces: '0 nonces and 1 failed ones'"),
    ({"nonces": [1, 2]}, "dist: '20 values'"),
    ({"dist": []}, "dist: '0 values'"),
    ({"nonces": [*range(19), -1]}, "nonces[19]: -1"),
    ({"nonces": [*range(19), 2**63]}, f"nonces[19]: {2**63}"),
    ({"nonces": [*range(19), 1.0]}, "nonces[19]: 1.0"),
    ({"nonces": [*range(19), True]}, "nonces[19]: True"),
    ({"nonces": [*range(19), "19"]}, "nonces[19]: '19'"),
    ({"nonces": [*range(19), None]}, "nonces[19]: None"),
    ({"nonces": "0,1,2"}, "nonces: '0,1,2'"),
    ({"nonces": {"0": 1}}, "nonces: {'0': 1}"),
    ({"dist": [1.4] * 19 + [float("nan")]}, "dist[19]: nan"),
    ({"dist": [1.4] * 19 + [float("inf")]}, "dist[19]: inf"),
    ({"dist": [1.4] * 19 + [2.1]}, "dist[19]: 2.1"),
    ({"dist": [1.4] * 19 + [-0.1]}, "dist[19]: -0.1"),
    ({"dist": [1.4] * 19 + [False]}, "dist[19]: False"),
    ({"dist": [1.4] * 19 + ["1.4"]}, "dist[19]: '1.4'"),
    ({"dist": 1.4}, "dist: 1.4"),
    ({"public_key": ""}, "public_key: ''"),
    ({"public_key": "\ud800"}, r"public_key: '\ud800'"),
    ({"public_key": 2}, "public_key: 2"),
    ({"block_height": "7"}, "block_height: '7'"),
    ({"block_height": 7.0}, "block_height: 7.0"),
    ({"node_id": -2}, "node_id: -2"),
    ({"node_id": 2**63}, f"node_id: {2**63}"),
    ({"covered": [1]}, "covered: "),
    ({"covered": [3, 1]}, "covered: "),
    ({"covered": [0, 2**63]}, "covered[1]: "),
    ({"failed_nonces": [3]}, "failed_nonces: [3]"),
    ({"failed_nonces": [-3]}, "failed_nonces[0]: -3"),
    ({"covered": ["x", "y"]}, "covered[0]: 'x'"),
    ({"covered": [1] * 200}, "covered: "),
    ({"round": 7}, "round: 7"),
    ({"numerics": []}, "numerics: []"),
    ({"numerics": {str(n): n for n in range(65)}}, "numerics: {"),
]


@pytest.mark.parametrize(("change", "expected"), BAD_FIELDS, ids=[expected for _, expected in BAD_FIELDS])
async def test_a_wrong_field_is_named_with_its_value(
    validating: httpx.AsyncClient,
    manager: PoCManager,
    honest: dict[str, Any],
    change: dict[str, Any],
    expected: str,
) -> None:
    answer = await validating.post(f"{POC}/validate", content=json.dumps({**honest, **change}).encode())
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(expected)
    assert snapshot(manager)["validation"]["queued_jobs"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"covered": ["x"] * 10_000},
        {"covered": [1] * 10_000},
        {"numerics": dict.fromkeys(map(str, range(10_000)))},
    ],
    ids=["covered", "covered, integers", "numerics"],
)
def test_a_long_wrong_field_is_left_at_its_first_error(
    honest: dict[str, Any], change: dict[str, Any]
) -> None:
    with pytest.raises(FieldError) as caught:
        ProofBatch.parse({**honest, **change})
    assert isinstance(caught.value.__cause__, ValidationError)
    assert caught.value.__cause__.error_count() == 1


@pytest.mark.parametrize(
    "change",
    [
        {"seq_len": 4},
        {"inputs": "normal"},
        {"first": 5},
        {"use_random_projection": False},
        {"projection_scale": 0.02},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_batch_of_other_round_settings_is_refused_and_no_fraud(
    http: httpx.AsyncClient, change: dict[str, Any]
) -> None:
    """Wrong shape: a refusal to judge, not a verdict."""
    engine = Engine()
    theirs, own = (
        Round.resolve(asked, engine.model).digest for asked in (small_config(**change), small_config())
    )
    proof = await honest_proof(small_config(**change), range(20), round_digest=theirs)
    await http.post(f"{POC}/init/validate", json=small_request())
    answer = await http.post(f"{POC}/validate", json=proof.as_dict())
    assert answer.status_code == 409
    assert theirs in answer.json()["detail"]
    assert own in answer.json()["detail"]
    await http.post(f"{POC}/init/validate", json=small_request(**change))
    answer = await http.post(f"{POC}/validate", json=proof.as_dict())
    assert answer.json()["verdict"] == "honest"


async def test_a_batch_of_another_dtype_is_refused(
    validating: httpx.AsyncClient, honest: dict[str, Any]
) -> None:
    answer = await validating.post(f"{POC}/validate", json={**honest, "numerics": {"dtype": "float16"}})
    assert answer.status_code == 409
    told = "the batch was computed in dtype 'float16', it would be judged in dtype 'bfloat16'"
    assert answer.json()["detail"] == told
    answer = await validating.post(f"{POC}/validate", json={**honest, "numerics": {"torch": "1.0"}})
    assert answer.json()["verdict"] == "honest", "nothing else of the fingerprint matters"


ROWS = {"seq_len": 16}
"""A round of two numbers a nonce."""


@pytest.fixture(scope="module")
def with_vectors() -> dict[str, Any]:
    """What an honest prover of this generation sends."""
    engine, asked = Engine(), small_config(**ROWS)
    asyncio.run(engine.open_round(Round.resolve(asked, engine.model).spec()))
    numbers = engine.numbers([(asked.public_key, nonce) for nonce in range(8)])
    return {
        **{"public_key": asked.public_key, "block_hash": asked.block_hash, "block_height": 7},
        "nonces": [*range(8)],
        "dist": [distance_of(of_nonce[0], engine.model.hidden_size) for of_nonce in numbers],
        "vectors": [*encode(numbers)],
        "encoding": encoding_of(2),
    }


async def test_a_batch_with_vectors_is_judged_by_all_numbers(
    http: httpx.AsyncClient, with_vectors: dict[str, Any]
) -> None:
    await http.post(f"{POC}/init/validate", json=small_request(**ROWS))
    verdict = (await http.post(f"{POC}/validate", json=with_vectors)).json()
    assert (verdict["verdict"], verdict["numbers"], verdict["n_judged"]) == ("honest", 2, 8)
    assert verdict["tests"].keys() == {"nonces", "rms", "beyond", "signed_mean"}
    others = {**with_vectors, "vectors": [packed((number(v), -4.0)) for v in with_vectors["vectors"]]}
    forged = (await http.post(f"{POC}/validate", json=others)).json()
    assert forged["verdict"] == "fraud", "the first numbers alone are right"
    alone = {name: value for name, value in with_vectors.items() if name not in ("vectors", "encoding")}
    verdict = (await http.post(f"{POC}/validate", json=alone)).json()
    assert (verdict["verdict"], verdict["numbers"]) == ("honest", 1)
    await http.post(f"{POC}/init/validate", json=small_request(**ROWS, vectors="required"))
    refused = await http.post(f"{POC}/validate", json=alone)
    assert refused.status_code == 400
    assert refused.json()["detail"].startswith("vectors: None is not allowed; allowed: one for each nonce")


def packed(numbers: tuple[float, ...]) -> str:
    return base64.b64encode(np.array(numbers, dtype="<f2").tobytes()).decode()


def number(vector: str) -> float:
    """The first one of a vector."""
    return float(np.frombuffer(base64.b64decode(vector), dtype="<f2")[0])


BAD_VECTORS: list[tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    (lambda batch: {"vectors": batch["vectors"][:7]}, "vectors: '7 values'"),
    (
        lambda batch: {"vectors": ["!", *batch["vectors"][1:]]},
        "vectors[0]: '!' is not allowed; allowed: base64",
    ),
    (lambda batch: {"vectors": [packed((1.0,) * 3), *batch["vectors"][1:]]}, "vectors[0]: '6 bytes'"),
    (lambda batch: {"vectors": [packed((1.0, np.inf)), *batch["vectors"][1:]]}, "vectors[0][1]: inf"),
    (lambda batch: {"vectors": [packed((np.nan, 1.0)), *batch["vectors"][1:]]}, "vectors[0][0]: nan"),
    (lambda batch: {"vectors": [packed((1.0, 8.1)), *batch["vectors"][1:]]}, "vectors[0][1]: 8.1"),
    (lambda batch: {"dist": [batch["dist"][0] + 0.001, *batch["dist"][1:]]}, "dist[0]: "),
    (lambda batch: {"vectors": 7}, "vectors: 7"),
    (lambda batch: {"vectors": None}, "vectors: None"),
    (lambda batch: {"encoding": None}, "encoding: None"),
    (lambda batch: {"encoding": {**batch["encoding"], "dtype": "f32"}}, "encoding.dtype: 'f32'"),
    (lambda batch: {"encoding": {**batch["encoding"], "endian": "be"}}, "encoding.endian: 'be'"),
    (lambda batch: {"encoding": {**batch["encoding"], "k_dim": 0}}, "encoding.k_dim: 0"),
    (
        lambda batch: {"encoding": {**batch["encoding"], "k_dim": 3}, "vectors": [packed((1.0,) * 3)] * 8},
        "encoding.k_dim: 3 is not allowed; allowed: the round's, 2",
    ),
]


@pytest.mark.parametrize(("change", "expected"), BAD_VECTORS, ids=[expected for _, expected in BAD_VECTORS])
async def test_vectors_that_no_nonce_has_are_refused(
    http: httpx.AsyncClient,
    manager: PoCManager,
    with_vectors: dict[str, Any],
    change: Callable[[dict[str, Any]], dict[str, Any]],
    expected: str,
) -> None:
    await http.post(f"{POC}/init/validate", json=small_request(**ROWS))
    answer = await http.post(f"{POC}/validate", json={**with_vectors, **change(with_vectors)})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(expected)
    assert snapshot(manager)["validation"]["queued_jobs"] == 0


class TestRecomputedNumbers:
    """`vectors=true` brings what the verdict was computed from."""

    async def test_they_are_those_of_each_nonce_as_it_was_sent(
        self, http: httpx.AsyncClient, engine: Engine, with_vectors: dict[str, Any]
    ) -> None:
        await http.post(f"{POC}/init/validate", json=small_request(**ROWS))
        engine.failed_nonces = {5}
        # A repetition, and no vectors of its own: what is told is recomputed.
        nonces, dist = [*with_vectors["nonces"], 2], [*with_vectors["dist"], with_vectors["dist"][2]]
        asked = {
            **{name: with_vectors[name] for name in ("public_key", "block_hash", "block_height")},
            **{"nonces": nonces, "dist": dist},
        }
        verdict = (await http.post(f"{POC}/validate?vectors=true", json=asked)).json()
        expected = [*with_vectors["vectors"], with_vectors["vectors"][2]]
        expected[5] = None
        assert verdict["vectors"] == expected, "the same engine gives the same bits"
        assert verdict["encoding"] == with_vectors["encoding"]
        assert (verdict["nonces"], verdict["failed_nonces"]) == (nonces, [5])

    async def test_they_are_what_the_callback_has(self, http: httpx.AsyncClient) -> None:
        async with running_receiver() as receiver:
            await http.post(f"{POC}/init/validate", json=small_request(callback_url=receiver.url))
            proof = (await honest_proof(small_config(), range(3))).as_dict()
            verdict = (await http.post(f"{POC}/validate?vectors=true", json=proof)).json()
            [body] = await eventually(lambda: receiver.bodies("validated"))
        told = ("vectors", "encoding", "nonces")
        assert {name: verdict[name] for name in told} == {name: body[name] for name in told}

    @pytest.mark.parametrize("query", ["", "?vectors=false", "?wait=true"])
    async def test_who_does_not_ask_gets_none_and_nothing_is_kept(
        self, validating: httpx.AsyncClient, manager: PoCManager, honest: dict[str, Any], query: str
    ) -> None:
        plain = (await validating.post(f"{POC}/validate{query}", json=honest)).json()
        assert list(plain) == list(VERDICT)
        asked = (await validating.post(f"{POC}/validate?wait=true&vectors=true", json=honest)).json()
        assert list(asked) == [*VERDICT, "vectors", "encoding"]
        same = plain.keys() - {"request_id"}
        assert {name: asked[name] for name in same} == {name: plain[name] for name in same}
        later = (await validating.get(f"{POC}/validate/{asked['request_id']}")).json()
        assert not {"vectors", "encoding"} & later.keys()
        kept = manager.result(asked["request_id"])
        assert isinstance(kept, SettledJob)
        assert kept.verdict is not None
        assert "vectors" not in kept.verdict

    async def test_who_does_not_wait_cannot_ask(
        self, validating: httpx.AsyncClient, manager: PoCManager, honest: dict[str, Any]
    ) -> None:
        answer = await validating.post(f"{POC}/validate?wait=false&vectors=true", json=honest)
        assert answer.status_code == 400
        assert answer.json()["detail"] == (
            "vectors: True is not allowed; allowed: false with wait=false: recomputed numbers are not kept "
            "for who comes later"
        )
        await validating.post(f"{POC}/phase/generate")
        answer = await validating.post(f"{POC}/validate?vectors=true", json=honest)
        assert answer.status_code == 409
        assert answer.json()["detail"].startswith("vectors=true needs the state VALIDATING; ")
        assert snapshot(manager)["validation"]["queued_jobs"] == 0

    async def test_who_is_let_go_while_waiting_gets_none(
        self, validating: httpx.AsyncClient, engine: Engine, honest: dict[str, Any]
    ) -> None:
        engine.hold()
        waiting = asyncio.create_task(validating.post(f"{POC}/validate?vectors=true", json=honest))
        await eventually(lambda: engine.keys)
        await validating.post(f"{POC}/phase/generate")
        answer = await waiting
        assert answer.status_code == 202
        assert answer.json().keys() == QUEUED.keys()
        engine.release()

    async def test_a_value_that_is_no_boolean_is_named(
        self, validating: httpx.AsyncClient, honest: dict[str, Any]
    ) -> None:
        answer = await validating.post(f"{POC}/validate?vectors=all", json=honest)
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith("vectors: 'all' is not allowed; allowed: ")


@pytest.mark.parametrize("missing", ["public_key", "block_hash", "block_height", "nonces", "dist"])
async def test_a_missing_field_is_named(
    validating: httpx.AsyncClient, honest: dict[str, Any], missing: str
) -> None:
    body = {field: value for field, value in honest.items() if field != missing}
    answer = await validating.post(f"{POC}/validate", json=body)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(f"{missing}: ")


async def test_a_wait_that_is_no_boolean_is_named(
    validating: httpx.AsyncClient, honest: dict[str, Any]
) -> None:
    answer = await validating.post(f"{POC}/validate?wait=perhaps", json=honest)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("wait: 'perhaps' is not allowed; allowed: ")


@pytest.mark.parametrize("change", [{"block_hash": "0xother"}, {"block_height": 8}])
async def test_another_block_is_a_409_with_both_named_never_dropped(
    validating: httpx.AsyncClient, honest: dict[str, Any], change: dict[str, Any]
) -> None:
    for wait in ("", "?wait=false"):
        answer = await validating.post(f"{POC}/validate{wait}", json={**honest, **change})
        assert answer.status_code == 409
        assert str(next(iter(change.values()))) in answer.json()["detail"]
        assert "the round about block '0x8d3f2a' at height 7" in answer.json()["detail"]


@pytest.mark.parametrize("stopped", [False, True])
async def test_without_a_running_round_it_is_a_409(
    http: httpx.AsyncClient, honest: dict[str, Any], stopped: bool
) -> None:
    if stopped:
        await http.post(f"{POC}/init/validate", json=small_request())
        await http.post(f"{POC}/stop")
    else:
        await http.post(f"{POC}/init", json=small_request())
    answer = await http.post(f"{POC}/validate", json=honest)
    assert answer.status_code == 409
    state = "STOPPED" if stopped else "IDLE"
    assert answer.json()["detail"] == (
        f"batches are judged in VALIDATING and queued in GENERATING; the state is {state}"
    )


async def test_while_generating_a_batch_is_queued_until_the_phase_turns(
    http: httpx.AsyncClient, honest: dict[str, Any], manager: PoCManager
) -> None:
    await http.post(f"{POC}/init/generate", json=small_request())
    refused = await http.post(f"{POC}/validate?wait=true", json=honest)
    assert refused.status_code == 409
    assert "VALIDATING" in refused.json()["detail"]
    assert "GENERATING" in refused.json()["detail"]
    assert snapshot(manager)["validation"]["queued_jobs"] == 0
    for wait in ("", "?wait=false"):
        queued = await http.post(f"{POC}/validate{wait}", json=honest)
        assert (queued.status_code, queued.json()["status"]) == (202, "queued")
    await http.post(f"{POC}/phase/validate")
    await eventually(lambda: isinstance(manager.result(queued.json()["request_id"]), SettledJob))
    assert (await http.get(f"{POC}/validate/{queued.json()['request_id']}")).json()["status"] == "completed"
    assert snapshot(manager)["validation"]["completed_jobs"] == 2


async def test_a_waiting_request_is_let_go_when_the_phase_turns_to_generating(
    validating: httpx.AsyncClient, engine: Engine, manager: PoCManager, honest: dict[str, Any]
) -> None:
    engine.hold()
    waiting = asyncio.create_task(validating.post(f"{POC}/validate", json=honest))
    await eventually(lambda: engine.keys)
    await validating.post(f"{POC}/phase/generate")
    answer = await waiting
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    engine.release()
    await validating.post(f"{POC}/phase/validate")
    job = manager.result(answer.json()["request_id"])
    assert isinstance(job, ValidationJob)
    await job.settled.wait()
    assert job.outcome().verdict == "honest"


@pytest.mark.parametrize("end", ["/stop", "/init/validate", "failure"])
async def test_a_waiting_request_is_answered_when_the_round_ends(
    validating: httpx.AsyncClient, engine: Engine, honest: dict[str, Any], end: str
) -> None:
    engine.hold()
    waiting = asyncio.create_task(validating.post(f"{POC}/validate", json=honest))
    later = await validating.post(f"{POC}/validate?wait=false", json=honest)
    await eventually(lambda: engine.keys)
    if end == "failure":
        engine.fail_compute = EngineError("rank 0 is out of memory")
        engine.release()
    else:
        body = None if end == "/stop" else small_request(block_hash="next")
        ending = asyncio.create_task(validating.post(POC + end, json=body))
    answer = await waiting
    assert answer.status_code == 409
    assert "'0x8d3f2a' has ended: " in answer.json()["detail"]
    result = (await validating.get(f"{POC}/validate/{later.json()['request_id']}")).json()
    assert result["status"] == "failed"
    assert result["error"] == answer.json()["detail"]
    engine.release()
    if end != "failure":
        assert (await ending).status_code == 200


async def test_an_unknown_request_id_is_a_404(http: httpx.AsyncClient) -> None:
    for unknown in ("4f0c1a52", "%ED%A0%80", "a b"):
        answer = await http.get(f"{POC}/validate/{unknown}")
        assert answer.status_code == 404
        assert "is not known" in answer.json()["detail"]


async def test_a_full_queue_is_a_429_that_says_when_to_come_back(
    engine: Engine, honest: dict[str, Any]
) -> None:
    async with (
        running_manager(engine, Settings(max_queued_nonces=30)) as manager,
        client_of(application(manager)) as http,
    ):
        await http.post(f"{POC}/init/validate", json=small_request())
        engine.hold()
        assert (await http.post(f"{POC}/validate?wait=false", json=honest)).status_code == 202
        full = await http.post(f"{POC}/validate", json=honest)
        assert full.status_code == 429
        assert "20 nonces wait for validation; 20 more would exceed the limit of 30" in full.json()["detail"]
        assert int(full.headers["Retry-After"]) >= 1
        too_many = {**honest, "nonces": list(range(31)), "dist": [1.4] * 31}
        assert (await http.post(f"{POC}/validate", json=too_many)).status_code == 400
        engine.release()


async def test_the_verdict_also_goes_to_the_callback_with_the_fields_of_both_generations(
    http: httpx.AsyncClient, honest: dict[str, Any]
) -> None:
    async with running_receiver() as receiver:
        await http.post(f"{POC}/init/validate", json=small_request(url=f"{receiver.url}/v1/poc-batches"))
        verdict = (await http.post(f"{POC}/validate", json={**honest, "node_id": 4})).json()
        await eventually(lambda: receiver.requests)
        path, headers, body = receiver.requests[0]
        assert path == "/v1/poc-batches/validated"
        assert headers["content-type"] == "application/json"
        assert (body["node_id"], body["request_id"]) == (4, verdict["request_id"])
        assert body["received_dist"] == body["received_distances"] == honest["dist"]
        assert body["dist"] == body["computed_distances"] == verdict["computed_distances"]
        assert (body["fraud_detected"], body["n_invalid"], body["probability_honest"]) == (False, 0, 1.0)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [("nonces", 5, "a list"), ("numerics", [], "an object"), ("public_key", 7, "text")],
)
async def test_types_are_named_as_json_has_them(
    validating: httpx.AsyncClient, honest: dict[str, Any], field: str, value: object, allowed: str
) -> None:
    answer = await validating.post(f"{POC}/validate", json={**honest, field: value})
    assert answer.status_code == 400
    assert answer.json()["detail"] == f"{field}: {value!r} is not allowed; allowed: {allowed}"
