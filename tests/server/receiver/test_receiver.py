"""The receiver on a real server: strict about what it takes, and never losing what it acknowledged."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from builders import BATCH
from command_line import Cli

from hallmark.poc.settings.secret_sources import WEBHOOK_SECRETS_VARIABLE
from hallmark.poc.webhooks.signature import generate_secret, parse_secret, signature
from hallmark.server.processes.child import ChildProcess, free_port
from hallmark.server.receiver.database import Address

VERDICT: dict[str, Any] = {
    **BATCH,
    "received_dist": [1.41, 1.39, 1.4],
    "r_target": 2.0,
    "fraud_threshold": 0.01,
    "n_invalid": 0,
    "probability_honest": 1.0,
    "fraud_detected": False,
}

Start = Callable[..., tuple[ChildProcess, httpx.Client]]


@pytest.fixture
def start(tmp_path: Path, database: Address) -> Iterator[Start]:
    """Starts a receiver on one and the same database, as often as it is called, with secrets or options."""
    with starter(tmp_path, database) as start:
        yield start


@pytest.fixture
def client(start: Start) -> httpx.Client:
    """A client of a receiver of its own."""
    return start()[1]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of one receiver for all the tests that leave nothing in it."""
    folder = tmp_path_factory.mktemp("receiver")
    with starter(folder, folder / "receiver.db") as start:
        _, client = start()
        yield client
        assert client.get("/stats").json() == stats((0, 0, 0))


@contextmanager
def starter(directory: Path, database: Address) -> Iterator[Start]:
    started: list[tuple[ChildProcess, httpx.Client]] = []

    def once(*options: str, secrets: Sequence[str] = ()) -> tuple[ChildProcess, httpx.Client]:
        port = free_port()
        command = [sys.executable, "-P", "-m", "hallmark.server", "receiver", *options]
        command += ["--database", str(database), "--port", str(port)]
        environment = {WEBHOOK_SECRETS_VARIABLE: " ".join(secrets)} if secrets else {}
        process = ChildProcess("the receiver", command, log=directory / "log", environment=environment)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        started.append((process, client))
        process.wait_until(lambda: answers(client), seconds=60)
        return process, client

    yield once
    for process, client in started:
        client.close()
        process.terminate()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/stats").status_code == 200
    except httpx.TransportError:
        return False


def stats(generated: tuple[int, int, int], validated: tuple[int, int, int] = (0, 0, 0)) -> dict[str, Any]:
    names = ("batches", "nonces", "duplicates")
    return {
        "generated": dict(zip(names, generated, strict=True)),
        "validated": dict(zip(names, validated, strict=True)),
    }


def test_a_batch_comes_back_as_it_was_sent(client: httpx.Client) -> None:
    before = time.time()
    extended = {**BATCH, "numerics": {"dtype": "bfloat16"}, "covered": [0, 5], "unknown": [{"x": "é"}]}
    answer = client.post("/generated", json=extended, headers={"webhook-id": "msg_1"})
    assert answer.json() == {"id": 1, "duplicate": False}
    stored = client.get("/batches/1").json()
    assert stored["body"] == extended
    assert stored["webhook_id"] == "msg_1"
    assert before <= stored["received_at"] <= time.time()
    [summary] = client.get("/batches").json()
    assert summary == {name: value for name, value in stored.items() if name != "body"}
    assert (summary["kind"], summary["n_nonces"], summary["node_id"]) == ("generated", 3, 0)


@pytest.mark.parametrize(("given", "kept"), [("round-1", "round-1"), ("no id", None), ("a" * 65, None)])
def test_a_batch_keeps_the_request_that_it_comes_of(
    client: httpx.Client, given: str, kept: str | None
) -> None:
    client.post("/generated", json=BATCH, headers={"X-Request-Id": given}).raise_for_status()
    [summary] = client.get("/batches").json()
    assert summary["request_id"] == client.get("/batches/1").json()["request_id"] == kept


def test_a_body_without_a_content_type_is_read_as_json(client: httpx.Client) -> None:
    request = client.build_request("POST", "/generated", content=json.dumps(BATCH))
    assert "content-type" not in request.headers
    assert client.send(request).status_code == 200


def test_deliveries_repeat_and_batches_do_not(client: httpx.Client) -> None:
    first = client.post("/generated", json=BATCH, headers={"webhook-id": "msg_1"}).json()
    same_id = client.post("/generated", json=BATCH, headers={"webhook-id": "msg_1"}).json()
    same_content = client.post("/generated", json=BATCH, headers={"webhook-id": "msg_2"}).json()
    without_id = client.post("/generated", json=dict(reversed(BATCH.items()))).json()
    assert first == {"id": 1, "duplicate": False}
    assert same_id == same_content == without_id == {"id": 1, "duplicate": True}
    assert client.get("/stats").json() == stats((1, 3, 3))


