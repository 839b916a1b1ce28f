"""Setting, starting, switching and stopping rounds over HTTP."""

import json
import logging
from typing import Any

import httpx
import pytest
from builders import small_request
from original_client import TOY_MODEL
from runtime import POC, Engine, eventually, snapshot

from hallmark.poc.core.errors import EngineError
from hallmark.poc.specification import PoCManager

STARTS = ("/init", "/init/generate", "/init/validate")

ORIG_GO = {
    # What the Go client of the oldest generation sends, field by field.
    "block_hash": "6E71B5C3",
    "block_height": 2500,
    "public_key": "02a1633cafcc01ebfb6d78e39f687a1f0995c62fc95f51ead10a02ee0be551b5dc",
    "batch_size": 100,
    "r_target": 1.4013564660458173,
    "fraud_threshold": 1e-7,
    "params": {**TOY_MODEL, "seq_len": 16},
    "node_id": 3,
    "node_count": 7,
    "url": "http://127.0.0.1:1/v1/poc-batches",
}
G1 = {
    "block_hash": "6E71B5C3",
    "block_height": 2500,
    "public_key": "02a1",
    "r_target": 1.405,
    "node_id": 0,
    "node_count": 1,
    "batch_size": 8,
    "seq_len": 16,
    "callback_url": None,
    "use_layer_hooks": True,
    "use_sign_flips": False,
}


