"""Several receivers on one PostgreSQL database, which may go away, be new, old, or none at all."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from builders import BATCH, nth_body
from command_line import Cli
from fastapi.testclient import TestClient
from judged import make_verdict
from postgresql_server import PostgresServer, running
from store_databases import execute

from hallmark.poc.core.errors import DatabaseError, FieldError
from hallmark.poc.core.postgresql import without_password
from hallmark.server.receiver import postgres_database
from hallmark.server.receiver.app import create_app
from hallmark.server.receiver.store import BatchStore


@pytest.fixture
def stores(url: str) -> Iterator[list[BatchStore]]:
    """Of three receivers on one database."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(BatchStore(url))) for _ in range(3)]


def verdict(block: int, nonces: range) -> dict[str, Any]:
    return make_verdict(nonces, seed=block, block_hash=f"block {block}")


def at_once(tasks: list[Callable[[], Any]]) -> list[Any]:
    """Run tasks on as many threads, which begin together."""
    start = threading.Barrier(len(tasks))

    def run(task: Callable[[], Any]) -> Any:
        start.wait(60)
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return [*pool.map(run, tasks)]


def test_what_is_delivered_to_several_at_once_is_kept_once(stores: list[BatchStore]) -> None:
    for number in range(20):
        add = partial(BatchStore.add, kind="generated", body=nth_body(number), webhook_id=f"msg_{number}")
        answers = at_once([partial(add, store) for store in stores])
        assert len({identifier for identifier, _ in answers}) == 1
        assert sorted(duplicate for _, duplicate in answers) == [False, True, True]
    assert stores[0].stats()["generated"] == {"batches": 20, "nonces": 60, "duplicates": 40}


def test_an_id_that_several_batches_claim_at_once_belongs_to_one(url: str) -> None:
    with TestClient(create_app(url)) as client:
        post = partial(client.post, "/generated", headers={"webhook-id": "msg_1"})
        answers = at_once([partial(post, json=nth_body(number)) for number in range(4)])
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]


def test_verdicts_on_a_prover_that_come_at_once_are_all_in_its_record(stores: list[BatchStore]) -> None:
    """Of blocks apart, and of one block with nonces that overlap."""
    bodies = [verdict(block, range(16)) for block in range(6)]
    bodies += [{**verdict(99, range(8 * part, 8 * part + 16)), "request_id": str(part)} for part in range(6)]
    at_once([partial(stores[place % 3].add, "validated", body, None) for place, body in enumerate(bodies)])
    [record] = stores[0].provers()
    assert (record.rounds, record.batches, record.evidence.nonces) == (7, 12, 6 * 16 + 56)
    assert sum(record.uncounted.values()) == 5 * 8


def test_who_reads_on_misses_no_batch_that_is_committed_later(stores: list[BatchStore]) -> None:
    first, second, reader = stores
    assert reader.totals() == (0, {})
    first.add("generated", nth_body(0), None)
    with first._database.transaction() as connection:
        first.add_within(connection, "generated", nth_body(1), None)
        second.add("generated", nth_body(2), None)
        first.add_within(connection, "generated", nth_body(3), None)
        second.add("generated", nth_body(4), None)
        assert [each["id"] for each in reader.find()] == [1]
        assert reader.totals() == (1, {"generated": (1, 3)})
        assert reader.get(3) is not None, "it is acknowledged"
    assert [each["id"] for each in reader.outlines(after=1, limit=10)] == [2, 3, 4, 5]
    assert reader.totals() == (5, {"generated": (5, 15)})


def test_what_is_rolled_back_leaves_a_gap_that_nobody_waits_for(stores: list[BatchStore]) -> None:
    def fail() -> None:
        with stores[0]._database.transaction() as connection:
            stores[0].add_within(connection, "generated", nth_body(0), None)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert stores[1].add("generated", nth_body(1), None) == (2, False)
    assert [each["id"] for each in stores[2].find()] == [2]