def test_the_same_content_as_a_verdict_is_another_thing(client: httpx.Client) -> None:
    assert client.post("/validated", json=VERDICT).json() == {"id": 1, "duplicate": False}
    assert client.post("/generated", json=VERDICT).json() == {"id": 2, "duplicate": False}
    assert client.get("/stats").json() == stats((1, 3, 0), (1, 3, 0))


def test_a_webhook_id_belongs_to_one_batch(client: httpx.Client) -> None:
    client.post("/generated", json=BATCH, headers={"webhook-id": "msg_1"})
    answer = client.post("/generated", json={**BATCH, "node_id": 1}, headers={"webhook-id": "msg_1"})
    assert answer.status_code == 409
    assert answer.json() == {"detail": "webhook-id 'msg_1' was used for another batch, 1"}
    assert client.get("/stats").json() == stats((1, 3, 0))


def test_listing_filters_and_pages(client: httpx.Client) -> None:
    for key, block in (("a", "x"), ("a", "y"), ("b", "x")):
        client.post("/generated", json={**BATCH, "public_key": key, "block_hash": block})
    client.post("/validated", json={**VERDICT, "public_key": "a", "block_hash": "x"})

    def ids(**query: str | int) -> list[int]:
        return [row["id"] for row in client.get("/batches", params=query).json()]

    assert ids() == [1, 2, 3, 4]
    assert ids(public_key="a") == [1, 2, 4]
    assert ids(public_key="a", block_hash="x") == [1, 4]
    assert ids(kind="validated") == [4]
    assert ids(limit=2) == [1, 2]
    assert ids(limit=2, after=2) == [3, 4]
    assert client.get("/stats", params={"public_key": "b"}).json() == stats((1, 3, 0))


def test_a_nonce_counts_once_for_its_block_and_key(client: httpx.Client) -> None:
    client.post("/generated", json=BATCH)
    client.post("/generated", json={**BATCH, "nonces": [2, 3, 3]})
    assert client.get("/stats").json() == stats((2, 4, 0))
    client.post("/generated", json={**BATCH, "block_hash": "another block"})
    client.post("/generated", json={**BATCH, "public_key": "another key"})
    client.post("/validated", json=VERDICT)
    assert client.get("/stats").json() == stats((4, 10, 0), (1, 3, 0))
    assert client.get("/stats", params={"public_key": "another key"}).json() == stats((1, 3, 0))


@pytest.mark.parametrize(
    ("query", "problem"),
    [("limit=0", "limit: '0'"), ("kind=other", "kind: 'other'"), ("after=x", "after: 'x'")],
)
def test_wrong_queries_are_named(shared: httpx.Client, query: str, problem: str) -> None:
    answer = shared.get(f"/batches?{query}")
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(problem)


@pytest.mark.parametrize("identifier", [1, 0, -1, 2**63, -(2**63) - 1, -(10**20)])
def test_an_unknown_batch_is_404(shared: httpx.Client, identifier: int) -> None:
    answer = shared.get(f"/batches/{identifier}")
    assert answer.status_code == 404
    assert answer.json() == {"detail": f"no batch has the id {identifier}"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"node_id": -2}, "node_id: -2 is not allowed; allowed: an integer from 0"),
        ({"nonce": 1}, "nonce: 1 is not allowed; allowed: no such field; 'nonces', if that was meant"),
        ({"nonces": [0, 1]}, "dist: '3 values' is not allowed; allowed: one for each of the 2 nonces"),
        ({"nonces": [0, 1, 2.0]}, "nonces[2]: 2.0 is not allowed"),
        ({"nonces": [0, 1, True]}, "nonces[2]: True is not allowed"),
        ({"nonces": [], "dist": []}, "nonces: [] is not allowed; allowed: at least one"),
        ({"dist": [1.0, 1.0, 2.5]}, "dist[2]: 2.5 is not allowed; allowed: a finite number from 0 to 2"),
        ({"dist": "1.0"}, "dist: '1.0' is not allowed; allowed: a list"),
        ({"public_key": ""}, "public_key: '' is not allowed"),
        ({"block_height": 2**63}, f"block_height: {2**63} is not allowed"),
    ],
)
def test_wrong_fields_are_named(shared: httpx.Client, change: dict[str, Any], problem: str) -> None:
    answer = shared.post("/generated", json={**BATCH, **change})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(problem)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"received_dist": None}, "received_dist: None is not allowed; allowed: a value"),
        ({"received_dist": [1.0]}, "received_dist: '1 values' is not allowed"),
        ({"received_dist": [1.0, 1.0, None]}, "received_dist[2]: None is not allowed"),
        ({"dist": [1.0, 1.0, -1]}, "dist[2]: -1 is not allowed"),
        ({"n_invalid": 4}, "n_invalid: 4 is not allowed; allowed: an integer from 0 to 3"),
        ({"fraud_detected": ...}, "fraud_detected: None is not allowed"),
        ({"fraud_detected": None}, "fraud_detected: None is not allowed"),
        ({"failed_nonces": [0]}, "failed_nonces: [0] is not allowed"),
        ({"fraud_detected": 0}, "fraud_detected: 0 is not allowed; allowed: true or false"),
        ({"probability_honest": 1.5}, "probability_honest: 1.5 is not allowed"),
        ({"r_target": None}, "r_target: None is not allowed"),
    ],
)
def test_wrong_fields_of_a_verdict_are_named(
    shared: httpx.Client, change: dict[str, Any], problem: str
) -> None:
    verdict = {name: value for name, value in {**VERDICT, **change}.items() if value is not ...}
    answer = shared.post("/validated", json=verdict)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(problem)


