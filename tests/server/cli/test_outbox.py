"""Looking at a server's outbox and deciding about what is in it, beside the server and without one."""

import asyncio
import io
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli, Result
from runtime import eventually, running_receiver

from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.outbox.database import OutboxDatabase, default_path
from hallmark.poc.outbox.delivery_queue import Delivery, DeliveryQueue
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.settings.settings import Settings

A, B = "http://a.example/[x]", "http://b.example"

Run = Callable[..., Result]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An outbox with one callback that waits, one that is due, and two that were given up."""
    path = tmp_path / "outbox.db"
    database = OutboxDatabase(path)
    queue = DeliveryQueue(database)
    now = time.time()
    for url, age in ((A, 7_300), (A, 200), (B, 5), (B, 90_000)):
        queue.add(url, "generated", [b'{"n":"%d"}' % age], now=now - age, max_queued=9)
    queue.add(B, "validated", [b'{"dist":[1.4000000000000001]}'], now=now, max_queued=9)
    queue.failed(1, "HTTP 503", now + 150)
    queue.bury(3, "rejected", "HTTP 404")
    queue.bury(4, "retries", "no answer within 10 s")
    database.close()
    return path


@pytest.fixture
def run(cli: Cli, path: Path) -> Run:
    """Runs a command of `hallmark outbox` on that file."""
    return lambda command, *arguments: cli("outbox", command, *arguments, "--outbox", path)


def listed(path: Path) -> list[Delivery]:
    database = OutboxDatabase(path, for_server=False)
    try:
        return DeliveryQueue(database).listed()
    finally:
        database.close()


def ids(path: Path) -> list[int]:
    return [delivery.id for delivery in listed(path)]


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


@dataclass(frozen=True)
class Listed:
    """What is shown of a receiver's callbacks: the heading, and cells by their columns."""

    url: str
    total: str
    columns: list[str]
    rows: list[dict[str, str]]


def tables(shown: Result) -> list[Listed]:
    """A table for each receiver."""
    assert shown.code == 0, shown.err
    found: list[Listed] = []
    for line in shown.out.splitlines():
        if line.startswith("http"):
            url, _, total = line.rpartition(": ")
            found.append(Listed(url, total, [], []))
            continue
        cells = re.split(r"\s{2,}", line.strip())
        if found[-1].columns:
            found[-1].rows.append(dict(zip(found[-1].columns, cells, strict=True)))
        else:
            found[-1].columns.extend(cells)
    return found


