"""A whole round on a real server: found, delivered, validated, and forgeries caught."""

import math
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from node import BATCH_SIZE, Node, Receiver, proof, round_request, running_node
from prometheus_client.parser import text_string_to_metric_families
from scipy import stats

from hallmark.poc.protocol.law import distance_std, r_target_for

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

HIDDEN_SIZE = 256
S = distance_std(HIDDEN_SIZE)


def claim(nonces: list[int], distance: float = 1.0) -> dict[str, list[Any]]:
    return {"nonces": nonces, "dist": [distance] * len(nonces)}


def computed(node: Node, round_: dict[str, Any], nonces: list[int], **fields: Any) -> list[float]:
    """The node's own distances of some nonces, asked for by claiming wrong ones."""
    answer = node.poc("/validate", proof(round_, **claim(nonces), **fields))
    distances: list[float] = answer["computed_distances"]
    return distances


def generate(node: Node, receiver: Receiver, round_: dict[str, Any], least: int) -> list[Any]:
    """Generate until at least so many valid nonces are found; returns what reached the receiver."""
    node.poc("/init/generate", {**round_, "callback_url": receiver.url})
    node.wait_for(lambda status: status["total_valid"] >= least)
    node.poc("/stop")
    total = node.status()["total_valid"]

    def of_this_round(bodies: list[Any]) -> list[Any]:
        return [body for body in bodies if body["block_hash"] == round_["block_hash"]]

    bodies = receiver.wait_for(
        "generated", lambda found: sum(len(body["nonces"]) for body in of_this_round(found)) >= total
    )
    return of_this_round(bodies)


@pytest.mark.both_dtypes
def test_a_round_is_found_delivered_and_validated_while_chat_is_answered(
    node: Node, receiver: Receiver
) -> None:
    """Specification 6.2: inference allowed during VALIDATING state, validation produces correct distances."""
    # At the default threshold the density test may convict an honest batch once in some hundreds.
    round_ = round_request(valid_rate=0.5, node_id=1, node_count=3, fraud_threshold=1e-7)
    node.poc("/init/generate", {**round_, "callback_url": receiver.url})
    assert node.status()["state"] == "GENERATING"
    refused = node.chat()
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert "PoC generation is active" in refused.json()["error"]["message"]
    for path in ("/v1/models", "/health", "/metrics"):
        assert node.http.get(path).status_code == 200
    node.wait_for(lambda status: status["total_valid"] >= 200)

    node.poc("/phase/validate")
    assert node.status()["state"] == "VALIDATING"
    # The batch that was in flight counts too, once it is done.
    batches = receiver.wait_for(
        "generated", lambda found: sum(len(b["nonces"]) for b in found) == node.status()["total_valid"]
    )
    nonces = [nonce for batch in batches for nonce in batch["nonces"]]
    assert len(nonces) == len(set(nonces))
    assert all(nonce % 3 == 1 for nonce in nonces), "nonces of another node"
    assert all(d < r_target_for(0.5, HIDDEN_SIZE) for batch in batches for d in batch["dist"])

    with ThreadPoolExecutor() as pool:
        for batch in batches:
            answer = pool.submit(node.poc, "/validate", batch)
            chat = node.chat()
            assert chat.status_code == 200
            assert chat.json()["choices"][0]["message"]["content"] is not None
            assert answer.result()["fraud_detected"] is False
            assert answer.result()["tests"]["nonces"] == answer.result()["tests"]["rms"] == 1.0
            assert answer.result()["tests"].keys() == {"nonces", "rms", "beyond", "signed_mean", "density"}
            assert answer.result()["numbers"] == batch["encoding"]["k_dim"]
            assert answer.result()["n_invalid"] == 0
            assert answer.result()["computed_distances"] == batch["dist"], "one server agrees with itself"

    verdicts = receiver.wait_for("validated", lambda found: len(found) == len(batches))
    for verdict, batch in zip(verdicts, batches, strict=True):
        assert verdict["nonces"] == batch["nonces"]
        assert verdict["dist"] == verdict["computed_distances"] == batch["dist"]
        assert verdict["received_dist"] == verdict["received_distances"] == batch["dist"]
        assert verdict["fraud_detected"] is False