def test_nonces_that_could_not_be_recomputed_may_be_all_there_is(client: httpx.Client) -> None:
    nothing = {"nonces": [], "dist": [], "received_dist": [], "failed_nonces": [0, 1, 2]}
    verdict = {**VERDICT, **nothing}
    assert client.post("/validated", json=verdict).status_code == 200
    assert client.get("/batches/1").json()["body"] == verdict


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_not_json_is_400(shared: httpx.Client, body: bytes) -> None:
    answer = shared.post("/generated", content=body)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("body: ")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (
            b'{"dist": [NaN]}',
            "dist[0]: nan is not allowed; allowed: a finite number, since JSON has no others",
        ),
        (b'{"nonces": [1], "nonces": [2]}', "nonces: 'several values' is not allowed; allowed: one value"),
        (
            rb'{"\ud800a": NaN}',
            r"\ud800a: nan is not allowed; allowed: a finite number, since JSON has no others",
        ),
    ],
)
def test_what_other_parsers_read_otherwise_is_refused(
    shared: httpx.Client, body: bytes, problem: str
) -> None:
    answer = shared.post("/generated", content=body)
    assert answer.status_code == 400
    assert answer.json()["detail"] == problem


@pytest.mark.parametrize("node_id", [-1, None])
def test_a_prover_that_states_no_node_is_node_0(client: httpx.Client, node_id: int | None) -> None:
    assert client.post("/generated", json={**BATCH, "node_id": node_id}).status_code == 200
    assert client.get("/batches/1").json()["body"] == {**BATCH, "node_id": 0}


@pytest.mark.parametrize("value", ["1e999", "-1e999", r'"\ud800"', r'{"\udfff": 1}'])
def test_what_could_not_be_read_again_is_400(shared: httpx.Client, value: str) -> None:
    body = json.dumps(BATCH)[:-1] + f', "unknown": {value}}}'
    answer = shared.post("/generated", content=body)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("body: ")


def test_what_is_not_an_object_is_400(shared: httpx.Client) -> None:
    for path in ("/generated", "/validated"):
        answer = shared.post(path, json=[BATCH])
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith("body: [{'public_key'")