class TestList:
    """What there is."""

    def test_a_row_says_everything_of_a_callback(self, run: Run, cli: Cli, path: Path) -> None:
        shown = run("list")
        assert shown.code == 0
        to_a, to_b = tables(shown)
        assert (to_a.url, to_a.total, to_b.url, to_b.total) == (
            *(A, "2 callbacks, 23 B"),
            *(B, "3 callbacks, 51 B"),
        )
        names = ["id", "kind", "age", "tries", "size", "next attempt", "webhook-id", "last error"]
        assert to_a.columns == to_b.columns == names
        webhooks = [delivery.webhook_id for delivery in listed(path)]
        first, second = to_a.rows
        assert re.fullmatch(r"in 2 min 2\d s", first.pop("next attempt"))
        assert first == {
            **{"id": "1", "kind": "generated", "age": "2 h 1 min", "tries": "1", "size": "12 B"},
            **{"webhook-id": webhooks[0], "last error": "HTTP 503"},
        }
        assert re.fullmatch(r"3 min 2\d s", second.pop("age"))
        assert second == {
            **{"id": "2", "kind": "generated", "tries": "0", "size": "11 B"},
            **{"next attempt": "waits for 1", "webhook-id": webhooks[1], "last error": "-"},
        }
        third, fourth, fifth = to_b.rows
        assert re.fullmatch(r"[5-9] s", third.pop("age"))
        assert third == {
            **{"id": "3", "kind": "generated", "tries": "1", "size": "9 B"},
            **{"next attempt": "none: rejected", "webhook-id": webhooks[2], "last error": "HTTP 404"},
        }
        assert fourth == {
            **{"id": "4", "kind": "generated", "age": "1 d 1 h", "tries": "1", "size": "13 B"},
            **{"next attempt": "none: retries", "webhook-id": webhooks[3]},
            **{"last error": "no answer within 10 s"},
        }
        assert (fifth["kind"], fifth["size"], fifth["next attempt"]) == ("validated", "29 B", "due")

    def test_in_80_columns_nothing_is_lost(
        self, run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        database = OutboxDatabase(path)
        reason = "HTTP 503: " + " ".join(f"word{n}" for n in range(40)) + " [/red] " + "long" * 30
        DeliveryQueue(database).failed(2, reason, time.time() + 400_000)
        database.close()
        monkeypatch.setenv("COLUMNS", "80")
        lines = run("list").out.splitlines()
        assert max(map(len, lines)) <= 80
        assert not any("webhook-id" in line for line in lines), "which has room from 120 columns on"
        second, heading = (
            next(n for n, line in enumerate(lines) if line.strip().startswith(begin)) for begin in ("2 ", B)
        )
        column = lines[second].index("HTTP 503")
        told = "".join(line[column:] for line in lines[second:heading])
        assert "".join(told.split()) == "".join(reason.split())

    def test_the_second_callback_of_a_receiver_waits_for_the_first(self, run: Run, path: Path) -> None:
        database = OutboxDatabase(path)
        queue = DeliveryQueue(database)
        queue.add(B, "generated", [b"{}"], now=time.time(), max_queued=9)
        database.close()
        to_a, to_b = tables(run("list"))
        assert to_a.rows[1]["next attempt"] == "waits for 1"
        # A dead letter holds nothing up.
        assert [row["next attempt"] for row in to_b.rows] == ["none: rejected", "due", "waits for 5"]

    def test_as_json(self, run: Run, path: Path) -> None:
        shown = run("list", "--json")
        rows = json.loads(shown.out)
        assert all(row.pop("given_up") == row["dead_reason"] for row in rows), "the older name"
        assert [Delivery(**row) for row in rows] == listed(path)
        assert "body" not in shown.out

    def test_a_receiver_that_asked_to_be_left_alone_is_shown_to_be(self, run: Run, path: Path) -> None:
        database = OutboxDatabase(path)
        now = time.time()
        DeliveryQueue(database).leave_alone(A, 500, now)
        database.close()
        attempts = [row["next attempt"] for row in tables(run("list"))[0].rows]
        assert re.fullmatch(r"in 8 min( \d+ s)?", attempts[0])
        assert attempts[1] == "waits for 1"
        due = [row["not_before"] for row in json.loads(run("list", "--json").out)[:2]]
        assert due == [now + 500] * 2
        run("retry", 2)
        attempts = [row["next attempt"] for row in tables(run("list"))[0].rows]
        assert re.fullmatch(r"in 2 min 2\d s", attempts[0])
        assert attempts[1] == "waits for 1"

    def test_only_what_was_given_up(self, run: Run) -> None:
        shown = json.loads(run("list", "--dead-letters", "--json").out)
        assert [(row["id"], row["dead_reason"]) for row in shown] == [(3, "rejected"), (4, "retries")]
        assert run("list", "--given-up", "--json").out == json.dumps(shown) + "\n", "the older name"
        [to_b] = tables(run("list", "--dead-letters"))
        assert (to_b.url, to_b.total) == (B, "2 callbacks, 22 B")
        assert [row["id"] for row in to_b.rows] == ["3", "4"]

    def test_nothing_is_said_to_be_nothing(self, run: Run) -> None:
        run("drop", 3, 4)
        assert run("list", "--dead-letters").out == "there are no dead letters\n"
        assert run("list", "--dead-letters", "--json").out == "[]\n"
        run("drop", "--all", "--yes")
        assert run("list").out == "there are no callbacks\n"


class TestRetry:
    """Trying again."""

    def test_what_was_given_up_and_what_waits_is_due(self, run: Run, path: Path) -> None:
        assert run("retry", 3, 1, 3).out == "2 callbacks due now\n"
        by_id = {delivery.id: delivery for delivery in listed(path)}
        for identifier in (1, 3):
            delivery = by_id[identifier]
            assert (delivery.dead_reason, delivery.not_before, delivery.attempts) == (None, 0, 0)
        assert by_id[3].last_error == "HTTP 404", "why it had failed stays known"
        assert by_id[4].dead_reason == "retries"

    def test_all(self, run: Run, path: Path) -> None:
        assert run("retry", "--all").out == "5 callbacks due now\n"
        assert {(delivery.dead_reason, delivery.not_before) for delivery in listed(path)} == {(None, 0)}
        run("drop", 2, 3, 4, 5)
        assert run("retry", "--all").out == "1 callback due now\n"


class TestDrop:
    """Deleting."""

    def test_by_id(self, run: Run, path: Path) -> None:
        assert run("drop", 2, 4).out == "2 callbacks deleted\n"
        assert ids(path) == [1, 3, 5]

    @pytest.mark.parametrize(("reply", "code", "left"), [("y\n", 0, 0), ("n\n", 2, 5), ("", 2, 5)])
    def test_all_only_after_a_yes(
        self, run: Run, path: Path, monkeypatch: pytest.MonkeyPatch, reply: str, code: int, left: int
    ) -> None:
        answer(monkeypatch, reply)
        result = run("drop", "--all")
        assert "Delete 5 callbacks for ever?" in result.err
        assert result.code == code
        assert len(ids(path)) == left
        assert ("nothing is deleted" in result.err) == bool(left)
        assert result.out == ("" if left else "5 callbacks deleted\n")

    def test_all_for_a_script(self, run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        answer(monkeypatch, "")
        result = run("drop", "--all", "--yes")
        assert (result.code, result.out, result.err) == (0, "5 callbacks deleted\n", "")
        assert ids(path) == []


@pytest.mark.parametrize("command", ["retry", "drop"])
class TestChoice:
    """Which callbacks are meant."""

    def test_ids_that_are_none_are_named_and_nothing_is_done(
        self, run: Run, path: Path, command: str
    ) -> None:
        before = listed(path)
        result = run(command, 3, 77, 1, 6)
        assert result.code == 2
        expected = "hallmark: ID: [77, 6] is not allowed; allowed: ids that hallmark outbox list shows\n"
        assert result.err == expected
        assert listed(path) == before

    @pytest.mark.parametrize("arguments", [(), (1, "--all")])
    def test_it_is_said_once_and_clearly(
        self, run: Run, path: Path, command: str, arguments: tuple[Any, ...]
    ) -> None:
        before = listed(path)
        result = run(command, *arguments)
        assert result.code == 2
        assert "give the ids of callbacks, or --all" in result.err
        assert listed(path) == before


class TestExport:
    """Taking callbacks elsewhere."""

    LINES = ('{"n":"7300"}', '{"n":"200"}', '{"n":"5"}', '{"n":"90000"}', '{"dist":[1.4000000000000001]}')

    def check(self, text: str, path: Path) -> None:
        lines = [json.loads(line) for line in text.splitlines()]
        fields = ["webhook_id", "request_id", "url", "kind", "created_at", "body"]
        assert [list(line) for line in lines] == [fields] * 5
        expected = [
            (d.webhook_id, d.request_id, d.url, d.kind, d.created_at, json.loads(body))
            for d, body in zip(listed(path), self.LINES, strict=True)
        ]
        assert [tuple(line.values()) for line in lines] == expected

    def test_to_standard_output(self, run: Run, path: Path) -> None:
        result = run("export", "-")
        assert result.code == 0
        self.check(result.out, path)

    def test_to_a_file_that_nobody_else_reads(self, run: Run, path: Path, tmp_path: Path) -> None:
        target = tmp_path / "callbacks.jsonl"
        told = run("export", target)
        assert (told.out, told.err) == ("", f"5 callbacks written to {target}\n")
        self.check(target.read_text(), path)
        assert target.stat().st_mode & 0o777 == 0o600
        run("drop", "--all", "--yes")
        run("export", target)
        assert target.read_text() == ""

    def test_never_over_the_outbox_itself(self, run: Run, path: Path) -> None:
        result = run("export", path)
        assert result.code == 2
        allowed = "another file than the one that is read"
        assert result.err == f"hallmark: FILE: '{path}' is not allowed; allowed: {allowed}\n"
        assert len(listed(path)) == 5
        for end in ("-wal", "-shm"):
            beside = path.with_name(f"{path.name}{end}")
            if beside.exists():
                assert run("export", beside).code == 2
                assert len(listed(path)) == 5

    def test_a_file_that_others_could_read_is_closed_to_them(
        self, run: Run, path: Path, tmp_path: Path
    ) -> None:
        target = tmp_path / "callbacks.jsonl"
        target.touch(0o644)
        assert run("export", target).code == 0
        assert target.stat().st_mode & 0o777 == 0o600

    def test_a_path_that_cannot_be_written(self, run: Run, tmp_path: Path) -> None:
        result = run("export", tmp_path)
        assert result.code == 2
        expected = (
            f"hallmark: FILE: '{tmp_path}' is not allowed; allowed: a path to write to (Is a directory)\n"
        )
        assert result.err == expected


class TestFile:
    """Which file it is."""

    def test_a_servers_port_names_its_file(
        self, cli: Cli, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        for port, options in ((8000, ()), (8123, ("--port", 8123))):
            file = default_path(port)
            missing = cli("outbox", "list", *options)
            assert missing.code == 2
            assert missing.err == (
                f"hallmark: --port: {port} is not allowed; allowed: a port with a file {file}; "
                "--outbox takes any file\n"
                "hint: hallmark serve makes the file; run this as the server's user\n"
            )
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(path.read_bytes())
            assert len(json.loads(cli("outbox", "list", "--json", *options).out)) == 5

    def test_one_is_enough(self, run: Run) -> None:
        result = run("list", "--port", 8000)
        assert result.code == 2
        assert "give --outbox or --port, not both" in result.err

    @pytest.mark.parametrize("command", [("list",), ("retry", "--all"), ("drop", 1), ("export", "-")])
    def test_a_file_that_is_not_there_is_not_made(
        self, cli: Cli, tmp_path: Path, command: tuple[Any, ...]
    ) -> None:
        for path in (tmp_path / "missing.db", tmp_path):
            result = cli("outbox", *command, "--outbox", path)
            assert result.code == 2
            assert result.err == (
                f"hallmark: --outbox: '{path}' is not allowed; "
                "allowed: the file that a server keeps its callbacks in\n"
            )
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_is_something_else(self, cli: Cli, tmp_path: Path) -> None:
        text = tmp_path / "notes.txt"
        text.write_text("no database, and longer than the header of one" * 9)
        before = text.read_bytes()
        result = cli("outbox", "drop", "--all", "--yes", "--outbox", text)
        assert result.code == 2
        assert result.err.startswith(f"hallmark: the outbox {text} is damaged: ")
        assert len(result.err.splitlines()) == 1
        assert text.read_bytes() == before


async def test_beside_a_server_that_runs(cli: Cli, tmp_path: Path) -> None:
    """What was refused is tried again by the server at work, and what is deleted is not sent."""
    path = tmp_path / "outbox.db"
    settings = Settings(callback_backoff_base=3600, callback_backoff_cap=3600)

    async def outbox_command(*arguments: Any) -> Result:
        return await asyncio.to_thread(cli, "outbox", *arguments, "--outbox", path)

    async with running_receiver() as receiver:
        receiver.answers = [404, 503]
        outbox = Outbox(settings, OutboxStore(path))
        await outbox.recover()
        await outbox.post(receiver.url, "generated", compact_json({"n": 0}))
        await eventually(lambda: outbox.stats()["dead_letters"] == 1)
        for n in (1, 2):
            await outbox.post(receiver.url, "generated", compact_json({"n": n}))
        await eventually(lambda: outbox.stats()["next_attempt"])
        shown = json.loads((await outbox_command("list", "--json")).out)
        assert [(row["id"], row["given_up"], row["last_error"]) for row in shown] == [
            (1, "rejected", "HTTP 404"),
            (2, None, "HTTP 503"),
            (3, None, None),
        ]
        assert (await outbox_command("drop", 3)).out == "1 callback deleted\n"
        assert (await outbox_command("retry", 2)).code == 0
        await eventually(lambda: outbox.stats()["delivered"] == 1)
        # Nothing is queued for the receiver now, and nobody posts anything more to it.
        await eventually(lambda: outbox.stats()["queued"] == 0)
        assert (await outbox_command("retry", 1)).out == "1 callback due now\n"
        await eventually(lambda: outbox.stats()["delivered"] == 2)
        assert [body["n"] for body in receiver.bodies("generated")] == [0, 1, 1, 0]
        assert outbox.stats()["dead_letters"] == 0
        await outbox.close(1)


async def test_a_retry_does_not_reach_a_receiver_that_is_not_allowed(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with running_receiver() as receiver:
        store = OutboxStore(path)
        await store.add(receiver.url, "generated", [b'{"n":0}'], now=time.time(), max_queued=9)
        outbox = Outbox(Settings(callback_allowed_hosts=("receiver.example",)), store)
        await outbox.recover()
        assert outbox.stats()["dead_letters"] == 1
        assert (await asyncio.to_thread(cli, "outbox", "retry", 1, "--outbox", path)).code == 0
        await eventually(lambda: outbox.stats()["dropped_by_reason"]["forbidden"] == 2)
        assert outbox.stats()["dead_letters"] == 1
        assert receiver.requests == []
        await outbox.close(1)
