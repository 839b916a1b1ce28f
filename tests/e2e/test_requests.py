"""What clients send to a real server: those that exist already, and those that err."""

import http.client
import json
from typing import Any

import pytest
from node import Node, Receiver, proof, round_request
from original_client import TOY_MODEL

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


def send_as_go_does(node: Node, path: str, body: Any) -> tuple[int, bytes]:
    """POST without a Content-Type, as the original client's helper does."""
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=60)
    try:
        data = json.dumps(body).encode()
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_the_original_client_starts_validates_and_stops(node: Node, receiver: Receiver) -> None:
    """The original Go client: no Content-Type, `url`, toy-model `params`, large integers, batch_size 100."""
    assert node.get("/api/v1/state")["state"] == "INFERENCE"
    request = {
        "block_hash": "8F2A0C",
        "block_height": 2**53,
        "public_key": "02" + "ab" * 32,
        "batch_size": 100,
        "r_target": 1.4013564660458173,
        "fraud_threshold": 1e-7,
        "params": TOY_MODEL,
        "node_id": 3,
        "node_count": 7,
        "url": receiver.url,
    }
    status, body = send_as_go_does(node, "/api/v1/pow/init/generate", request)
    assert status == 200, body
    assert node.get("/api/v1/state")["state"] == "POW"
    running = node.status()
    assert running["status"] == "GENERATING"
    assert running["is_model_initialized"] is True
    assert running["config"]["batch_size"] == 32
    assert running["config"]["seq_len"] == 256
    node.wait_for(lambda status: status["total_valid"] >= 40)

    status, body = send_as_go_does(node, "/api/v1/pow/init/validate", request)
    assert status == 200, body
    assert node.status()["state"] == "VALIDATING"
    assert node.status()["total_valid"] >= 40, "the same request only turns the phase"
    found = receiver.wait_for("generated", bool)[0]
    assert found["node_id"] == 3
    assert found["block_height"] == 2**53

    joined = {key: found[key] for key in ("public_key", "block_hash", "block_height", "nonces", "dist")}
    status, body = send_as_go_does(node, "/api/v1/pow/validate", {**joined, "node_id": 0})
    assert status == 200, body
    assert json.loads(body)["fraud_detected"] is False
    verdict = receiver.wait_for("validated", bool)[0]
    for field in ("dist", "received_dist", "r_target", "fraud_threshold", "n_invalid", "probability_honest"):
        assert field in verdict
    assert verdict["node_id"] >= 0
    status, body = send_as_go_does(node, "/api/v1/stop", {})
    assert status == 200
    assert node.get("/api/v1/state")["state"] == "INFERENCE"


def test_the_client_of_the_first_vllm_generation(node: Node, receiver: Receiver) -> None:
    """G1: `callback_url`, the experiment flags, the synchronous verdict, the counters in the status."""
    request = {
        "block_hash": "g1 block",
        "block_height": 100,
        "public_key": "g1 key",
        "r_target": 1.45,
        # At the default threshold chance may convict an honest batch once in some hundreds.
        "fraud_threshold": 1e-7,
        "node_id": 0,
        "node_count": 1,
        "seq_len": 64,
        "callback_url": receiver.url,
        "use_layer_hooks": True,
        "use_sign_flips": False,
    }
    answer = node.poc("/init/generate", request)
    assert answer["pow_status"]["state"] == "GENERATING"
    assert answer["pow_status"]["r_target"] == 1.45
    status = node.wait_for(lambda status: status["total_valid"] >= 20)
    assert len(status["valid_nonces"]) == len(status["valid_distances"])
    assert status["rate_per_second"] > 0
    assert status["elapsed_seconds"] > 0
    node.poc("/phase/validate")
    found = receiver.wait_for("generated", bool)[0]
    verdict = node.poc("/validate", {k: v for k, v in found.items() if k != "r_target"})
    assert verdict["status"] == "OK"
    assert verdict["computed_distances"] == found["dist"]
    assert verdict["fraud_detected"] is False


