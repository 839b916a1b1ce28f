"""What verdicts show of a prover over time: kept with them, each nonce once, whatever happens in between."""

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from builders import KEY
from fastapi.testclient import TestClient
from judged import make_verdict
from store_databases import broken_inserts

from hallmark.poc.core.errors import DatabaseError
from hallmark.poc.verdict.prover_record import ProverRecord, Reason, ScoredBatch
from hallmark.server.receiver import records as receiver_records
from hallmark.server.receiver import sqlite_database
from hallmark.server.receiver.app import create_app
from hallmark.server.receiver.database import Address
from hallmark.server.receiver.store import BatchStore


def body(block: int, nonces: Iterable[int] = range(16), noise: float = 1.0, **changes: Any) -> dict[str, Any]:
    """A verdict about a prover with so much noise, in sigmas, on nonces of a block."""
    return make_verdict(nonces, noise, seed=block, **{"block_hash": f"block {block}", **changes})


def in_one_go(bodies: Iterable[dict[str, Any]]) -> ProverRecord:
    """The record of bodies that repeat nothing, without a store."""
    record = ProverRecord(public_key=KEY)
    for each in bodies:
        batch = ScoredBatch.of_body(each)
        record = record.after(batch, batch.ratios, opens_round=True)
    return record


def records(database: Address) -> list[ProverRecord]:
    with closing(BatchStore(database)) as store:
        return store.provers()


CHEATING = [body(block, noise=1.5) for block in range(24)]


def test_a_cheater_that_no_batch_convicts_is_convicted_over_time(database: Address) -> None:
    with TestClient(create_app(database)) as client:
        for block, each in enumerate(CHEATING):
            assert each["verdict"] == "honest"
            client.post("/validated", json=each).raise_for_status()
            client.post("/validated", json=body(block, noise=0.9, public_key="honest")).raise_for_status()
        cheater, honest = client.get("/provers", params={"fraud_threshold": 1e-7}).json()
        assert (cheater["public_key"], honest["public_key"]) == (KEY, "honest")
        assert (cheater["rounds"], cheater["batches"], cheater["nonces"]) == (24, 24, 384)
        assert (cheater["fraud_detected"], honest["fraud_detected"]) == (True, False)
        assert cheater["p_value"] < 1e-7 < 0.01 < honest["p_value"]
        assert client.get("/provers", params={"public_key": KEY, "fraud_threshold": 1e-200}).json() == [
            {**cheater, "fraud_threshold": 1e-200, "fraud_detected": False}
        ]
        assert client.get("/provers", params={"after": KEY, "limit": 1}).json()[0]["public_key"] == "honest"
        assert client.get("/provers").json()[1]["fraud_threshold"] == 0.01
        wrong = client.get("/provers", params={"fraud_threshold": "nan"})
        assert wrong.status_code == 400
        assert wrong.json()["detail"].startswith("fraud_threshold: 'nan'")


def test_a_restart_after_each_verdict_changes_nothing(database: Address) -> None:
    for each in CHEATING[:6]:
        with closing(BatchStore(database)) as store:
            store.add("validated", each, None)
    assert records(database) == [in_one_go(CHEATING[:6])]


def test_what_is_delivered_twice_counts_once(database: Address) -> None:
    with TestClient(create_app(database)) as client:
        for each in (CHEATING[0], CHEATING[1], CHEATING[0]):
            client.post("/validated", json=each).raise_for_status()
        client.post("/validated", json=CHEATING[0], headers={"webhook-id": "msg_1"}).raise_for_status()
    assert records(database) == [in_one_go(CHEATING[:2])]


def test_a_nonce_counts_once_however_many_verdicts_have_it(database: Address) -> None:
    """By another request, with others, for another height; not for another block or key."""
    again = {**CHEATING[0], "request_id": "another request"}
    with closing(BatchStore(database)) as store:
        store.add("validated", CHEATING[0], None)
        store.add("validated", again, None)
        store.add("validated", {**body(0, range(8, 24)), "block_height": 8}, None)
        [record] = store.provers()
        assert (record.rounds, record.batches, record.evidence.nonces) == (1, 3, 24)
        assert record.uncounted == {Reason.REPEATED: 24}
        store.add("validated", body(1), None)
        store.add("validated", body(0, public_key="other"), None)
        mine, other = store.provers()
    assert (mine.rounds, mine.evidence.nonces) == (2, 40)
    assert (other.rounds, other.evidence.nonces) == (1, 16)