def test_a_body_without_end_is_413(shared: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(65):
            yield b" " * 2**20

    answer = shared.post("/generated", content=chunks())
    assert answer.status_code == 413
    assert answer.json() == {"detail": f"the body is longer than {64 * 2**20} bytes"}


def test_what_was_acknowledged_survives_a_kill(start: Start) -> None:
    """Batches are sent until the receiver dies; a new one on the same file has every acknowledged one."""
    process, client = start()
    acknowledged: list[int] = []
    for nonce in range(1000):
        if nonce == 40:
            os.kill(process.pid, signal.SIGKILL)
        try:
            client.post("/generated", json={**BATCH, "nonces": [nonce, 10_000, 10_001]}).raise_for_status()
        except httpx.TransportError:
            break
        acknowledged.append(nonce)
    assert process.wait(60) == -signal.SIGKILL
    assert len(acknowledged) >= 40

    _, again = start()
    kept = [again.get(f"/batches/{row['id']}").json()["body"]["nonces"][0]
            for row in again.get("/batches", params={"limit": 1000}).json()]  # fmt: skip
    assert kept[: len(acknowledged)] == acknowledged
    assert again.post("/generated", json={**BATCH, "nonces": [0, 10_000, 10_001]}).json()["duplicate"] is True


class TestSignatures:
    """With secrets, only what is signed is taken; whatever is refused leaves nothing behind."""

    OLD, NEW = generate_secret(), generate_secret()

    @staticmethod
    def post(
        client: httpx.Client,
        *secrets: str,
        batch: dict[str, Any] = BATCH,
        webhook_id: str = "msg_1",
        age: int = 0,
        path: str = "/generated",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """A delivery as a server makes it, signed with the secrets `age` seconds ago."""
        body = json.dumps(batch).encode()
        timestamp = int(time.time()) - age
        signed = {"webhook-id": webhook_id, "webhook-timestamp": str(timestamp)}
        if secrets:
            keys = [parse_secret(secret) for secret in secrets]
            signed["webhook-signature"] = signature(keys, webhook_id, timestamp, body)
        return client.post(path, content=body, headers={**signed, **(headers or {})})

    def test_signed_unsigned_and_wrongly_signed(self, start: Start) -> None:
        process, client = start(secrets=[self.OLD])
        refused = {
            "the header webhook-signature is missing": self.post(client),
            "the header webhook-id is missing": client.post("/generated", json=BATCH),
            "the header webhook-signature has no signature that fits the body and a known secret": self.post(
                client, self.NEW
            ),
            "the header webhook-timestamp is not a number of seconds since the epoch": self.post(
                client, self.OLD, headers={"webhook-timestamp": "now"}
            ),
        }
        for sentence, answer in refused.items():
            assert (answer.status_code, answer.json()) == (401, {"detail": sentence})
        for age, sentence in ((400, "too old: it was signed 4"), (-400, "in the future")):
            answer = self.post(client, self.OLD, age=age)
            assert answer.status_code == 401
            assert sentence in answer.json()["detail"]
        # Which of two ids would count is decided nowhere, so neither may.
        signed = self.post(client, self.NEW).request
        twice = [*signed.headers.multi_items(), ("webhook-id", "msg_2")]
        answer = client.post("/generated", content=signed.content, headers=twice)
        assert answer.json() == {"detail": "the header webhook-id is there 2 times"}
        # What is not signed is not looked into: no word on what else is wrong with it.
        assert self.post(client, self.NEW, batch={"nonces": "x"}).status_code == 401
        assert self.post(client, path="/validated", batch=VERDICT).status_code == 401
        assert client.get("/stats").json() == stats((0, 0, 0))

        assert self.post(client, self.OLD).json() == {"id": 1, "duplicate": False}
        verdict = self.post(client, self.OLD, path="/validated", batch=VERDICT, webhook_id="msg_2")
        assert verdict.json() == {"id": 2, "duplicate": False}
        wrong = self.post(client, self.OLD, batch={**BATCH, "node_id": -2}, webhook_id="msg_3")
        assert wrong.status_code == 400
        assert client.get("/stats").json() == stats((1, 3, 0), (1, 3, 0))
        log = process.log_tail(1000)
        assert "Callbacks are taken where they are signed with the secret." in log
        assert self.OLD not in log
        assert self.OLD.removeprefix("whsec_") not in log

    def test_a_replay_is_a_duplicate_while_it_is_new_and_then_refused(self, start: Start) -> None:
        _, client = start(secrets=[self.OLD])
        request = self.post(client, self.OLD, age=290).request
        assert client.send(request).json() == {"id": 1, "duplicate": True}, "a lost answer, say"
        deadline = time.monotonic() + 30
        while (answer := client.send(request)).status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert answer.status_code == 401
        assert "too old" in answer.json()["detail"]
        # The sender's own retry, with a timestamp of its own, is a duplicate however late it is.
        assert self.post(client, self.OLD).json() == {"id": 1, "duplicate": True}
        # Neither another id nor another body can be given to what was signed.
        for name, value in (("webhook-id", "msg_2"), ("webhook-timestamp", str(int(time.time()) - 1))):
            changed = httpx.Request("POST", request.url, content=request.content, headers=request.headers)
            changed.headers[name] = value
            assert client.send(changed).status_code == 401
        assert client.get("/stats").json()["generated"]["batches"] == 1

    def test_a_secret_is_replaced_without_a_gap_and_a_kill_after_the_answer_loses_nothing(
        self, start: Start, tmp_path: Path
    ) -> None:
        """Both are known until the server has the new one only."""
        file = tmp_path / "secrets"
        file.write_text(f"{self.OLD}\n\n{self.NEW}\n")
        process, client = start("--secrets-file", str(file))
        for number, secrets in enumerate([(self.OLD,), (self.OLD, self.NEW), (self.NEW,)]):
            batch = {**BATCH, "nonces": [number, 100, 101]}
            answer = self.post(client, *secrets, batch=batch, webhook_id=f"msg_{number}")
            assert answer.json() == {"id": number + 1, "duplicate": False}
        process.kill()

        file.write_text(self.NEW)
        _, client = start("--secrets-file", str(file))
        kept = [(row["id"], row["webhook_id"]) for row in client.get("/batches").json()]
        assert kept == [(1, "msg_0"), (2, "msg_1"), (3, "msg_2")]
        assert client.get("/batches/3").json()["body"] == {**BATCH, "nonces": [2, 100, 101]}
        for number, secrets in enumerate([(self.OLD,), (self.OLD, self.NEW), (self.NEW,)]):
            batch = {**BATCH, "nonces": [number, 100, 101]}
            answer = self.post(client, *secrets, batch=batch, webhook_id=f"msg_{number}")
            assert answer.status_code == (200 if self.NEW in secrets else 401)
        # An id still belongs to what was acknowledged under it.
        assert self.post(client, self.NEW, webhook_id="msg_1").status_code == 409
        assert client.get("/stats").json() == stats((3, 5, 2))

    def test_without_secrets_everything_is_taken_and_it_says_so(self, start: Start) -> None:
        process, client = start()
        for secrets in ((), (self.OLD,)):
            assert self.post(client, *secrets, age=10_000).status_code == 200
        assert "signed or not: no secret is set." in process.log_tail(1000)

    @pytest.mark.parametrize(
        "content",
        ["", " \n", "secret", OLD[:30], f"{OLD} {NEW} whsec_AAAA"],
        ids=["nothing", "blank", "no secret", "half of one", "three"],
    )
    def test_secrets_that_are_none_end_it_with_a_sentence(
        self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
    ) -> None:
        file = tmp_path / "secrets"
        file.write_text(content)
        by_file = cli("receiver", "--secrets-file", file, "--port", 0, "--database", tmp_path / "db")
        monkeypatch.setenv(WEBHOOK_SECRETS_VARIABLE, content)
        by_variable = cli("receiver", "--port", 0, "--database", tmp_path / "db")
        for result, name in ((by_file, "--secrets-file"), (by_variable, WEBHOOK_SECRETS_VARIABLE)):
            assert result.code == 2
            assert result.err.startswith(f"hallmark: {name}: ")
            assert len(result.err.splitlines()) == 1
            assert not any(word in result.err for word in content.split() if word != "secret")
        assert not (tmp_path / "db").exists()

    def test_a_file_that_is_not_there_ends_it_with_a_sentence(self, cli: Cli, tmp_path: Path) -> None:
        options = ("--secrets-file", tmp_path / "missing", "--database", tmp_path / "db", "--port", 0)
        result = cli("receiver", *options)
        assert result.code == 2
        assert result.err.startswith("hallmark: --secrets-file: ")
        assert [*tmp_path.iterdir()] == []

    def test_a_command_makes_one(self, cli: Cli) -> None:
        results = [cli("secret"), cli("secret")]
        assert [result.code for result in results] == [0, 0]
        assert results[0].out != results[1].out
        assert len(parse_secret(results[0].out.removesuffix("\n"))) == 32


def test_sigterm_ends_it_cleanly(start: Start) -> None:
    process, client = start()
    client.post("/generated", json=BATCH)
    client.close()
    assert process.terminate() in (0, -signal.SIGTERM)
    assert "Traceback" not in process.log_tail(1000)


def test_a_path_that_keeps_no_database_is_a_sentence(cli: Cli, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no database, and longer than the header of one, so that nobody takes it for empty" * 9)
    for path in (tmp_path, text, Path("/proc/receiver.db")):
        result = cli("receiver", "--database", path, "--port", 0)
        assert result.code == 2
        expected = f"hallmark: --database: '{path}' is not allowed; allowed: a path for a SQLite file ("
        assert result.err.startswith(expected)
        assert len(result.err.splitlines()) == 1
    assert text.read_text().startswith("no database")


def test_no_folder_is_made(cli: Cli, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no folder")
    for path in (tmp_path / "new" / "folder" / "receiver.db", text / "receiver.db"):
        result = cli("receiver", "--database", path, "--port", 0)
        assert result.code == 2
        assert result.err.splitlines() == [
            f"hallmark: --database: '{path}' is not allowed; allowed: a path in a folder that is there",
            "hint: make the folder first, or choose another with --database",
        ]
    assert [*tmp_path.iterdir()] == [text]