def test_a_target_of_ten_lets_every_nonce_count(node: Node) -> None:
    node.poc("/init/generate", round_request(r_target=10))
    status = node.wait_for(lambda status: status["total_checked"] >= 32)
    assert status["total_valid"] == status["total_checked"]


BAD_ROUNDS = [
    ({"block_hash": None}, 400, ["block_hash"]),
    ({"block_hash": 7}, 400, ["block_hash", "7"]),
    ({"block_hash": "\ud800"}, 400, ["block_hash", "surrogate"]),
    ({"public_key": "key\udfff"}, 400, ["public_key", "surrogate"]),
    ({"block_height": 2**63}, 400, ["block_height", str(2**63)]),
    ({"block_height": -1}, 400, ["block_height", "-1"]),
    ({"block_height": 1.5}, 400, ["block_height", "1.5"]),
    ({"node_id": None}, 400, ["node_id"]),
    ({"node_id": 2**63}, 400, ["node_id", str(2**63)]),
    ({"node_count": 0}, 400, ["node_count", "0"]),
    ({"group_id": 1}, 400, ["group_id", "1"]),
    ({"r_target": float("nan")}, 400, ["r_target"]),
    ({"r_target": float("inf")}, 400, ["r_target"]),
    ({"r_target": -1}, 400, ["r_target", "-1"]),
    ({"r_target": 1.4, "valid_rate": 0.9}, 400, ["r_target", "1.4", "valid_rate", "0.9"]),
    ({"valid_rate": 0}, 400, ["valid_rate", "0"]),
    ({"valid_rate": 1.1}, 400, ["valid_rate", "1.1"]),
    ({"fraud_threshold": 2}, 400, ["fraud_threshold", "2"]),
    ({"seq_len": 4096}, 400, ["seq_len", "4096", "2048"]),
    ({"seq_len": 0}, 400, ["seq_len", "0"]),
    ({"batch_size": 0}, 400, ["batch_size", "0"]),
    ({"input_scale": 0.3}, 400, ["input_scale", "0.3", "power of two"]),
    ({"projection_scale": -0.01}, 400, ["projection_scale", "-0.01"]),
    ({"callback_url": "ftp://somewhere"}, 400, ["callback_url", "ftp"]),
    ({"callback_url": "http://user:secret@somewhere"}, 400, ["callback_url"]),
    ({"model": "unknown/model"}, 409, ["unknown/model", "demo"]),
    ({"use_random_projection": "yes"}, 400, ["use_random_projection", "yes"]),
]


@pytest.mark.parametrize(("fields", "status", "words"), BAD_ROUNDS, ids=lambda value: str(value)[:40])
def test_a_bad_round_is_refused_with_field_and_value(
    node: Node, fields: dict[str, Any], status: int, words: list[str]
) -> None:
    body = json.dumps({**round_request(), **fields})
    response = node.http.post("/api/v1/pow/init/generate", content=body)
    assert response.status_code == status, response.text
    detail = response.json()["detail"]
    for word in words:
        assert word in detail
    assert "secret" not in detail
    assert node.status()["state"] != "GENERATING"