def test_what_does_not_count_is_named(database: Address) -> None:
    with closing(BatchStore(database)) as store:
        store.add("validated", body(0, distance_tolerance=None, honest_sigma=None), None)
        store.add("generated", CHEATING[0], None)
        [record] = store.provers()
    assert (record.rounds, record.batches, record.evidence.nonces) == (0, 1, 0)
    assert record.uncounted == {Reason.NO_SIGMA: 16}


def test_a_tolerance_that_cannot_be_is_refused_and_nothing_is_kept(database: Address) -> None:
    with TestClient(create_app(database)) as client:
        answer = client.post("/validated", json={**CHEATING[0], "tolerance": -1.0})
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith("tolerance: -1.0 is not allowed")
        assert client.get("/provers").json() == client.get("/batches").json() == []


@pytest.mark.parametrize("table", ["provers", "counted_rounds", "counted_nonces"])
def test_a_record_that_cannot_be_written_leaves_no_verdict_either(database: Address, table: str) -> None:
    with closing(BatchStore(database)) as store:
        store.add("validated", CHEATING[0], None)
        with broken_inserts(database, table), pytest.raises(DatabaseError, match="broken"):
            store.add("validated", CHEATING[1], "msg_1")
        assert store.provers() == [in_one_go(CHEATING[:1])]
        _, duplicate = store.add("validated", CHEATING[1], "msg_1")
        assert not duplicate, "as its sender does again"
        assert store.provers() == [in_one_go(CHEATING[:2])]


def test_after_a_kill_the_record_is_that_of_the_verdicts_that_are_there(
    database: Address, tmp_path: Path
) -> None:
    bodies = tmp_path / "bodies.json"
    bodies.write_text(json.dumps(CHEATING))
    code = (
        "import json, pathlib, sys\n"
        "from hallmark.server.receiver.store import BatchStore\n"
        "from hallmark.server.receiver.database import address\n"
        "store = BatchStore(address(sys.argv[1]))\n"
        "for body in json.loads(pathlib.Path(sys.argv[2]).read_text()):\n"
        "    store.add('validated', body, None)\n"
        "    print('added', flush=True)\n"
    )
    command = [sys.executable, "-P", "-c", code, str(database), str(bodies)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(5):
            assert process.stdout.readline() == "added\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    with closing(BatchStore(database)) as store:
        kept = len(store.find())
        assert 5 <= kept <= len(CHEATING)
        assert store.provers() == [in_one_go(CHEATING[:kept])]
        for each in CHEATING:
            store.add("validated", each, None)
        assert store.provers() == [in_one_go(CHEATING)]


def test_the_verdicts_of_an_older_file_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that are no longer allowed are left out, and named."""
    path = tmp_path / "receiver.db"
    older = sqlite3.connect(path)
    with closing(older):
        older.executescript(sqlite_database._VERSION_1)
        stored = [("generated", CHEATING[0]), *(("validated", each) for each in CHEATING[:5])]
        stored.insert(3, ("validated", {**CHEATING[9], "honest_sigma": "a tenth"}))
        for number, (kind, each) in enumerate(stored):
            older.execute(
                "INSERT INTO batches (kind, content, received_at, public_key, block_hash, block_height,"
                " node_id, n_nonces, body) VALUES (?, ?, 1.0, ?, ?, 7, 0, 16, ?)",
                (kind, str(number), each["public_key"], each["block_hash"], json.dumps(each)),
            )
        older.execute(f"PRAGMA application_id = {sqlite_database.SCHEMA.application_id}")
        older.execute("PRAGMA user_version = 1")
        older.commit()

    class Killed(BaseException):
        pass

    real, left = receiver_records.continue_record, [2]

    def killed(*arguments: Any) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(receiver_records, "continue_record", killed)
        with pytest.raises(Killed):
            BatchStore(path)
    for _ in range(2):
        assert records(path) == [in_one_go(CHEATING[:5])]
    [warning] = caplog.messages
    assert warning.startswith("Verdict 4 is in no prover's record: honest_sigma: 'a tenth' is not allowed")
    with closing(BatchStore(path)) as store:
        assert len(store.find()) == 7
