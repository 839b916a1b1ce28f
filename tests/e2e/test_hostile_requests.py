"""What an attacker sends to a real server: refused in a sentence, never a 5xx, and chat goes on all along.

What needs a resolver of its own (names that resolve to something else later), redirects and certificates is
in tests/poc/test_callback_transport.py.
"""

import asyncio
import json
import socket
import unicodedata
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from builders import small_request as request
from node import Node, proof, round_request
from raw_http import SMUGGLING, send_raw
from runtime import Engine, application, running_manager, serving

from hallmark.poc.settings.settings import Settings

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

POC = "/api/v1/pow"
STARTS = ("/init", "/init/generate", "/init/validate")
KEY = "s3cret-token"
ROUTES = [
    *(("POST", POC + path) for path in (*STARTS, "/phase/generate", "/phase/validate", "/validate", "/stop")),
    *(("GET", POC + path) for path in ("/validate/some-id", "/status", "/versions")),
    *(("GET", "/api/v1/state"), ("POST", "/api/v1/stop")),
]


@pytest.fixture
def attacked(node: Node) -> Iterator[Node]:
    """The server; after what was sent to it chat is answered and no round generates."""
    node.poc("/stop")
    yield node
    assert node.chat("Still there?").status_code == 200
    assert node.status()["state"] != "GENERATING"


def refused(node: Node, path: str, body: bytes | str, status: int = 400) -> str:
    """What a body is told that must not be taken."""
    if isinstance(body, str):
        body = body.encode("utf-8")
    response = node.http.post(POC + path, content=body)
    assert response.status_code == status, (response.status_code, response.text[:300])
    answer = response.json()
    assert answer.keys() == {"detail", "request_id"}
    assert answer["request_id"] == response.headers["X-Request-Id"]
    assert len(response.content) < 20_000
    return str(answer["detail"])


def with_raw(field: str, literal: str, **fields: Any) -> str:
    """A round's body in which a field has a value as it is written here."""
    body = json.dumps({**round_request(), **fields, field: "@"})
    assert body.count('"@"') == 1
    return body.replace('"@"', literal)


def test_smuggled_requests_are_refused_whole(attacked: Node) -> None:
    attacked.poc("/init", round_request())
    for name, data in SMUGGLING.items():
        answers = send_raw(attacked.url, data)
        assert answers.statuses == [400], (name, answers)
        assert attacked.status()["state"] == "IDLE", name
    huge = f"POST {POC}/init HTTP/1.1\r\nHost: node\r\nContent-Length: {10**18}\r\n\r\n".encode()
    assert send_raw(attacked.url, huge).statuses == [413]


INTEGERS = [
    *(str(2**63), str(-(2**63)), str(2**64), "1" * 400, "-" + "9" * 4000, "9" * 4301, "9" * 1_000_000),
    *("1e3", "1.0", "-1", "true", '"7"', "[7]", "1E400", "-0.5", "0x10", "07", "1_000", "٣"),
]


@pytest.mark.parametrize("field", ["block_height", "node_id", "node_count", "seq_len", "batch_size"])
def test_integers_that_are_none_or_too_large(attacked: Node, field: str) -> None:
    for literal in INTEGERS:
        if (field, literal) == ("node_id", "-1") or (field, literal) == ("node_count", "-1"):
            continue  # how the oldest clients say that there is none
        refused(attacked, "/init/generate", with_raw(field, literal))


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "nan", "1e999", "-1e999", "1" * 400])
def test_numbers_that_json_has_not_and_such_as_are_not_finite(attacked: Node, literal: str) -> None:
    for field in ("r_target", "valid_rate", "fraud_threshold", "distance_tolerance", "projection_scale"):
        refused(attacked, "/init/generate", with_raw(field, literal))
    attacked.poc("/init/validate", round_request())
    body = json.dumps(proof(round_request(), [1], [1.0])).replace("[1.0]", f"[{literal}]")
    refused(attacked, "/validate", body)


