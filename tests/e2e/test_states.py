"""Every state transition on a real server, repeated calls and stops at any time included."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from node import Node, proof, round_request

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


def state(node: Node) -> str:
    """The state, with what is derived from it in step."""
    status = node.status()
    assert (node.chat().status_code == 503) is (status["state"] == "GENERATING")
    ready = node.http.get("/ready")
    assert (ready.status_code == 503) is (status["state"] == "GENERATING")
    assert ready.json() == {"state": status["state"]}, "ours, and not a route that vLLM came to have"
    assert [node.http.get(path).status_code for path in ("/", "/health")] == [404, 200]
    assert node.http.get("/v1/completions").status_code == 405
    assert node.get("/api/v1/state")["state"] == (
        "POW" if status["state"] in ("GENERATING", "VALIDATING") else "INFERENCE"
    )
    text: str = status["state"]
    return text


def test_init_sets_a_round_and_starts_nothing(node: Node) -> None:
    answer = node.poc("/init", round_request())
    assert answer["status"] == "OK"
    assert state(node) == "IDLE"
    assert node.status()["total_checked"] == 0
    node.poc("/phase/generate")
    assert state(node) == "GENERATING"


def test_phases_switch_back_and_forth_and_the_walk_goes_on(node: Node) -> None:
    node.poc("/init/generate", round_request(node_id=2, node_count=5))
    node.wait_for(lambda status: status["total_checked"] >= 64)
    node.poc("/phase/validate")
    assert state(node) == "VALIDATING"
    node.poc("/phase/validate")
    assert state(node) == "VALIDATING"
    time.sleep(1.0)  # the batch in flight is counted, and none after it
    paused = node.status()["total_checked"]
    time.sleep(1.0)
    assert node.status()["total_checked"] == paused
    node.poc("/phase/generate")
    assert state(node) == "GENERATING"
    node.wait_for(lambda status: status["total_checked"] >= paused + 64)
    node.poc("/stop")
    assert state(node) == "STOPPED"
    seen = node.status()["valid_nonces"]
    walk = [2 + 5 * k for k in range(node.status()["total_checked"])]
    assert seen == walk[-len(seen) :], "no nonce twice, none left out"


def test_the_same_request_again_changes_nothing(node: Node) -> None:
    round_ = round_request()
    node.poc("/init/generate", round_)
    before = node.wait_for(lambda status: status["total_checked"] > 0)
    node.poc("/init/generate", round_)
    assert node.status()["total_checked"] >= before["total_checked"], "the counters were not reset"


def test_another_request_while_generating_replaces_the_round(node: Node) -> None:
    node.poc("/init/generate", round_request())
    node.wait_for(lambda status: status["total_checked"] > 0)
    node.poc("/init/generate", round_request(block_hash="the next block"))
    status = node.status()
    assert status["state"] == "GENERATING"
    assert status["config"]["block_hash"] == "the next block"


def test_init_and_init_validate_while_generating_open_the_gate(node: Node) -> None:
    for path, expected in (("/init", "IDLE"), ("/init/validate", "VALIDATING")):
        node.poc("/init/generate", round_request())
        assert state(node) == "GENERATING"
        node.poc(path, round_request(block_hash=f"for {path}"))
        assert state(node) == expected


def test_stop_is_prompt_and_may_come_at_any_time(node: Node) -> None:
    """Before a round, twice, right after a start, in the middle of a batch."""
    for _ in range(2):
        answer = node.poc("/stop")
        assert answer["pow_status"]["state"] == answer["pow_status"]["status"] == "STOPPED"
    for delay in (0.0, 0.02, 0.1, 0.3):
        node.poc("/init/generate", round_request())
        time.sleep(delay)
        node.poc("/stop")
        assert state(node) == "STOPPED"
    assert node.post("/api/v1/stop")["status"] == "OK"


def test_a_round_for_another_model_does_not_start_and_the_state_stays(node: Node) -> None:
    node.poc("/init/validate", round_request())
    answer = node.poc("/init/generate", round_request(model="another"), status=409)
    assert "another" in answer["detail"]
    assert "demo" in answer["detail"]
    assert state(node) == "VALIDATING"


def test_phases_without_a_round_are_refused(node: Node) -> None:
    node.poc("/stop")
    for path in ("/phase/generate", "/phase/validate"):
        assert "STOPPED" in node.poc(path, status=409)["detail"]
    assert "STOPPED" in node.poc("/validate", proof(round_request(), [1], [1.0]), status=409)["detail"]


def test_a_batch_that_comes_while_generating_waits_for_the_phase(node: Node) -> None:
    round_ = round_request()
    node.poc("/init/generate", round_)
    batch = proof(round_, [1, 2, 3], [1.0, 1.0, 1.0])
    queued = node.poc("/validate", batch, status=202)
    assert "GENERATING" in node.poc("/validate?wait=true", batch, status=409)["detail"]
    assert node.get(f"/api/v1/pow/validate/{queued['request_id']}")["status"] == "queued"
    node.poc("/phase/validate")
    deadline = time.monotonic() + 60
    while (result := node.get(f"/api/v1/pow/validate/{queued['request_id']}"))["status"] != "completed":
        assert time.monotonic() < deadline, result
        time.sleep(0.1)
    assert result["fraud_detected"] is True
    assert node.http.get("/api/v1/pow/validate/unknown").status_code == 404


def test_a_batch_that_waits_when_the_round_stops_is_told_so(node: Node) -> None:
    round_ = round_request(seq_len=256)
    node.poc("/init/validate", round_)
    many = list(range(3_000))
    answers: list[Any] = []

    def validate() -> None:
        answers.append(node.http.post("/api/v1/pow/validate", json=proof(round_, many, [1.0] * len(many))))

    waiting = threading.Thread(target=validate)
    waiting.start()
    node.wait_for(lambda status: status["validation"]["queued_jobs"] == 1)
    node.poc("/stop")
    waiting.join(60)
    assert answers[0].status_code == 409
    assert "has ended" in answers[0].json()["detail"]


def test_callers_that_contradict_each_other_leave_one_consistent_round(node: Node) -> None:
    """Specification 6.2: no race conditions or deadlocks, with several clients at once."""
    calls = [
        ("/init/generate", round_request(block_hash="a")),
        ("/init/validate", round_request(block_hash="b")),
        ("/phase/validate", None),
        ("/phase/generate", None),
        ("/init", round_request(block_hash="c")),
        ("/stop", None),
    ]

    def call(number: int) -> int:
        path, body = calls[number % len(calls)]
        return node.http.post(f"/api/v1/pow{path}", json=body).status_code

    with ThreadPoolExecutor(6) as pool:
        codes = list(pool.map(call, range(60)))
    assert set(codes) <= {200, 409}, codes
    assert state(node) in ("IDLE", "GENERATING", "VALIDATING", "STOPPED")
    node.poc("/init/generate", round_request(block_hash="last"))
    node.wait_for(lambda status: status["total_checked"] > 0)