def test_batches_that_come_while_one_reads_are_read_once_each(stores: list[BatchStore]) -> None:
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while True:
            was_done = done.is_set()
            last = seen[-1] if seen else 0
            while page := stores[2].outlines(after=last, limit=7):
                seen.extend(each["id"] for each in page)
                last = seen[-1]
            if was_done:
                return

    def write(place: int) -> None:
        for number in range(40):
            with stores[place % 2]._database.transaction() as connection:
                for part in range(2):
                    body = nth_body(1000 * place + 2 * number + part)
                    stores[place % 2].add_within(connection, "generated", body, None)

    reader = threading.Thread(target=read)
    reader.start()
    at_once([partial(write, place) for place in range(4)])
    done.set()
    reader.join()
    assert len(seen) == 320
    assert seen == sorted({*seen})


def test_a_server_that_was_gone_is_found_again(caplog: pytest.LogCaptureFixture) -> None:
    with running() as server:
        url = server.new_database()
        with TestClient(create_app(url)) as client:
            assert client.post("/generated", json=BATCH).json() == {"id": 1, "duplicate": False}
            server.stop("immediate")
            answer = client.post("/generated", json=nth_body(1))
            assert answer.status_code == 503
            assert answer.json() == {"detail": "the batch could not be written; the receiver's log says why"}
            assert client.get("/health").status_code == 503
            server.start()
            assert client.post("/generated", json=BATCH).json() == {"id": 1, "duplicate": True}
            assert client.post("/generated", json=nth_body(1)).json()["duplicate"] is False
            assert len(client.get("/batches").json()) == 2
    assert f"the store of batches {url} cannot be written" in caplog.text


@pytest.mark.parametrize("field", ["public_key", "block_hash", "webhook-id"])
@pytest.mark.parametrize("value", ["a\0key", "k" * 1025], ids=["zero", "long"])
def test_what_no_index_takes_is_refused_and_named(url: str, field: str, value: str) -> None:
    body, webhook_id = {**BATCH, field: value}, None
    if field == "webhook-id":
        body, webhook_id = BATCH, value
    with closing(BatchStore(url)) as store:
        with pytest.raises(FieldError, match=f"{field}: .* allowed: text of up to 1024 bytes"):
            store.add("generated", body, webhook_id)
        assert store.find() == []
        longest = {**BATCH, "public_key": "ü" * 512, "block_hash": "\1" * 1024}
        assert store.add("generated", {**longest, "unknown": "\0"}, "m" * 1024) == (1, False)
        found = store.get(1)
        assert found is not None
        assert found["body"] == {**longest, "unknown": "\0"}


def test_a_claim_of_fraud_among_unknown_fields_of_a_batch_is_none(url: str) -> None:
    with closing(BatchStore(url)) as store:
        store.add("generated", {**BATCH, "fraud_detected": "yes", "n_invalid": -1.5}, None)
        assert store.outlines(after=0, limit=1)[0]["fraud_detected"] is None


def test_an_empty_database_that_several_open_at_once_is_prepared_once(url: str) -> None:
    for store in at_once([lambda: BatchStore(url)] * 4):
        store.close()
    assert execute(url, "SELECT version FROM hallmark_schema") == [
        (len(postgres_database.SCHEMA.migrations),)
    ]