def test_shapes_that_parsers_choke_on_or_read_differently(attacked: Node) -> None:
    attacked.poc("/init/validate", round_request())
    whole = json.dumps(round_request())
    for body in (
        *("[" * 100_000, '{"a":' * 100_000, '{"a":[' * 50_000),
        *(whole[:-1], whole + whole, whole + "}", whole.replace('"', "'"), f"[{whole}]", f"\0{whole}"),
        *(whole[:-1] + ', "block_hash": "another"}', whole[:-1] + ', "x": {"a": 1, "a": 2}}'),
        *(whole[:-1] + ', "x": NaN}', whole[:-1] + ",}", f"/**/{whole}", "{" + '"\\ud800": NaN}'),
        *(whole.encode("utf-16"), whole.encode("utf-32"), b"\xff" + whole.encode(), b'{"a": "\xc0\x80"}'),
    ):
        for path in (*STARTS, "/validate"):
            refused(attacked, path, body)


def test_what_is_too_long(attacked: Node) -> None:
    round_ = round_request()
    for field in ("block_hash", "public_key", "model", "callback_url"):
        for path in STARTS:
            assert field in refused(attacked, path, json.dumps({**round_, field: "x" * 4097}))
    attacked.poc("/init/validate", round_)
    numerics = {str(number): 1 for number in range(65)}
    batch = proof(round_, [1], [1.0])
    for fields in (
        {"numerics": numerics},
        {"numerics": {"k" * 100_000: 1}},
        {"numerics": {"k" * 100_000: None}},
        {"numerics": {"\ud800": 1}},
        {"numerics": {"\ud800": None}},
        {"numerics": {"a": "x" * 5000}},
        {"covered": [0] * 100_000},
        {"nonces": list(range(100_001)), "dist": [1.0] * 100_001},
        {"nonces": [1] * 100_000},
        {"failed_nonces": [2**63]},
        {"round": "x" * 5000},
    ):
        refused(attacked, "/validate", json.dumps({**batch, **fields}))
    refused(attacked, "/validate", b" " * (8 * 2**20 + 1), 413)


TEXTS = {
    "composed": unicodedata.normalize("NFC", "block é"),
    "decomposed": unicodedata.normalize("NFD", "block é"),
    "right to left": "block \u202eforged\u202c",
    "a null": "block\0hash",
    "lines": "block\r\nSet-Cookie: a=b\r\n\r\nINFO: forged",
    "beyond the basic plane": "block \U0001f600\U000e0001",
    "markup": "<script>alert(1)</script>{{7*7}}${jndi:ldap://a}",
    "spaces": " block ",
}


def test_texts_stay_as_they_are_and_no_two_are_taken_for_one(attacked: Node) -> None:
    for text in TEXTS.values():
        round_ = round_request(block_hash=text, public_key=text)
        attacked.poc("/init/validate", round_)
        shown = attacked.status()["config"]
        assert (shown["block_hash"], shown["public_key"]) == (text, text)
        for other in TEXTS.values():
            batch = json.dumps(proof(round_request(block_hash=other), [1], [1.0], round="no"))
            told = refused(attacked, "/validate", batch, 409)
            assert ("settings" if other == text else "is about block") in told
    for field in ("block_hash", "public_key", "model"):
        for literal in ('"\\ud800"', '"a\\udfffb"', '"\\udc00\\ud800"'):
            for path in STARTS:
                refused(attacked, path, with_raw(field, literal))


def _is_quiet(status: Any) -> bool:
    return status["inference"]["connections"] == 0 and not status["inference"]["is_active"]


def test_clients_that_go_away_leave_nothing_open(attacked: Node) -> None:
    """In the middle of a chat stream, of a chat's body and of a round's."""
    chat = {
        "model": attacked.model,
        "messages": [{"role": "user", "content": "Count to a thousand."}],
        "max_tokens": 1500,
        "ignore_eos": True,
        "stream": True,
    }
    for _ in range(5):
        with attacked.http.stream("POST", "/v1/chat/completions", json=chat) as answer:
            assert answer.status_code == 200
            assert next(answer.iter_bytes())
    attacked.wait_for(_is_quiet)
    address = urlsplit(attacked.url)
    for path in ("/v1/chat/completions", *(POC + path for path in (*STARTS, "/phase/generate", "/validate"))):
        head = f"POST {path} HTTP/1.1\r\nHost: node\r\nContent-Length: 5000\r\n\r\n"
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(head.encode() + b'{"model": ')
    status = attacked.wait_for(_is_quiet)
    assert status["state"] == "STOPPED"
    assert status["validation"]["queued_jobs"] == 0


