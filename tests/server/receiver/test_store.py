"""The receiver's file: whose it is, which version it has, and what is said where it cannot be used."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from builders import make_body
from command_line import Cli
from fastapi.testclient import TestClient
from older_files import written_by_734b105
from store_databases import broken_inserts

from hallmark.poc.core.errors import DatabaseError
from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.server.receiver import sqlite_database
from hallmark.server.receiver.app import create_app
from hallmark.server.receiver.database import Address
from hallmark.server.receiver.store import BatchStore

BATCH = make_body([0, 1], [1.41, 1.39])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with one batch."""
    path = tmp_path / "new" / "receiver.db"
    with closing(BatchStore(path)) as store:
        store.add("generated", BATCH, "msg_1")
    return path


def refusal(path: Path) -> str:
    """What is said about a file that is refused, and left as it is."""
    before = path.read_bytes()
    with pytest.raises(DatabaseError) as error:
        BatchStore(path)
    assert path.read_bytes() == before
    return str(error.value)


def test_it_is_nobody_elses(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_newer_ones_is_left_alone(path: Path, cli: Cli) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 5")
    expected = (
        f"the store of batches {path} was written by a newer Hallmark: its schema is 5, this one knows those "
        "up to 4"
    )
    assert refusal(path) == expected
    result = cli("receiver", "--database", path, "--port", 0)
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        f"hallmark: --database: '{path}' is not allowed; allowed: a path for a SQLite file ({expected})\n"
    )


def test_the_batches_of_one_that_knew_no_versions_are_listed(tmp_path: Path) -> None:
    path = written_by_734b105("receiver.db", tmp_path)
    for _ in range(2):
        with TestClient(create_app(path)) as client:
            listed = client.get("/batches").json()
            assert [(b["id"], b["kind"], b["webhook_id"], b["deliveries"]) for b in listed] == [
                (1, "generated", "msg_1", 1),
                (2, "generated", "msg_2", 2),
                (3, "validated", None, 1),
            ]
            assert client.get("/batches/2").json()["body"] == {**BATCH, "nonces": [2, 9]}
            assert client.get("/stats").json() == {
                "generated": {"batches": 2, "nonces": 3, "duplicates": 1},
                "validated": {"batches": 1, "nonces": 2, "duplicates": 0},
            }
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (4,)
    with TestClient(create_app(path)) as client:
        repeated = {**BATCH, "nonces": [1, 9]}
        assert client.post("/generated", json=repeated).json() == {"id": 1, "duplicate": True}
        assert client.post("/generated", json=BATCH).json() == {"id": 4, "duplicate": False}


def test_an_older_ones_content_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = sqlite_database.SCHEMA
    later = "ALTER TABLE batches ADD COLUMN note TEXT NOT NULL DEFAULT 'none'"
    monkeypatch.setattr(sqlite_database, "SCHEMA", replace(known, migrations=(*known.migrations, later)))
    for _ in range(2):
        with closing(BatchStore(path)) as store:
            found = store.get(1)
            assert found is not None
            assert found["body"] == BATCH
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT note FROM batches").fetchall() == [("none",)]
        assert database.execute("PRAGMA user_version").fetchone() == (5,)


def test_another_kind_of_database_is_left_alone(tmp_path: Path) -> None:
    outbox, other = tmp_path / "outbox.db", tmp_path / "other.db"
    OutboxDatabase(outbox).close()
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE bookmarks (url TEXT)")
    for path in (outbox, other):
        assert refusal(path) == f"{path} is a database, but no store of batches of Hallmark's"


def test_what_cannot_be_kept_is_not_acknowledged_and_is_to_be_sent_again(database: Address) -> None:
    with TestClient(create_app(database)) as client:
        assert client.post("/generated", json=BATCH).json() == {"id": 1, "duplicate": False}
        with broken_inserts(database, "batches"):
            answer = client.post("/generated", json={**BATCH, "node_id": 1})
            assert answer.status_code == 503
            assert answer.json() == {"detail": "the batch could not be written; the receiver's log says why"}
            assert client.post("/generated", json=BATCH).json() == {"id": 1, "duplicate": True}