async def ok(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


class TestGoodRequests:
    """Every generation's request, on every route."""

    @pytest.mark.parametrize("path", STARTS)
    @pytest.mark.parametrize("body", [small_request(), ORIG_GO, G1], ids=["ours", "ORIG", "G1"])
    async def test_a_round_starts_and_the_answer_has_the_fields_of_all(
        self, http: httpx.AsyncClient, path: str, body: dict[str, Any]
    ) -> None:
        answer = await ok(await http.post(POC + path, json=body))
        assert answer["status"] == "OK"
        state = {"/init": "IDLE", "/init/generate": "GENERATING", "/init/validate": "VALIDATING"}[path]
        status = answer["pow_status"]
        assert (status["status"], status["state"], status["is_model_initialized"]) == (state, state, True)
        assert status.keys() >= {
            "valid_nonces",
            "valid_distances",
            "total_checked",
            "total_valid",
            "elapsed_seconds",
            "rate_per_second",
            "r_target",
        }

    @pytest.mark.parametrize("path", STARTS)
    @pytest.mark.parametrize(
        ("node_id", "told"),
        [(6, None), (7, "node 0, from its number 1 on"), (23, "node 2, from its number 3 on")],
    )
    async def test_the_oldest_client_may_count_its_nodes_on_and_is_told(
        self,
        http: httpx.AsyncClient,
        caplog: pytest.LogCaptureFixture,
        path: str,
        node_id: int,
        told: str | None,
    ) -> None:
        """Of seven nodes it may call one the 23rd: it numbers what it has had, and counts what it has."""
        answer = await ok(await http.post(POC + path, json={**ORIG_GO, "node_id": node_id}))
        assert answer["pow_status"]["config"]["node_id"] == node_id
        assert len(answer["warnings"]) == (0 if told is None else 1)
        if told is not None:
            (warning,) = answer["warnings"]
            assert warning.startswith(f"node_id {node_id} is not below node_count 7: ")
            assert told in warning
            assert f"{warning}\n" in f"{caplog.text}\n"

    async def test_the_oldest_clients_fields_mean_what_they_did(self, http: httpx.AsyncClient) -> None:
        status = (await ok(await http.post(f"{POC}/init/generate", json=ORIG_GO)))["pow_status"]
        config = status["config"]
        assert config["callback_url"] == ORIG_GO["url"]
        assert config["seq_len"] == 16
        assert (config["node_id"], config["node_count"]) == (3, 7)
        assert (config["batch_size"], config["requested_batch_size"]) == (100, 100)
        assert config["fraud_threshold"] == 1e-7
        assert status["r_target"] == ORIG_GO["r_target"]

    async def test_a_batch_size_of_100_is_lowered_to_what_fits_and_reported(
        self, http: httpx.AsyncClient
    ) -> None:
        body = ORIG_GO | {"params": {"seq_len": 256}}
        config = (await ok(await http.post(f"{POC}/init/generate", json=body)))["pow_status"]["config"]
        assert (config["batch_size"], config["requested_batch_size"]) == (32, 100)

    async def test_the_toy_models_seq_len_may_say_the_same(self, http: httpx.AsyncClient) -> None:
        body = small_request(seq_len=4, params={"seq_len": 4, "dim": 2048})
        status = (await ok(await http.post(f"{POC}/init", json=body)))["pow_status"]
        assert status["config"]["seq_len"] == 4

    async def test_what_nothing_knows_is_named_in_answer_and_log(
        self, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "hallmark.server.http.control")
        answer = await ok(await http.post(f"{POC}/init", json=small_request(use_sign_flips=True, seed=3)))
        assert answer["ignored_fields"] == ["use_sign_flips", "seed"]
        [line] = [record.getMessage() for record in caplog.records]
        assert line.endswith("fields that are not known are ignored: ['use_sign_flips', 'seed']")
        assert (await ok(await http.post(f"{POC}/init", json=small_request())))["ignored_fields"] == []

    async def test_an_unknown_name_without_a_utf_8_form_is_told_escaped(
        self, http: httpx.AsyncClient
    ) -> None:
        content = json.dumps(small_request() | {"\ud800": 1}).encode()
        answer = await ok(await http.post(f"{POC}/init/generate", content=content))
        assert answer["ignored_fields"] == [r"\ud800"]

    @pytest.mark.parametrize("params", [None, {}, {"dim": 2048}])
    async def test_without_a_seq_len_it_is_256(self, http: httpx.AsyncClient, params: object) -> None:
        body = small_request(params=params)
        del body["seq_len"]
        status = (await ok(await http.post(f"{POC}/init", json=body)))["pow_status"]
        assert status["config"]["seq_len"] == 256

    @pytest.mark.parametrize("r_target", [2, 2.0, 10])
    async def test_a_target_from_2_on_means_every_nonce(
        self, http: httpx.AsyncClient, r_target: float
    ) -> None:
        status = (await ok(await http.post(f"{POC}/init", json=small_request(r_target=r_target))))[
            "pow_status"
        ]
        assert (status["r_target"], status["valid_rate"]) == (2.0, 1.0)

    async def test_a_valid_rate_gives_the_target_and_the_other_way_round(
        self, http: httpx.AsyncClient
    ) -> None:
        first = (await ok(await http.post(f"{POC}/init", json=small_request(valid_rate=0.1))))["pow_status"]
        assert 1.2 < first["r_target"] < 1.4
        both = small_request(valid_rate=0.1, r_target=first["r_target"])
        second = (await ok(await http.post(f"{POC}/init", json=both)))["pow_status"]
        assert second["valid_rate"] == pytest.approx(0.1)

    async def test_callback_url_and_url_may_both_be_given_when_equal(self, http: httpx.AsyncClient) -> None:
        body = small_request(url="http://a.example", callback_url="http://a.example")
        await ok(await http.post(f"{POC}/init", json=body))

    async def test_minus_one_and_null_are_a_node_that_does_not_generate(
        self, http: httpx.AsyncClient
    ) -> None:
        for unset in (-1, None):
            body = small_request(node_id=unset, node_count=unset)
            status = (await ok(await http.post(f"{POC}/init/validate", json=body)))["pow_status"]
            assert status["config"]["node_id"] is None
            refused = await http.post(f"{POC}/init/generate", json=body)
            assert refused.status_code == 400
            assert "Node ID and node count must be set" in refused.json()["detail"]

    @pytest.mark.parametrize(
        "headers",
        [{}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}],
    )
    @pytest.mark.parametrize("path", STARTS)
    async def test_the_body_is_json_whatever_its_content_type_says(
        self, http: httpx.AsyncClient, path: str, headers: dict[str, str]
    ) -> None:
        answer = await http.post(POC + path, content=json.dumps(small_request()).encode(), headers=headers)
        await ok(answer)


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"block_hash": ""}, "block_hash: ''"),
    ({"block_hash": 12}, "block_hash: 12"),
    ({"block_hash": None}, "block_hash: None"),
    ({"block_hash": "x" * 5000}, "block_hash: 'xxx"),
    ({"block_hash": "\ud800"}, r"block_hash: '\ud800'"),
    ({"public_key": "a\udfffb"}, r"public_key: 'a\udfffb'"),
    ({"block_height": -1}, "block_height: -1"),
    ({"block_height": 2**63}, f"block_height: {2**63}"),
    ({"block_height": 10**100}, "block_height: 1000000"),
    ({"block_height": 1.0}, "block_height: 1.0"),
    ({"block_height": True}, "block_height: True"),
    ({"block_height": "7"}, "block_height: '7'"),
    ({"r_target": 0}, "r_target: 0"),
    ({"r_target": float("nan")}, "r_target: nan"),
    ({"r_target": float("inf")}, "r_target: inf"),
    ({"r_target": True}, "r_target: True"),
    ({"r_target": "1.4"}, "r_target: '1.4'"),
    ({"valid_rate": 0}, "valid_rate: 0"),
    ({"valid_rate": 1.5}, "valid_rate: 1.5"),
    ({"r_target": 1.4, "valid_rate": 0.9}, "r_target: 1.4"),
    ({"fraud_threshold": 0}, "fraud_threshold: 0"),
    ({"fraud_threshold": 1}, "fraud_threshold: 1"),
    ({"fraud_threshold": None}, "fraud_threshold: None"),
    ({"distance_tolerance": -0.1}, "distance_tolerance: -0.1"),
    ({"distance_tolerance": float("-inf")}, "distance_tolerance: -inf"),
    ({"honest_sigma": 0}, "honest_sigma: 0"),
    ({"honest_sigma": "0.1"}, "honest_sigma: '0.1'"),
    (
        {"distance_tolerance": 0.0},
        "distance_tolerance: 0.0 is not allowed; allowed: a finite number above 0, or null",
    ),
    ({"honest_kurtosis": 1}, "honest_kurtosis: 1"),
    ({"honest_kurtosis": None}, "honest_kurtosis: None"),
    ({"node_id": -2}, "node_id: -2"),
    ({"node_id": 2**64 - 1}, f"node_id: {2**64 - 1}"),
    ({"node_count": 0}, "node_count: 0"),
    ({"group_id": 1}, "group_id: 1"),
    ({"group_id": -1}, "group_id: -1"),
    ({"n_groups": 0}, "n_groups: 0"),
    ({"batch_size": 0}, "batch_size: 0"),
    ({"batch_size": 8.0}, "batch_size: 8.0"),
    ({"seq_len": 0}, "seq_len: 0"),
    ({"seq_len": 2000}, "seq_len: 2000 is not allowed; allowed: 1 to 1024"),
    ({"seq_len": None, "params": {"seq_len": 1.5}}, "params.seq_len: 1.5"),
    ({"seq_len": 8, "params": {"seq_len": 16}}, "params.seq_len: 16"),
    ({"bacth_size": 8}, "bacth_size: 8 is not allowed; allowed: no such field; 'batch_size', if that"),
    ({"callbackurl": "http://a"}, "callbackurl: 'http://a'"),
    ({"honest_sgima": 0.1}, "honest_sgima: 0.1"),
    ({"params": {"model": "org/model", "seq_len": 256}}, "params.model: 'org/model'"),
    ({"params": []}, "params: []"),
    ({"callback_url": ""}, "callback_url: ''"),
    ({"callback_url": "ftp://x"}, "callback_url: 'ftp://x'"),
    ({"url": "file:///etc/passwd"}, "callback_url: 'file:///etc/passwd'"),
    ({"url": "http://a", "callback_url": "http://b"}, "url: 'http://a'"),
    ({"use_random_projection": 1}, "use_random_projection: 1"),
    ({"use_random_projection": "true"}, "use_random_projection: 'true'"),
    ({"projection_scale": 0}, "projection_scale: 0"),
    ({"projection_scale": 1e400}, "projection_scale: inf"),
    ({"input_scale": 0.3}, "input_scale: 0.3"),
    ({"input_scale": 2.0**9}, "input_scale: 512"),
    ({"model": 1}, "model: 1"),
    ({"honest_beyond": 0}, "honest_beyond: 0"),
    ({"honest_design_effect": 0.5}, "honest_design_effect: 0.5"),
    ({"distance_tolerance": 0.35, "honest_sigma": 0.2}, "distance_tolerance: 0.35"),
    ({"vectors": "never"}, "vectors: 'never'"),
    ({"inputs": "noise"}, "inputs: 'noise'"),
    ({"readout": "mean"}, "readout: 'mean'"),
    ({"inputs": "tokens", "vocabulary": 4095}, "inputs: 'tokens'"),
    ({"readout": "rows", "vocabulary": 4095, "seq_len": 16}, "readout: 'rows'"),
    ({"inputs": "normal", "readout": "rows", "seq_len": 16}, "readout: 'rows'"),
    ({"vocabulary": 4097}, "vocabulary: 4097 is not allowed; allowed: 1 to 4096"),
    ({"readout": "rows", "seq_len": 8}, "seq_len: 8"),
    ({"readout": "rows", "seq_len": 17}, "seq_len: 17"),
    ({"numbers": 0}, "numbers: 0"),
    ({"numbers": 2}, "numbers: 2 is not allowed; allowed: 1, where the last row is read"),
    ({"numbers": 5, "seq_len": 16}, "numbers: 5 is not allowed; allowed: 1 to 4 for seq_len 16"),
    ({"first": 4096}, "first: 4096"),
    ({"first": "bos"}, "first: 'bos'"),
    ({"first": True}, "first: True"),
    ({"input_scale": 0.5}, "input_scale: 0.5 is not allowed; allowed: none for tokens"),
]