def test_an_older_ones_content_is_kept_and_readers_wait_for_a_receiver(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(BatchStore(url)) as store:
        store.add("generated", BATCH, None)
    known = postgres_database.SCHEMA
    later = "ALTER TABLE batches ADD COLUMN note TEXT NOT NULL DEFAULT 'none'"
    monkeypatch.setattr(postgres_database, "SCHEMA", replace(known, migrations=(*known.migrations, later)))
    with pytest.raises(DatabaseError, match="is not up to date: start the receiver with it once"):
        BatchStore(url, makes=False)
    for _ in range(2):
        with closing(BatchStore(url)) as store:
            assert [each["id"] for each in store.find()] == [1]
    assert execute(url, "SELECT note FROM batches") == [("none",)]
    assert execute(url, "SELECT max(version) FROM hallmark_schema") == [(3,)]
    monkeypatch.undo()
    for makes in (True, False):
        with pytest.raises(DatabaseError, match="was written by a newer Hallmark: its schema is 3"):
            BatchStore(url, makes=makes)


def test_a_migration_that_fails_leaves_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = postgres_database.SCHEMA
    broken = replace(known, migrations=(*known.migrations, "CREATE TABLE batches (id TEXT)"))
    with monkeypatch.context() as patched:
        patched.setattr(postgres_database, "SCHEMA", broken)
        with pytest.raises(DatabaseError, match='cannot be used: relation "batches" already exists'):
            BatchStore(url)
    assert execute(url, "SELECT to_regclass('batches'), to_regclass('hallmark_schema')") == [(None, None)]
    BatchStore(url).close()


class TestCommandLine:
    """What is said where a database cannot be used, without the password that its URL has."""

    @pytest.mark.parametrize("command", ["--port 0", "list", "stats", "export -"])
    def test_a_database_that_is_not_there(self, cli: Cli, postgresql: PostgresServer, command: str) -> None:
        url = postgresql.url("none").replace("hallmark@", "hallmark:secret@")
        result = cli("receiver", *command.split(), "--database", url)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith(f"hallmark: --database: '{without_password(url)}' is not allowed; ")
        assert 'database "none" does not exist' in result.err
        assert "secret" not in result.err

    @pytest.mark.parametrize(
        ("url", "problem"),
        [
            ("postgresql://hallmark:secret@[::1/db", "is no URL that libpq can read"),
            ("postgres://hallmark:sec/ret@h@/db?nothing=1", "is no URL that libpq can read"),
            ("Postgresql://hallmark:secret@h/db", "is no URL that libpq can read"),
            ("postgresql+psycopg://hallmark:secret@h/db", "is no URL that libpq can read"),
            ("postgresql:///db?host=/nowhere&PASSWORD=secret", "is no URL that libpq can read"),
            ("postgresql://hallmark:secret/db", "cannot be opened"),
            ("postgresql:///db?host=/nowhere&password=secret", "cannot be opened: connection"),
        ],
    )
    def test_a_url_that_leads_nowhere(self, cli: Cli, url: str, problem: str) -> None:
        result = cli("receiver", "list", "--database", url)
        assert result.code == 2
        assert problem in result.err
        assert "sec" not in result.err.replace("secret=", "")

    def test_databases_of_others(self, cli: Cli, postgresql: PostgresServer) -> None:
        latin = postgresql.new_database("TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
        result = cli("receiver", "--port", 0, "--database", latin)
        assert result.code == 2
        assert "has the encoding LATIN1; allowed: UTF8" in result.err
        empty = postgresql.new_database()
        result = cli("receiver", "list", "--database", empty)
        assert result.err.splitlines() == [
            f"hallmark: --database: '{empty}' is not allowed; allowed: the database of a receiver (the store "
            f"of batches {empty} is a database without tables of Hallmark's)",
            "hint: hallmark receiver makes its tables, and brings older ones up to date",
        ]
        tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        assert execute(empty, tables) == [(0,)]

    def test_the_variable_says_where_it_is(self, cli: Cli, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with closing(BatchStore(url)) as store:
            store.add("generated", BATCH, None)
        monkeypatch.setenv("HALLMARK_RECEIVER_DATABASE", url)
        assert "generated" in cli("receiver", "list").out
        assert '"generated": {"batches": 1' in cli("receiver", "stats", "--json").out
        assert '"nonces": [0, 1, 2]' in cli("receiver", "export", "-").out
        nothing = cli("receiver", "export", "-", "--public-key", "nobody")
        assert nothing.err.startswith(f"hallmark: no batch of {url} matches; nothing is written\n")

    def test_without_psycopg_it_says_what_to_install(self) -> None:
        code = (
            "import sys\n"
            "sys.modules['psycopg'] = None\n"
            "from hallmark.server.__main__ import main\n"
            "sys.argv = ['hallmark', 'receiver', 'list', '--database', 'postgresql:///db']\n"
            "main()\n"
        )
        ran = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
        assert ran.returncode == 2
        assert ran.stderr.splitlines() == [
            "hallmark: postgresql:///db needs psycopg, which cannot be imported: import of psycopg halted; "
            "None in sys.modules",
            "hint: install it: pip install 'hallmark-poc[postgres]'",
        ]