HOSTS = [
    *("169.254.169.254", "169.254.170.2", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518"),
    *("[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[::169.254.169.254]", "[64:ff9b::a9fe:a9fe]"),
    *("[2002:a9fe:a9fe::]", "[fd00:ec2::254]", "[fd20:ce::254]", "[fe80::1]", "[fe80::1%25lo]", "0", "[::]"),
    *("100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1", "255.255.255.255", "127.1", "0x7f.1"),
    *("2130706433", "user:pw@127.0.0.1", "127.0.0.1\\@a.example", "127.0.0.1%2f@a.example", "a.example%00"),
    *(
        "127.0.0.1#@a.example",
        "127.0.0.1?@a.example",
        "a..example",
        "ⓛocalhost",
        "localhost:0",
        "localhost:65536",
    ),
]


def test_callbacks_to_where_they_must_not_go(attacked: Node) -> None:
    for host in HOSTS:
        for field in ("callback_url", "url"):
            told = refused(
                attacked, "/init/validate", json.dumps(round_request(**{field: f"http://{host}/x"}))
            )
            assert told.startswith("callback_url"), (host, told)
            assert "pw" not in told
    for url in (
        "file:///etc/passwd",
        "gopher://a",
        "http:a",
        "http:///x",
        "//a",
        "http://a/\r\nX: y",
        " http://a",
    ):
        refused(attacked, "/init/generate", json.dumps(round_request(callback_url=url)))


async def test_where_a_token_is_asked_for_nothing_is_done_without_it() -> None:
    """In this process: another server on vLLM would take half a minute to start."""
    settings = Settings(api_key=KEY, callback_allowed_hosts=("receiver.example",))  # type: ignore[arg-type]
    engine = Engine()
    async with (
        running_manager(engine, settings) as manager,
        serving(application(manager)) as url,
        httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http,
    ):
        for authorization in (
            None,
            "",
            "Bearer",
            f"Bearer {KEY}x",
            f"Bearer {KEY[:-1]}",
            f"Basic {KEY}",
            KEY,
        ):
            headers = {} if authorization is None else {"Authorization": authorization}
            for method, path in ROUTES:
                for body in (json.dumps(request()), "[" * 10_000):
                    answer = await http.request(method, path, content=body, headers=headers)
                    assert answer.status_code == 401, (method, path, authorization)
                    assert KEY not in answer.text
        for data in SMUGGLING.values():
            signed = data.replace(b"Host: node", f"Host: node\r\nAuthorization: Bearer {KEY}".encode())
            assert (await asyncio.to_thread(send_raw, url, signed)).statuses == [400]
        query = await http.post(f"{POC}/stop?api_key={KEY}&authorization=Bearer%20{KEY}")
        cookie = await http.post(f"{POC}/stop", headers={"Cookie": f"Authorization=Bearer {KEY}"})
        assert (query.status_code, cookie.status_code) == (401, 401)
        assert engine.calls == []
        http.headers["Authorization"] = f"Bearer {KEY}"
        for host in (
            *HOSTS,
            "127.0.0.1",
            "localhost",
            "[::1]",
            "receiver.example.evil",
            "evilreceiver.example",
        ):
            body = json.dumps(request(callback_url=f"http://{host}/x"))
            assert (await http.post(f"{POC}/init/validate", content=body)).status_code == 400, host
        assert engine.calls == []
        taken = await http.post(f"{POC}/init", json=request(callback_url="http://RECEIVER.example.:9000/x"))
        assert taken.status_code == 200
        assert (await http.post("/v1/completions", json=[1, 2])).status_code == 200