class TestBadRequests:
    """A sentence with the field, its value and what is allowed; and nothing has changed."""

    @pytest.mark.parametrize("path", STARTS)
    @pytest.mark.parametrize(("change", "expected"), BAD_FIELDS, ids=[expected for _, expected in BAD_FIELDS])
    async def test_a_wrong_field_is_named_with_its_value(
        self, http: httpx.AsyncClient, engine: Engine, path: str, change: dict[str, Any], expected: str
    ) -> None:
        answer = await http.post(POC + path, content=json.dumps(small_request(**change)).encode())
        assert answer.status_code == 400
        detail = answer.json()["detail"]
        assert detail.startswith(expected)
        assert "is not allowed; allowed: " in detail
        assert len(detail) < 1000
        assert engine.calls == []

    @pytest.mark.parametrize("missing", ["block_hash", "block_height", "public_key"])
    async def test_a_missing_field_is_named(self, http: httpx.AsyncClient, missing: str) -> None:
        body = small_request()
        del body[missing]
        answer = await http.post(f"{POC}/init", json=body)
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(f"{missing}: ")
        assert "required" in answer.json()["detail"]

    async def test_all_missing_fields_are_named_at_once(self, http: httpx.AsyncClient) -> None:
        answer = await http.post(f"{POC}/init", json={})
        assert answer.json()["detail"].startswith("block_hash, block_height, public_key: ")

    @pytest.mark.parametrize("path", [*STARTS, "/validate"])
    @pytest.mark.parametrize(
        ("content", "detail"),
        [
            (b'{"block_hash": "a", "block_hash": "b"}', "block_hash: 'several values' is not allowed"),
            (b'{"params": {"dim": 1, "dim": 1}}', "dim: 'several values' is not allowed"),
            (b'{"not known": [{"a": 1}, {"b": [1, NaN]}]}', "not known[1].b[1]: nan is not allowed"),
            (b'{"r_target": -Infinity}', "r_target: -inf is not allowed"),
            (b'{"' + b"k" * 10**6 + b'": NaN}', "k" * 200 + "\u2026: nan is not allowed"),
            (b'{"\\ud800": NaN}', "\\ud800: nan is not allowed"),
            (b'{"a": ' + b"[" * 500 + b"Infinity" + b"]" * 500 + b"}", "a[0][0]"),
            (b"NaN", "body: nan is not allowed"),
        ],
        ids=range(8),
    )
    async def test_what_other_parsers_read_otherwise_is_refused_by_its_place(
        self, http: httpx.AsyncClient, engine: Engine, path: str, content: bytes, detail: str
    ) -> None:
        answer = await http.post(POC + path, content=content)
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(detail)
        assert len(answer.content) < 1000
        assert engine.calls == []

    @pytest.mark.parametrize("path", [*STARTS, "/validate"])
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"null",
            b"[]",
            b"7",
            b'"text"',
            b"\xff\xfe",
            b'{"block_hash": "\xff"}',
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b'{"block_height": ' + b"9" * 5000 + b"}",
            b"block_hash=x&block_height=1",
        ],
        ids=range(12),
    )
    async def test_a_body_that_is_no_json_object_is_a_sentence(
        self, http: httpx.AsyncClient, path: str, content: bytes
    ) -> None:
        answer = await http.post(POC + path, content=content)
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith("body: ")
        assert "a JSON object" in answer.json()["detail"]

    async def test_another_model_is_a_409_with_both_named(self, http: httpx.AsyncClient) -> None:
        answer = await http.post(f"{POC}/init/validate", json=small_request(model="org/other"))
        assert answer.status_code == 409
        assert "'org/other'" in answer.json()["detail"]
        assert "tiny" in answer.json()["detail"]
        await ok(await http.post(f"{POC}/init/validate", json=small_request(model="tiny")))

    @pytest.mark.parametrize("path", ["/phase/generate", "/phase/validate"])
    async def test_a_phase_without_a_round_is_a_409(self, http: httpx.AsyncClient, path: str) -> None:
        answer = await http.post(POC + path)
        assert answer.status_code == 409
        assert (
            "the state is IDLE; /init, /init/generate or /init/validate sets a round"
            in answer.json()["detail"]
        )

    async def test_a_refused_request_leaves_the_running_round_alone(
        self, http: httpx.AsyncClient, manager: PoCManager
    ) -> None:
        await ok(await http.post(f"{POC}/init/generate", json=small_request()))
        for body in (
            {},
            small_request(seq_len=10**6),
            small_request(model="other"),
            small_request(block_hash=""),
        ):
            assert (await http.post(f"{POC}/init/generate", json=body)).status_code in (400, 409)
        status = (await http.get(f"{POC}/status")).json()
        assert (status["state"], status["config"]["block_hash"]) == ("GENERATING", "0x8d3f2a")

    async def test_an_engine_that_cannot_open_the_round_is_a_503_with_the_reason(
        self, http: httpx.AsyncClient, engine: Engine
    ) -> None:
        engine.fail_open = EngineError("rank 1: out of memory")
        answer = await http.post(f"{POC}/init/generate", json=small_request())
        assert answer.status_code == 503
        assert answer.json()["detail"] == "rank 1: out of memory"
        assert int(answer.headers["Retry-After"]) > 0
        status = (await http.get(f"{POC}/status")).json()
        assert (status["state"], status["reason"]) == ("STOPPED", "rank 1: out of memory")
        assert (await http.post("/v1/completions", json=[1, 2])).status_code == 200


