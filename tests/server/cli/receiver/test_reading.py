"""Reading a receiver's file from the command line, beside a receiver and without one."""

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from builders import make_round
from command_line import Cli, Result
from fastapi.testclient import TestClient
from judged import judged_batch, make_verdict, validated_body
from older_files import written_by_734b105
from store_databases import execute

from hallmark.poc.offline.proof_files import read_batches, read_bodies
from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.server.processes.child import ChildProcess, free_port
from hallmark.server.receiver.app import create_app
from hallmark.server.receiver.database import Address
from hallmark.server.receiver.store import BatchStore

HALLMARK = (sys.executable, "-P", "-m", "hallmark.server")
KEY = "02" + "ab12cd34" * 8
BLOCK = "0f" * 32
STRANGE = "[bold]a key\x1b[31m \u202e:smile:"
GENERATED = {
    "public_key": STRANGE,
    "block_hash": BLOCK,
    "block_height": 9_007_199_254_740_991,
    "node_id": 3,
    "nonces": [0, 1, 2],
    "dist": [1.4000000000000001, 1.39, 1.4],
}
COMMANDS = [("list",), ("export", "-"), ("stats",)]

Run = Callable[..., Result]

IN_A_FILE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For what is about the file."""


def verdict(number: int) -> dict[str, Any]:
    """A verdict that shows too much noise, of another block each."""
    return make_verdict(noise=1.5, seed=number, block_hash=f"{number:064x}", public_key=KEY)


VERDICTS = [verdict(number) for number in range(12)]


@pytest.fixture
def path(database: Address) -> Address:
    """Two batches, one delivered three times, and twelve verdicts, one in another request too."""
    with closing(BatchStore(database)) as store:
        for _ in range(3):
            store.add("generated", GENERATED, "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W")
        store.add("generated", {**GENERATED, "public_key": KEY, "node_id": 0}, None)
        for each in VERDICTS:
            store.add("validated", each, None)
        store.add("validated", {**VERDICTS[0], "request_id": "again"}, None)
    execute(database, f"UPDATE batches SET received_at = {time.time() - 7_500} WHERE id = 1")  # noqa: S608
    return database


@pytest.fixture
def run(cli: Cli, path: Address) -> Run:
    """Runs a command of `hallmark receiver` on that file."""
    return lambda command, *arguments: cli("receiver", command, *arguments, "--database", path)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch, run: Run) -> Run:
    """The same where there are 80 columns."""

    def in_80(*arguments: Any) -> Result:
        monkeypatch.setenv("COLUMNS", "80")
        return run(*arguments)

    return in_80


def squeezed(text: str) -> str:
    return "".join(text.split())


class TestList:
    """The batches that are there."""

    def test_rows_fit_into_80_columns_with_nothing_cut(self, narrow: Run) -> None:
        shown = narrow("list")
        assert (shown.code, shown.err) == (0, "")
        header, *lines = shown.out.splitlines()
        assert header.split() == ["id", "kind", "height", "nonces", "age", "duplicates", "public", "key"]
        assert max(map(len, [header, *lines])) <= 80
        assert "…" not in shown.out
        rows = [line for line in lines if not line.startswith(" " * 20)]
        assert len(rows) == 15
        age = r"2 h 5 min"
        assert re.match(rf" *1  generated  9007199254740991  +3  {age}  +2  \[bold\]", rows[0])
        assert re.match(r" *3  validated +7  +16 +\d+ s  +0  02ab12", rows[2])
        assert squeezed(shown.out).count(KEY) == 14, "folded, on lines that have nothing else"

    def test_what_a_prover_chose_is_no_command_to_a_terminal(self, narrow: Run) -> None:
        shown = narrow("list").out
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert r"[bold]akey\x1b[31m\u202e:smile:2generated" in squeezed(shown)

    def test_a_wide_terminal_shows_more(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "260")
        header, first, *_ = run("list").out.splitlines()
        titles = "id kind height nonces age duplicates node block hash webhook id public key"
        assert header.split() == titles.split()
        assert f"     3  {BLOCK}  msg_" in first
        assert " msg_2KWPBgLlAfxdpx2AI54pPJ85f4W " in first
        assert r"[bold]a key\x1b[31m \u202e:smile:" in first

    def test_off_a_terminal_a_row_is_a_line(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, cli: Cli
    ) -> None:
        """However long keys are."""
        run("list")
        monkeypatch.delenv("COLUMNS")
        rows = run("list").out.splitlines()[1:]
        assert len(rows) == 15
        assert all(line.endswith(KEY) for line in rows[1:])

    def test_as_json_they_are_what_the_receiver_answers(self, run: Run, path: Address) -> None:
        shown = run("list", "--json")
        assert (shown.code, shown.err, shown.out.count("\n")) == (0, "", 1)
        with TestClient(create_app(path)) as client:
            assert json.loads(shown.out) == client.get("/batches").json()

    def test_filters(self, run: Run) -> None:
        def ids(*filters: str) -> list[int]:
            return [batch["id"] for batch in json.loads(run("list", "--json", *filters).out)]

        assert ids("--kind", "generated") == [1, 2]
        assert ids("--kind", "generated", "--public-key", KEY) == [2]
        assert ids("--block-hash", VERDICTS[0]["block_hash"]) == [3, 15]
        assert ids("--public-key", "nobody") == []
        wrong = run("list", "--kind", "other")
        assert wrong.code == 2
        assert "'other'" in wrong.err

    def test_more_than_a_page(self, cli: Cli, tmp_path: Path) -> None:
        path = tmp_path / "many.db"
        with closing(BatchStore(path)) as store:
            store.add("generated", GENERATED, None)
        with closing(sqlite3.connect(path)) as database:
            database.executemany(
                "INSERT INTO batches (kind, content, received_at, public_key, block_hash, block_height,"
                " node_id, n_nonces, body) SELECT kind, ?, received_at, public_key, block_hash,"
                " block_height, node_id, n_nonces, body FROM batches WHERE id = 1",
                [(str(number),) for number in range(2_000)],
            )
            database.commit()
        shown = json.loads(cli("receiver", "list", "--json", "--database", path).out)
        assert [batch["id"] for batch in shown] == [*range(1, 2_002)]

    def test_nothing_is_said_to_be_nothing(self, run: Run, cli: Cli, tmp_path: Path) -> None:
        empty = tmp_path / "empty.db"
        BatchStore(empty).close()
        assert cli("receiver", "list", "--database", empty).out == "there are no batches\n"
        assert cli("receiver", "list", "--json", "--database", empty).out == "[]\n"
        none = run("list", "--public-key", "nobody")
        assert (none.code, none.out) == (0, "there are no batches that match\n")
        assert run("list", "--json", "--public-key", "nobody").out == "[]\n"

    @IN_A_FILE
    def test_the_receivers_file_is_the_one_that_is_meant(
        self, cli: Cli, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(path.parent)
        path.rename("hallmark-receiver.db")
        assert len(json.loads(cli("receiver", "list", "--json").out)) == 15

    def test_on_a_terminal(self, path: Address) -> None:
        command = [*HALLMARK, "receiver", "list", "--database", str(path)]
        leader, follower = pty.openpty()
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "TERM")}
        with subprocess.Popen(
            command, stdout=follower, stderr=follower, env={**environment, "COLUMNS": "80", "TERM": "xterm"}
        ) as process:
            os.close(follower)
            shown = b""
            try:
                while piece := os.read(leader, 65_536):
                    shown += piece
            except OSError:  # how Linux says that nobody writes any more
                pass
        os.close(leader)
        assert process.returncode == 0
        lines = re.sub(rb"\x1b\[[0-9;]*m", b"", shown).decode().splitlines()
        assert max(map(len, lines)) <= 80
        assert len(lines) > 16


class TestExport:
    """Batches with their bodies, for others."""

    def test_lines_are_what_the_receiver_answers_and_proofs_to_hallmark(
        self, run: Run, path: Address, tmp_path: Path
    ) -> None:
        target = tmp_path / "batches.jsonl"
        result = run("export", target)
        assert (result.code, result.out) == (0, "")
        assert squeezed(result.err) == squeezed(f"15 batches written to {target}\n")
        lines = [json.loads(line) for line in target.read_text().splitlines()]
        with TestClient(create_app(path)) as client:
            assert lines == [client.get(f"/batches/{number}").json() for number in range(1, 16)]
        delivered = read_batches([target])
        assert [batch.proof.public_key for batch in delivered] == [STRANGE, *[KEY] * 14]
        assert delivered[0].proof.dist == (1.4000000000000001, 1.39, 1.4)
        assert [batch.computed is None for batch in delivered] == [True] * 2 + [False] * 13
        assert len([*read_bodies(target)]) == 15

    def test_to_standard_output(self, run: Run, tmp_path: Path) -> None:
        result = run("export", "-", "--kind", "generated")
        assert [json.loads(line)["id"] for line in result.out.splitlines()] == [1, 2]
        assert result.err == "2 batches written to standard output\n"
        one = tmp_path / "one.jsonl"
        one.write_text(run("export", "-", 2).out)
        assert len(read_batches([one])) == 1, "a single line is read too"

    @pytest.mark.parametrize("command", ["export -", "list", "list --json", "stats"])
    def test_to_a_command_that_does_not_read_on(self, path: Address, command: str) -> None:
        """Code 1 would be a verdict."""
        words = [*HALLMARK, "receiver", *command.split(), "--database", str(path)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.close()
            assert process.stderr is not None
            said = process.stderr.read()
        assert process.returncode == 0, said
        assert re.fullmatch(r"((\d|1[0-5]) batch(es)? written to standard output\n)?", said)

    def test_nobody_else_reads_it_whoever_made_it(self, run: Run, tmp_path: Path) -> None:
        target = tmp_path / "batches.jsonl"
        target.write_text("what was there, and is longer than a batch " * 999)
        target.chmod(0o644)
        assert run("export", target, 2).code == 0
        assert target.stat().st_mode & 0o777 == 0o600
        assert json.loads(target.read_text())["id"] == 2
        target.unlink()
        run("export", target, 2)
        assert target.stat().st_mode & 0o777 == 0o600

    def test_a_device_keeps_its_mode(self, run: Run) -> None:
        before = Path("/dev/null").stat().st_mode
        assert run("export", "/dev/null").code == 0
        assert Path("/dev/null").stat().st_mode == before

    def test_ids_and_filters(self, run: Run) -> None:
        def ids(*arguments: Any) -> list[int]:
            return [json.loads(line)["id"] for line in run("export", "-", *arguments).out.splitlines()]

        assert ids(4, 2, 4) == [2, 4], "in the order of arrival, each once"
        assert ids(1, 2, 3, "--public-key", KEY) == [2, 3]
        assert ids(1, 2, 3, "--public-key", KEY, "--kind", "validated") == [3]
        assert ids("--block-hash", VERDICTS[0]["block_hash"]) == [3, 15]
        assert run("export", "-", 1).err == "1 batch written to standard output\n"

    @pytest.mark.parametrize("existing", [None, "what was there\n"])
    def test_ids_that_are_none_are_named_and_nothing_is_written(
        self, run: Run, tmp_path: Path, existing: str | None
    ) -> None:
        target = tmp_path / "batches.jsonl"
        if existing is not None:
            target.write_text(existing)
        for arguments, named in (((3, 77, 16), "[16, 77]"), ((0,), "[0]"), ((2**63,), f"[{2**63}]")):
            result = run("export", target, *arguments)
            assert (result.code, result.out) == (2, "")
            sentence = f"hallmark: ID: {named} is not allowed; allowed: ids that hallmark receiver list shows"
            assert squeezed(result.err) == squeezed(sentence)
            assert (target.read_text() if target.exists() else None) == existing

    @pytest.mark.parametrize("existing", [None, "what was there\n"])
    def test_an_export_of_nothing_is_an_error_and_writes_nothing(
        self, run: Run, path: Address, tmp_path: Path, existing: str | None
    ) -> None:
        target = tmp_path / "batches.jsonl"
        if existing is not None:
            target.write_text(existing)
        for arguments in (("--public-key", "nobody"), (1, "--kind", "validated")):
            for where in (target, "-"):
                result = run("export", where, *arguments)
                assert (result.code, result.out) == (2, "")
                assert squeezed(result.err) == squeezed(
                    f"hallmark: no batch of {path} matches; nothing is written"
                    "hint: hallmark receiver list shows what there is"
                )
        assert (target.read_text() if target.exists() else None) == existing

    @IN_A_FILE
    def test_the_receivers_own_file_is_not_written_over(self, run: Run, path: Path, tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to(path)
        for target in (path, link):
            result = run("export", target)
            assert result.code == 2
            assert "another file than the one that is read" in " ".join(result.err.split())
        assert len(json.loads(run("list", "--json").out)) == 15

    def test_a_path_that_cannot_be_written(self, run: Run, tmp_path: Path) -> None:
        for target, why in (
            (tmp_path, "Is a directory"),
            (tmp_path / "a" / "b", "No such file or directory"),
        ):
            result = run("export", target)
            assert result.code == 2
            sentence = f"hallmark: FILE: '{target}' is not allowed; allowed: a path to write to ({why})"
            assert squeezed(result.err) == squeezed(sentence)

    def test_one_body_at_a_time_is_in_memory(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = tmp_path / "batches.jsonl"
        written: list[int] = []
        real = BatchStore.get

        def get(store: BatchStore, identifier: int) -> dict[str, Any] | None:
            written.append(len(target.read_text().splitlines()) if target.exists() else 0)
            return real(store, identifier)

        monkeypatch.setattr(BatchStore, "get", get)
        run("export", target)
        assert len(written) == 15
        assert written[-1] >= 10, "what was read before is in the file already"


class TestStats:
    """Totals, and what verdicts show."""

    def test_it_fits_into_80_columns_and_is_in_words(self, narrow: Run) -> None:
        shown = narrow("stats")
        assert (shown.code, shown.err) == (0, "")
        totals, _, provers = shown.out.partition("\n\n")
        assert [line.split() for line in totals.splitlines()] == [
            ["kind", "batches", "nonces", "duplicates"],
            ["generated", "2", "6", "2"],
            ["validated", "13", "192", "0"],
        ]
        header, first, *_ = provers.splitlines()
        titles = "blocks batches nonces not counted p-value fraud public key"
        assert header.split() == titles.split()
        assert first.split()[:4] == ["12", "13", "192", "16"]
        assert float(first.split()[4]) < 0.01
        assert first.split()[5] == "yes"
        assert KEY in squeezed("".join(line[header.index("public") :] for line in provers.splitlines()[1:]))
        assert max(map(len, shown.out.splitlines())) <= 80

    def test_an_honest_prover_is_none_of_fraud(self, run: Run, path: Address) -> None:
        round_ = make_round(honest_sigma=0.1, numbers=2, public_key="honest")
        with closing(BatchStore(path)) as store:
            store.add("validated", validated_body(judged_batch(round_, range(64), 0.9)), None)
        [row] = [line for line in run("stats").out.splitlines() if line.endswith("honest")]
        assert row.split()[:6] == ["1", "1", "64", "0", row.split()[4], "no"]
        assert 0.01 < float(row.split()[4]) <= 1

    def test_a_wide_terminal_says_why(self, run: Run) -> None:
        header, first = run("stats").out.splitlines()[-2:]
        assert "log10 wealth  why not counted  public key" in header
        assert re.search(rf"yes +\d+\.\d  repeated 16 +{KEY}$", first)

    def test_as_json_it_is_what_the_receiver_answers(self, run: Run, path: Address) -> None:
        for filters, query in (
            ((), {}),
            (("--public-key", STRANGE), {"public_key": STRANGE}),
            (("--public-key", KEY, "--block-hash", BLOCK), {"public_key": KEY, "block_hash": BLOCK}),
        ):
            shown = run("stats", "--json", *filters)
            assert (shown.code, shown.out.count("\n")) == (0, 1)
            with TestClient(create_app(path)) as client:
                about = {name: value for name, value in query.items() if name == "public_key"}
                assert json.loads(shown.out) == {
                    "totals": client.get("/stats", params=query).json(),
                    "provers": client.get("/provers", params=about).json(),
                }

    def test_more_provers_than_a_page(
        self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("hallmark.server.cli.receiver.stats._PAGE", 2)
        path = tmp_path / "many.db"
        with closing(BatchStore(path)) as store:
            for number in range(5):
                store.add("validated", {**VERDICTS[0], "public_key": f"key {number}"}, None)
        shown = json.loads(cli("receiver", "stats", "--json", "--database", path).out)
        assert [prover["public_key"] for prover in shown["provers"]] == [f"key {n}" for n in range(5)]

    def test_nothing_is_said_to_be_nothing(self, cli: Cli, tmp_path: Path) -> None:
        empty = tmp_path / "empty.db"
        BatchStore(empty).close()
        shown = cli("receiver", "stats", "--database", empty).out
        assert shown.endswith("\n\nthere are no verdicts\n")
        assert json.loads(cli("receiver", "stats", "--json", "--database", empty).out)["provers"] == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
class TestFile:
    """Which file is read, and that it is only read."""

    def test_one_that_is_not_there_is_not_made(
        self, cli: Cli, tmp_path: Path, command: tuple[str, ...]
    ) -> None:
        for path in (tmp_path / "missing.db", tmp_path, tmp_path / "missing" / "receiver.db"):
            result = cli("receiver", *command, "--database", path)
            assert (result.code, result.out) == (2, "")
            assert squeezed(result.err) == squeezed(
                f"hallmark: --database: '{path}' is not allowed; "
                "allowed: the file that a receiver keeps its batches in"
                "hint: hallmark receiver makes the file when it starts"
            )
        assert [*tmp_path.iterdir()] == []

    def test_one_that_is_something_else_stays_what_it_is(
        self, cli: Cli, tmp_path: Path, command: tuple[str, ...]
    ) -> None:
        text, outbox, empty, other = (tmp_path / name for name in ("notes.txt", "outbox.db", "empty", "x.db"))
        text.write_text("no database, and longer than the header of one " * 9)
        OutboxDatabase(outbox).close()
        empty.touch()
        with closing(sqlite3.connect(other)) as database:
            database.execute("CREATE TABLE bookmarks (url TEXT)")
        older = written_by_734b105("receiver.db", tmp_path)
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        for path in (text, outbox, empty, other, older):
            result = cli("receiver", *command, "--database", path)
            assert (result.code, result.out) == (2, "")
            start = f"hallmark: --database: '{path}' is not allowed; allowed: the file of a receiver ("
            assert squeezed(result.err).startswith(squeezed(start))
            hint = "hint: hallmark receiver makes such a file, and brings an older one up to date"
            assert squeezed(result.err).endswith(squeezed(hint))
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    @IN_A_FILE
    def test_the_right_one_is_not_changed(
        self, run: Run, path: Path, command: tuple[str, ...], tmp_path: Path
    ) -> None:
        before, entries = path.read_bytes(), [*tmp_path.iterdir()]
        assert run(*command).code == 0
        assert path.read_bytes() == before
        assert [*tmp_path.iterdir()] == entries


class TestBesideAReceiver:
    """What is read while batches come, and what becomes of both where one of them is killed."""

    @pytest.fixture
    def database(self, tmp_path: Path) -> Path:
        return tmp_path / "receiver.db"

    @pytest.fixture
    def url(self, database: Path, tmp_path: Path) -> Iterator[str]:
        """A receiver at work: somebody delivers to it until the test has ended."""
        url = f"http://127.0.0.1:{free_port()}"
        command = [*HALLMARK, "receiver", "--port", url.rpartition(":")[2], "--database", str(database)]
        ended = threading.Event()
        refused: list[int] = []

        def deliver() -> None:
            with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
                number = 0
                while not ended.is_set():
                    number += 1
                    body = {**GENERATED, "nonces": [*range(number, number + 3)]}
                    answer = client.post("/generated", json=body)
                    if answer.json() != {"id": number, "duplicate": False}:
                        refused.append(answer.status_code)

        with ChildProcess("the receiver", command, log=tmp_path / "log") as process:
            process.wait_until(lambda: is_up(url), seconds=60)
            thread = threading.Thread(target=deliver)
            thread.start()
            yield url
            ended.set()
            thread.join()
            assert refused == []
            assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def test_it_is_read_while_batches_come(self, cli: Cli, url: str, database: Path) -> None:
        eventually(lambda: total(url) > 20)
        at_least = total(url)
        listed = json.loads(cli("receiver", "list", "--json", "--database", database).out)
        assert [batch["id"] for batch in listed] == [*range(1, len(listed) + 1)]
        assert len(listed) >= at_least
        exported = cli("receiver", "export", "-", "--database", database)
        bodies = [json.loads(line)["body"] for line in exported.out.splitlines()]
        assert [body["nonces"][0] for body in bodies] == [*range(1, len(bodies) + 1)]
        shown = json.loads(cli("receiver", "stats", "--json", "--database", database).out)
        assert shown["totals"]["generated"]["batches"] >= len(bodies) >= len(listed)

    @pytest.mark.parametrize("command", ["list", "export"])
    def test_a_reader_that_is_killed_disturbs_nobody(
        self, url: str, database: Path, tmp_path: Path, command: str
    ) -> None:
        eventually(lambda: total(url) > 20)
        arguments = ["--json"] if command == "list" else [str(tmp_path / "batches.jsonl")]
        reader = [sys.executable, "-P", "-c", SLOWLY, "hallmark", "receiver", command, *arguments]
        with subprocess.Popen(
            [*reader, "--database", str(database)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "reading\n"
            before = total(url)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        eventually(lambda: total(url) > before + 20)

    def test_what_a_killed_receiver_had_acknowledged_is_read(
        self, cli: Cli, database: Path, tmp_path: Path
    ) -> None:
        """Without a new start: it lies in the write-ahead log."""
        port = free_port()
        command = [*HALLMARK, "receiver", "--port", str(port), "--database", str(database)]
        url = f"http://127.0.0.1:{port}"
        with ChildProcess("the receiver", command, log=tmp_path / "log") as process:
            process.wait_until(lambda: is_up(url), seconds=60)
            for number in range(5):
                body = {**GENERATED, "node_id": number}
                httpx.post(f"{url}/generated", json=body, trust_env=False).raise_for_status()
            process.kill()
        for _ in range(2):
            listed = json.loads(cli("receiver", "list", "--json", "--database", database).out)
            assert [batch["node_id"] for batch in listed] == [*range(5)]


SLOWLY = """
import sys, time
from hallmark.server.receiver.store import BatchStore

def slowed(name):
    real = getattr(BatchStore, name)
    def read(self, *arguments, **options):
        with self._database.reading() as connection:
            # A transaction that is open, as in the middle of a long answer.
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM batches").fetchone()
            print("reading", file=sys.stderr, flush=True)
            time.sleep(600)
        return real(self, *arguments, **options)
    setattr(BatchStore, name, read)

slowed("get" if "export" in sys.argv else "find")
sys.argv = sys.argv[1:]
from hallmark.server.__main__ import main
main()
"""


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def total(url: str) -> int:
    stats = httpx.get(f"{url}/stats", trust_env=False, timeout=60).raise_for_status().json()
    return int(stats["generated"]["batches"])


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