BAD_BATCHES = [
    ({"dist": [float("nan")] * 3}, 400, ["dist"]),
    ({"dist": [1.0, float("inf"), 1.0]}, 400, ["dist"]),
    ({"dist": [1.0, 2.5, 1.0]}, 400, ["dist", "2.5"]),
    ({"dist": [1.0, -0.1, 1.0]}, 400, ["dist", "-0.1"]),
    ({"dist": [1.0, 1.0]}, 400, ["dist", "nonces"]),
    ({"nonces": [1, 2, -3]}, 400, ["nonces", "-3"]),
    ({"nonces": [1, 2, 2**63]}, 400, ["nonces", str(2**63)]),
    ({"nonces": [1, 2, 3.5]}, 400, ["nonces", "3.5"]),
    ({"nonces": [1, 2, True]}, 400, ["nonces"]),
    ({"nonces": [], "dist": []}, 400, ["nonces"]),
    ({"nonces": "1,2,3"}, 400, ["nonces"]),
    ({"block_hash": "another block"}, 409, ["another block", "00000000000000000001f8a2c5d3"]),
    ({"public_key": "\ud800"}, 400, ["public_key", "surrogate"]),
    ({"public_key": None}, 400, ["public_key"]),
    ({"covered": [0, 1]}, 400, ["covered"]),
]


@pytest.mark.parametrize(("fields", "status", "words"), BAD_BATCHES, ids=lambda value: str(value)[:40])
def test_a_bad_batch_is_refused_with_field_and_value(
    node: Node, fields: dict[str, Any], status: int, words: list[str]
) -> None:
    round_ = round_request()
    node.poc("/init/validate", round_)
    body = json.dumps({**proof(round_, [1, 2, 3], [1.0, 1.0, 1.0]), **fields})
    response = node.http.post("/api/v1/pow/validate", content=body)
    assert response.status_code == status, response.text
    for word in words:
        assert word in response.json()["detail"]


def test_a_nonce_that_is_claimed_twice_is_judged_once_by_its_worst_claim(node: Node) -> None:
    round_ = round_request()
    node.poc("/init/validate", round_)
    honest = node.poc("/validate", proof(round_, [5, 6], [1.0, 1.0]))["computed_distances"]
    answer = node.poc("/validate", proof(round_, [5, 6, 5, 5], [*honest, honest[0], honest[0]]))
    assert (answer["n_duplicates"], answer["n_invalid"]) == (2, 0)
    answer = node.poc("/validate", proof(round_, [5, 6, 5], [*honest, 2.0]))
    assert (answer["n_duplicates"], answer["n_invalid"]) == (1, 1)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"{" * 100_000])
def test_what_is_not_a_json_object_is_refused(node: Node, body: bytes) -> None:
    for path in ("/init", "/init/generate", "/init/validate", "/validate"):
        response = node.http.post(f"/api/v1/pow{path}", content=body)
        assert response.status_code == 400, response.text
        assert "body" in response.json()["detail"]


def test_a_huge_body_is_refused_before_it_is_read(node: Node) -> None:
    response = node.http.post("/api/v1/pow/validate", content=b" " * (9 * 2**20))
    assert response.status_code == 413
    assert str(8 * 2**20) in response.json()["detail"]


def test_every_route_is_in_the_openapi_document_with_an_example(node: Node) -> None:
    paths = node.get("/openapi.json")["paths"]
    ours = {
        (method, path) for path, methods in paths.items() if path.startswith("/api/v1/") for method in methods
    }
    prefix = "/api/v1/pow"
    assert {
        ("post", f"{prefix}/init"),
        ("post", f"{prefix}/init/generate"),
        ("post", f"{prefix}/init/validate"),
        ("post", f"{prefix}/phase/generate"),
        ("post", f"{prefix}/phase/validate"),
        ("post", f"{prefix}/validate"),
        ("get", f"{prefix}/validate/{{request_id}}"),
        ("get", f"{prefix}/status"),
        ("post", f"{prefix}/stop"),
        ("get", f"{prefix}/versions"),
        ("get", "/api/v1/state"),
        ("post", "/api/v1/stop"),
    } <= ours
    for method, path in ours:
        assert "example" in json.dumps(paths[path][method]), path


def test_versions_name_what_runs(node: Node) -> None:
    versions = node.get("/api/v1/pow/versions")
    assert versions["protocol"] == "hallmark/2"
    assert versions["poc_validation_inference"] is True
    assert all(versions[name] for name in ("hallmark_version", "vllm_version", "torch_version"))