class TestSequences:
    """What the clients do one after the other."""

    async def test_init_and_then_a_phase(self, http: httpx.AsyncClient) -> None:
        await ok(await http.post(f"{POC}/init", json=small_request()))
        answer = await ok(await http.post(f"{POC}/phase/generate"))
        assert answer["pow_status"]["state"] == "GENERATING"
        answer = await ok(await http.post(f"{POC}/phase/validate"))
        assert answer["pow_status"]["state"] == "VALIDATING"

    async def test_the_phase_switch_keeps_the_callback(self, http: httpx.AsyncClient) -> None:
        await ok(await http.post(f"{POC}/init/generate", json=small_request(url="http://127.0.0.1:1")))
        answer = await ok(await http.post(f"{POC}/phase/validate"))
        assert answer["pow_status"]["config"]["callback_url"] == "http://127.0.0.1:1"

    async def test_the_same_request_again_is_no_change(
        self, http: httpx.AsyncClient, engine: Engine, manager: PoCManager
    ) -> None:
        for _ in range(3):
            await ok(await http.post(f"{POC}/init/generate", json=small_request()))
        assert engine.calls.count("open") == 1

    async def test_a_different_request_while_generating_starts_the_new_round(
        self, http: httpx.AsyncClient, engine: Engine
    ) -> None:
        await ok(await http.post(f"{POC}/init/generate", json=small_request()))
        answer = await ok(await http.post(f"{POC}/init/generate", json=small_request(block_hash="next")))
        assert answer["pow_status"]["config"]["block_hash"] == "next"
        assert answer["pow_status"]["total_checked"] < 100
        assert engine.calls.count("open") == 2

    async def test_the_go_clients_reconciliation(self, http: httpx.AsyncClient, manager: PoCManager) -> None:
        """Start generate, start validate with the same request, start generate again: as in its source."""

        async def start(wanted: str, path: str) -> None:
            mode = (await ok(await http.get("/api/v1/state")))["state"]
            if mode == "POW" and (await ok(await http.get(f"{POC}/status")))["status"] == wanted:
                return
            if mode not in ("STOPPED", "POW") or (wanted == "GENERATING" and mode != "STOPPED"):
                await ok(await http.post("/api/v1/stop"))
            await ok(await http.post(POC + path, json=ORIG_GO))

        await start("GENERATING", "/init/generate")
        await start("GENERATING", "/init/generate")
        await eventually(lambda: snapshot(manager)["total_checked"])
        checked = snapshot(manager)["total_checked"]
        await start("VALIDATING", "/init/validate")
        assert snapshot(manager)["total_checked"] >= checked, "the same request only turns the phase"
        assert manager.state == "VALIDATING"
        await start("GENERATING", "/init/generate")
        assert manager.state == "GENERATING"

    async def test_stop_at_any_time(self, http: httpx.AsyncClient) -> None:
        for path in (None, "/init", "/init/generate", "/init/validate", None):
            if path is not None:
                await ok(await http.post(POC + path, json=small_request()))
            answer = await ok(await http.post(f"{POC}/stop"))
            assert answer["status"] == "OK"
            assert (answer["pow_status"]["status"], answer["pow_status"]["state"]) == ("STOPPED", "STOPPED")