@pytest.mark.both_dtypes
def test_forgeries_are_caught_each_with_its_p_value(node: Node, receiver: Receiver) -> None:
    round_ = round_request(valid_rate=0.5, fraud_threshold=1e-7)
    honest = generate(node, receiver, round_, 60)[0]
    other_block = round_request(block_hash="another block", valid_rate=0.5, fraud_threshold=1e-7)
    relabelled = generate(node, receiver, other_block, 60)[0]
    assert relabelled["block_hash"] == "another block"

    r_target = r_target_for(0.5, HIDDEN_SIZE)
    without_vectors = {name: honest[name] for name in honest.keys() - {"vectors", "encoding"}}
    forgeries = {
        "fabricated": {
            **without_vectors,
            "dist": [r_target - 0.001 * (1 + i % 7) for i in range(len(honest["dist"]))],
        },
        "shifted by one standard deviation": {**without_vectors, "dist": [d - S for d in honest["dist"]]},
        "another node's key": {**honest, "public_key": "03ffee"},
        "another block, relabelled": {**relabelled, "block_hash": round_["block_hash"]},
    }
    node.poc("/init/validate", round_)
    assert node.poc("/validate", honest)["fraud_detected"] is False
    apart = {**honest, "dist": [d - S for d in honest["dist"]]}
    assert "its vector's first number" in str(node.poc("/validate", apart, status=400))
    for name, forgery in forgeries.items():
        forgery.pop("covered", None)
        answer = node.poc("/validate", forgery)
        assert answer["fraud_detected"] is True, name
        assert answer["probability_honest"] < 1e-7, name
        assert answer["numbers"] == (honest["encoding"]["k_dim"] if "vectors" in forgery else 1)
        honest_share = 0.02 if answer["numbers"] == 1 else 5e-4
        expected = stats.binomtest(
            answer["n_invalid"], len(forgery["nonces"]), honest_share, "greater"
        ).pvalue
        assert math.isclose(answer["tests"]["nonces"], expected, rel_tol=1e-9), name
        assert "nonces" in answer["spoke"], name
        assert answer["probability_honest"] == len(answer["tests"]) * min(answer["tests"].values()), name


@pytest.mark.parametrize("block", ["block a", "block b", "0xC0FFEE"])
def test_the_valid_rate_follows_the_closed_form(node: Node, block: str) -> None:
    """At least 2,000 nonces lie within the law's binomial interval, on the real model.

    It holds all but one draw in ten million: which nonces are in depends on when the round is stopped.
    """
    rate = 0.25
    node.poc("/init/generate", round_request(block_hash=block, valid_rate=rate, seq_len=16))
    node.wait_for(lambda status: status["total_checked"] >= 2_000)
    node.poc("/stop")
    status = node.status()
    low, high = stats.binom.interval(1 - 1e-7, status["total_checked"], rate)
    assert low <= status["total_valid"] <= high


@pytest.mark.both_dtypes
def test_a_distance_does_not_depend_on_its_batch_mates(node: Node) -> None:
    round_ = round_request()
    node.poc("/init/validate", round_)
    nonces = list(range(100, 100 + BATCH_SIZE))
    together = dict(zip(nonces, computed(node, round_, nonces), strict=True))
    backwards = dict(zip(nonces[::-1], computed(node, round_, nonces[::-1]), strict=True))
    assert together == backwards
    for nonce in nonces[::7]:
        assert computed(node, round_, [nonce]) == [together[nonce]]


@pytest.mark.slow
@pytest.mark.both_dtypes
def test_distances_are_the_same_after_a_restart(
    node: Node, dtype: str, small_model: Path, tmp_path: Path
) -> None:
    """Specification 6.1: determinism, same seed, same projection, in another process."""
    round_, nonces = round_request(), list(range(40))
    node.poc("/init/validate", round_)
    before = computed(node, round_, nonces)
    with running_node(small_model, tmp_path / "again.log", "--enforce-eager", dtype=dtype) as again:
        again.poc("/init/validate", round_)
        assert computed(again, round_, nonces) == before
        shut_down_in_the_middle_of_a_batch(again, round_)
    lines = (tmp_path / "again.log").read_text().splitlines()
    # vLLM's own is of the completion that was running when the engine ended.
    assert [line for line in lines if "Traceback" in line and "[async_llm.py:" not in line] == []


