"""`hallmark round list`: the rounds of a journal."""

import json
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from builders import make_config
from command_line import Cli

from hallmark.poc.outbox.database import OutboxDatabase, default_path
from hallmark.poc.outbox.delivery_queue import DeliveryQueue
from hallmark.poc.outbox.round_journal import JournalLimits, RoundJournal, journaled_rounds
from hallmark.poc.protocol.config import PoCState
from hallmark.poc.protocol.generated import ComputedSpan

REASON = "the engine has died: [/red] CUDA error"
LONG_KEY = "02" + "ab" * 60
DAY, HOUR, MINUTE = 86_400, 3_600, 60


def walked(first: int, last: int, valid: int, failed: int) -> ComputedSpan:
    return ComputedSpan(
        covered=(first, last),
        nonces=tuple(range(valid)),
        dist=(1.25,) * valid,
        vectors=("AAA=",) * valid,
        failed_nonces=tuple(range(failed)),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of one round that was stopped, one that its engine failed in, and one that is open."""
    path = tmp_path / "outbox.db"
    database = OutboxDatabase(path)
    journal = RoundJournal(database, DeliveryQueue(database), JournalLimits(2**19, 1_000))
    now = time.time()

    def begin(height: int, phase: PoCState, age: float, **changes: Any) -> int:
        config = make_config(block_height=height, node_id=0, node_count=1, **changes)
        return journal.begin(config, "d1635", {}, phase, now - age)[0]

    stopped = begin(840_000, PoCState.GENERATING, 2 * DAY, public_key=LONG_KEY)
    journal.record(stopped, [walked(0, 1_199, 1_100, 3)], now - 2 * DAY + 2 * HOUR + 5 * MINUTE)
    journal.end(stopped, None, now - 2 * DAY + 2 * HOUR + 5 * MINUTE)
    failed = begin(840_001, PoCState.GENERATING, HOUR, public_key="[bold]key", block_hash="0x[b]")
    journal.end(failed, REASON, now - HOUR + 59)
    begin(840_002, PoCState.VALIDATING, 90, public_key="02c0")
    database.close()
    return path


def rows(out: str) -> tuple[list[str], list[list[str]]]:
    """The headings, and the cells of each row."""
    header, *below = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    return header, below


def test_a_row_says_what_became_of_a_round(cli: Cli, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    shown = cli("round", "list", "--outbox", path)
    assert (shown.code, shown.err) == (0, "")
    header, (third, second, first) = rows(shown.out)
    assert header == [
        *("id", "block", "checked", "valid", "begun", "failed", "phase", "took", "block hash", "state"),
        "public key",
    ]
    block_hash = make_config().block_hash
    assert re.fullmatch(r"1 min 3\d s ago", third.pop(4))
    assert third == ["3", "840002", "0", "0", "0", "validating", "0 s", block_hash, "open", "02c0"]
    assert second == [
        *("2", "840001", "0", "0", "1 h ago", "0", "generating", "59 s", "0x[b]"),
        *(f"over: {REASON}", "[bold]key"),
    ]
    assert first == [
        *("1", "840000", "1,200", "1,100", "2 d ago", "3", "generating", "2 h 5 min", block_hash, "over"),
        LONG_KEY,
    ]


def test_in_80_columns_it_is_shorter_and_nothing_of_it_is_cut(
    cli: Cli, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = cli("round", "list", "--outbox", path).out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    header = lines[0]
    names = re.split(r"\s{2,}", header.strip())
    assert names == ["id", "block", "checked", "valid", "begun", "state", "public key"]
    starts = [next(n for n, line in enumerate(lines) if line.strip().startswith(f"{i} ")) for i in (2, 1)]
    second, first = lines[starts[0] : starts[1]], lines[starts[1] :]

    def column(block: list[str], name: str, following: str | None) -> str:
        end = None if following is None else header.index(following)
        return "".join("".join(line[header.index(name) : end].split()) for line in block)

    assert column(second, "state", "public key") == "".join(f"over: {REASON}".split())
    assert column(first, "public key", None) == LONG_KEY


def test_as_json_everything_is_there(cli: Cli, path: Path) -> None:
    shown = cli("round", "list", "--outbox", path, "--json")
    assert (shown.code, shown.err) == (0, "")
    database = OutboxDatabase(path, for_server=False)
    expected = [asdict(each) for each in journaled_rounds(database)]
    database.close()
    found = json.loads(shown.out)
    assert found == expected
    assert [each["id"] for each in found] == [3, 2, 1]
    ended = [(each["is_over"], each["reason"]) for each in found]
    assert ended == [(False, None), (True, REASON), (True, None)]
    assert found[2]["config"]["public_key"] == LONG_KEY
    assert (found[2]["checked"], found[2]["valid"], found[2]["failed"]) == (1_200, 1_100, 3)


def test_no_rounds_are_said_to_be_none(cli: Cli, tmp_path: Path) -> None:
    OutboxDatabase(tmp_path / "empty.db").close()
    empty = ("round", "list", "--outbox", tmp_path / "empty.db")
    assert cli(*empty).out == "there are no rounds\n"
    assert cli(*empty, "--json").out == "[]\n"


def test_a_servers_port_names_its_file(
    cli: Cli, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    missing = cli("round", "list", "--port", 8123)
    assert missing.code == 2
    assert missing.err == (
        f"hallmark: --port: 8123 is not allowed; allowed: a port with a file {default_path(8123)}; "
        "--outbox takes any file\n"
        "hint: hallmark serve makes the file; run this as the server's user\n"
    )
    default_path(8123).parent.mkdir(parents=True)
    default_path(8123).write_bytes(path.read_bytes())
    assert len(json.loads(cli("round", "list", "--port", 8123, "--json").out)) == 3
    both = cli("round", "list", "--port", 8123, "--outbox", path)
    assert both.code == 2
    assert both.err.endswith("Error: Invalid value: give --outbox or --port, not both\n")