@pytest.mark.parametrize("path", STARTS)
@pytest.mark.parametrize(
    "body",
    [
        small_request(node_id=1),
        small_request(node_id=5, node_count=5),
        {**G1, "node_id": 7},
        {**ORIG_GO, "node_id": 7, "seed": 1},
        {**ORIG_GO, "node_id": 7, "seq_len": 16},
        {key: value for key, value in {**ORIG_GO, "node_id": 7}.items() if key != "params"},
    ],
    ids=["one node", "five nodes", "G1", "a field more", "a field of ours", "a field less"],
)
async def test_a_node_does_not_walk_anothers_share(
    http: httpx.AsyncClient, manager: PoCManager, path: str, body: dict[str, Any]
) -> None:
    """Node 5 of 5 would find what node 0 finds, and both would be paid for it."""
    answer = await http.post(POC + path, json=body)
    number, count = body["node_id"], body["node_count"]
    assert answer.status_code == 400
    assert answer.json()["detail"] == (
        f"node_id: {number} is not allowed; allowed: a number below node_count, {count}: nodes count from 0"
    )
    assert manager.active is None


async def test_a_node_number_without_a_count_is_for_the_phase_to_refuse(http: httpx.AsyncClient) -> None:
    for unset in (None, -1):
        answer = await ok(await http.post(f"{POC}/init", json=small_request(node_id=9, node_count=unset)))
        assert answer["warnings"] == []