def shut_down_in_the_middle_of_a_batch(node: Node, round_: dict[str, Any]) -> None:
    """Beside a completion, so that the batch is sliced; the server ends by itself, and in order."""
    many = list(range(5_000))
    node.poc("/validate?wait=false", proof(round_, **claim(many)), status=202)
    prompt = {"model": node.model, "prompt": "on and on", "max_tokens": 2_000, "ignore_eos": True}
    with node.http.stream("POST", "/v1/completions", json={**prompt, "stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
        before = node.status()["validation"]["slices_concurrent_with_inference"]
        node.wait_for(lambda status: status["validation"]["slices_concurrent_with_inference"] > before)
        os.kill(node.process.pid, signal.SIGTERM)
    assert node.process.wait(60) == 0


@pytest.mark.both_dtypes
def test_projection_and_its_absence_give_other_distances(node: Node) -> None:
    """Specification 6.1: backward compatibility, an optional flag; memory overhead is reported."""
    nonces = list(range(8))
    distances = []
    for use_random_projection in (True, False):
        round_ = round_request(use_random_projection=use_random_projection)
        node.poc("/init/validate", round_)
        distances.append(computed(node, round_, nonces))
        projection = node.status()["projection"]
        held = 2 * HIDDEN_SIZE**2 * 2 if use_random_projection else 0
        assert projection["bytes"] == held
        assert projection["enabled"] is use_random_projection
    assert all(a != b for a, b in zip(*distances, strict=True))


@pytest.mark.both_dtypes
def test_inference_is_not_touched(node: Node) -> None:
    """No byte of inference's KV cache changes, guard values hold, greedy completions are identical."""
    prompts = ["The proof of the pudding", "In the beginning", "1, 2, 3, 4"]
    before = [node.complete(prompt) for prompt in prompts]
    assert all(result["private"] for result in node.probe("scratch_is_private"))
    node.probe("fill_guards")
    cache = node.probe("cache_checksum")
    round_ = round_request(valid_rate=0.5, seq_len=256)
    node.poc("/init/generate", round_)
    node.wait_for(lambda status: status["total_checked"] >= 3 * BATCH_SIZE)
    node.poc("/stop")
    node.poc("/init/validate", round_)
    computed(node, round_, list(range(2 * BATCH_SIZE)))
    assert node.probe("cache_checksum") == cache
    assert all(result == {"hold": True, "used": True} for result in node.probe("guards_hold"))

    assert [node.complete(prompt) for prompt in prompts] == before


def test_the_start_measures_what_a_batch_takes(node: Node) -> None:
    """Of which `engine_timeout` has to be a multiple."""
    assert node.process.log is not None
    log = node.process.log.read_text(errors="replace")
    found = re.search(r"at the peak of a batch, which takes ([0-9.e-]+) s", log)
    assert found is not None
    assert 0 < float(found[1]) < 120 / 1.5


@pytest.mark.both_dtypes
def test_every_nonce_of_a_broken_model_is_reported_as_failed(node: Node, receiver: Receiver) -> None:
    """Nothing is dropped in silence: there is no verdict, and generation counts no valid nonce."""
    round_ = round_request()
    node.probe("poison")
    try:
        node.poc("/init/validate", round_)
        answer = node.poc("/validate", proof(round_, **claim(list(range(10)))))
        assert answer["failed_nonces"] == list(range(10))
        assert answer["fraud_detected"] is False
        assert answer["verdict"] == "no_verdict"
        node.poc("/init/generate", {**round_, "callback_url": receiver.url})
        status = node.wait_for(lambda status: status["total_checked"] >= BATCH_SIZE)
        assert status["total_valid"] == 0
        assert status["total_failed"] == status["total_checked"]
        node.poc("/stop")
        batches = receiver.wait_for("generated", bool)
        assert batches[0]["nonces"] == []
        assert batches[0]["failed_nonces"][:BATCH_SIZE] == list(range(BATCH_SIZE))
    finally:
        node.probe("cure")
    node.poc("/init/validate", round_)
    assert node.poc("/validate", proof(round_, **claim([1])))["failed_nonces"] == []


def test_a_round_that_dies_stops_with_its_reason_and_gives_the_chat_back(node: Node) -> None:
    """The engine fails in the middle of a round, on every rank: the gate opens again by itself."""
    round_ = round_request()
    node.poc("/init/validate", round_)
    node.probe("forget_round")
    node.poc("/phase/generate")
    status = node.wait_for(lambda status: status["state"] == "STOPPED")
    assert "no PoC round is open" in status["reason"]
    assert node.chat().status_code == 200
    # And the next round starts as if nothing had been.
    node.poc("/init/generate", round_)
    node.wait_for(lambda status: status["total_checked"] > 0)


@pytest.mark.both_dtypes
def test_the_status_names_the_numerics_and_the_batch_shape(node: Node, dtype: str) -> None:
    node.poc("/init/validate", round_request(batch_size=100))
    status = node.status()
    assert status["config"]["batch_size"] == BATCH_SIZE, "lowered to what fits, and reported"
    numerics = status["numerics"]
    assert numerics["vllm"].startswith("0.")
    assert numerics["forward"] == "eager"
    assert numerics["kernels"] == "reference"
    assert numerics["embedding"] == "PoC's"
    assert numerics["final_norm"].startswith("PoC's, rounding ")
    assert (numerics["dtype"], numerics["tensor_parallel_size"]) == (dtype, 1)
    assert (numerics["batch_size"], numerics["seq_len"]) == (BATCH_SIZE, 32)


@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
def test_vllms_metrics_have_ours_and_agree_with_the_status(node: Node, path: str) -> None:
    """vLLM answers the one path in a thread, the other on the event loop."""
    round_ = round_request()
    node.poc("/init/validate", round_)
    computed(node, round_, list(range(40)))
    scraped = node.http.get(path)
    status = node.status()
    assert scraped.status_code == 200
    families = list(text_string_to_metric_families(scraped.text))
    assert any(family.name.startswith("vllm:") for family in families)
    ours = {
        " ".join((sample.name.removeprefix("hallmark_"), *sample.labels.values())): sample.value
        for family in families
        if family.name.startswith("hallmark_")
        for sample in family.samples
    }
    validation = status["validation"]
    assert status["state"] == "VALIDATING"
    assert (ours["state VALIDATING"], ours["state GENERATING"], ours["gate_closed"], ours["stuck"]) == (
        1,
        0,
        0,
        0,
    )
    assert ours["round_batches_total"] == status["batches"]["computed"] >= 2
    assert ours["round_slices_total"] == validation["slices"] >= 2
    assert ours["validation_checked_nonces_total"] == validation["checked_nonces"] >= 40
    assert ours["validation_completed_jobs_total"] == validation["completed_jobs"] >= 1
    assert ours["share_allowed_ratio"] == validation["share"]
    assert ours["layer_seconds"] == validation["layer_ms"] / 1e3 > 0
    assert ours["max_stall_met"] == validation["max_stall_is_met"]


@pytest.mark.both_dtypes
def test_a_batch_of_other_settings_is_refused_not_judged(node: Node, receiver: Receiver) -> None:
    """Another length or dtype gives other distances, which is nobody's fraud."""
    batch = generate(node, receiver, round_request(), BATCH_SIZE)[0]
    node.poc("/init/validate", round_request(seq_len=64))
    assert "seq_len" in node.poc("/validate", batch, status=409)["detail"]
    node.poc("/init/validate", round_request())
    other = {**batch, "numerics": {**batch["numerics"], "dtype": "float16"}}
    assert "float16" in node.poc("/validate", other, status=409)["detail"]
    assert node.poc("/validate", batch)["fraud_detected"] is False
