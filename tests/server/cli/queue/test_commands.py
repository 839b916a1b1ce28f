"""`hallmark queue` and `hallmark worker`: from an order to verdicts, and what is said of each mistake."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from builders import BLOCK
from command_line import Cli, Result
from offline_proofs import SHORT, Prover, judged_lines
from ordered_batches import deliver, verdicts_of
from store_databases import execute

from hallmark.server.models.small import fast_dtype
from hallmark.server.receiver.store import BatchStore

HALLMARK = (sys.executable, "-P", "-m", "hallmark.server")
ORDER = ("order", BLOCK, "--randomness", "0xlater", *SHORT)

Run = Callable[..., Result]


@pytest.fixture
def store(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchStore]:
    """Receivers' batches, which commands find by the variable."""
    monkeypatch.setenv("HALLMARK_RECEIVER_DATABASE", url)
    with closing(BatchStore(url)) as store:
        yield store


@pytest.fixture
def queue(store: BatchStore, cli: Cli, url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command of `hallmark queue` on that database."""

    def run(*arguments: object) -> Result:
        monkeypatch.setenv("HALLMARK_RECEIVER_DATABASE", url)
        return cli("queue", *arguments, "--database", url)

    return run


def worker(url: str, directory: Path, *options: str) -> "subprocess.Popen[str]":
    """Start a worker."""
    command = [*HALLMARK, "worker", "--database", url, "--model", str(directory), *options]
    command += ["--dtype", fast_dtype()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def rows(result: Result) -> Any:
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_from_an_order_to_verdicts(
    queue: Run, store: BatchStore, prover: Prover, url: str, directory: Path
) -> None:
    deliver(store, prover, ["an honest one"])
    deliver(store, prover, ["a cheater"], noise=2.0)
    given = queue(*ORDER, "--sample", 4)
    assert (given.code, given.out) == (0, "order 1\n")
    assert "hallmark worker" in given.err
    assert queue(*ORDER, "--sample", 4).out == "order 1 had been given before\n"
    open_ = queue("status").out
    assert "-" in open_
    assert queue("status", 1).out == "the order is not planned yet\n"
    with worker(url, directory, "--until-idle", "--name", "w1") as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert queue("retry", 1).out == "0 jobs open again\n"
    assert "Working as w1." in said
    assert "Order 1: 4 batches in 2 jobs" in said
    assert "2 jobs done." in said
    [row] = rows(queue("status", "--json"))
    assert (row["verdicts"], row["fraud_verdicts"], row["provers_convicted"]) == (4, 2, 1)
    assert row["draw"] == {"randomness": "0xlater", "nonces": 4}
    cheater, honest = rows(queue("status", 1, "--json"))
    assert (cheater["public_key"], cheater["conclusion"]["verdict"]) == ("a cheater", "fraud")
    assert (honest["public_key"], honest["conclusion"]["verdict"]) == ("an honest one", "honest")
    shown = queue("status", 1).out
    assert "fraud" in shown
    assert "an honest one" in shown
    assert "0xlater" in queue("status").out, "in 200 columns"
    assert len(verdicts_of(store)) == 4


def test_a_worker_that_is_killed_loses_nothing(
    queue: Run, store: BatchStore, prover: Prover, url: str, directory: Path
) -> None:
    """One is killed with a job of its own; another one ends it, and SIGTERM that one."""
    deliver(store, prover, "abc")
    queue(*ORDER)
    with worker(url, directory, "--until-idle") as planner:
        until(lambda: bool(execute(url, "SELECT id FROM jobs")), planner)
        planner.kill()
    # While the table is locked nobody ends a job: the first worker has one, and is killed with it.
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE verifications IN SHARE MODE")
        with worker(url, directory, "--lease", "1", "--name", "killed") as first:
            until(lambda: len(leased_by(url, "killed")) == 1, first)
            first.kill()
    assert first.returncode == -signal.SIGKILL
    [(job,)] = leased_by(url, "killed")
    with worker(url, directory, "--name", "second") as second:
        until(lambda: len(verdicts_of(store)) == 6, second)
        second.terminate()
        _, said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    assert "Ending after this job" in said
    assert execute(url, f"SELECT worker FROM jobs WHERE id = {job} AND attempts > 1") == [("second",)]  # noqa: S608


def leased_by(url: str, name: str) -> list[Any]:
    return execute(url, f"SELECT id FROM jobs WHERE worker = '{name}'")  # noqa: S608


def until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--sample", 4, "--power", 0.9, "--cheat", 1), "give --sample, or --cheat with --power"),
        (("--power", 0.9), "--power needs --cheat"),
        (("--cheat", 1), "--cheat is of use with --power"),
        (("--power", 1.5, "--cheat", 1), "--power: 1.5 is not allowed"),
        (("--power", 0.9, "--cheat", -1), "--cheat: -1.0 is not allowed"),
        (("--randomness", ""), "--randomness: '' is not allowed"),
        (("--delivered-before", "noon"), "--delivered-before: 'noon' is not allowed"),
        (("--delivered-before", "2026-11-28T12:00:00"), "with its time zone"),
        (("--dtype", "int8"), "--dtype: 'int8' is not allowed; allowed: "),
        (("--delivered-before", "inf"), "--delivered-before: inf is not allowed"),
        (("--fraud-threshold", 7), "fraud_threshold: 7"),
        (("--delivered-before", "1"), "no batch of block '0x8d3f2a' waits for a verdict"),
    ],
)
def test_what_cannot_be_ordered_is_named(
    queue: Run, store: BatchStore, prover: Prover, options: tuple[object, ...], problem: str
) -> None:
    deliver(store, prover, "a")
    result = queue(*ORDER, *options)
    assert (result.code, result.out) == (2, "")
    assert problem in result.err
    assert "Traceback" not in result.err
    assert rows(queue("status", "--json")) == []
    assert queue("status").out == "there are no orders\n"


def test_others_repeat_the_draw_of_a_later_order(
    queue: Run, store: BatchStore, prover: Prover, url: str, cli: Cli, directory: Path, tmp_path: Path
) -> None:
    draw = ("--power", 0.9, "--cheat", 0.5)
    deliver(store, prover, "a")
    queue("order", BLOCK, "--randomness", "first", *SHORT, *draw)
    with worker(url, directory, "--until-idle") as process:
        process.communicate(timeout=300)
    deliver(store, prover, "ab", first=100)
    queue("order", BLOCK, "--randomness", "second", *SHORT, *draw)
    with worker(url, directory, "--until-idle") as process:
        process.communicate(timeout=300)
    file = tmp_path / "order.jsonl"
    exported = queue("export", 2, file)
    assert (exported.code, exported.err) == (0, f"4 batches written to {file}\n")
    again = cli("verify", file, "--model", directory, *SHORT, *draw, "--seed", "second", "--json")
    lines, _ = judged_lines(again)
    ours = verdicts_of(store)
    assert [line["n_judged"] for line in lines[:4]] == [ours[batch]["n_judged"] for batch in sorted(ours)[2:]]
    assert queue("export", 7, file).code == 2


def test_an_order_that_no_worker_can_have_is_taken_back(
    queue: Run, store: BatchStore, prover: Prover, url: str, directory: Path
) -> None:
    """It is about rounds of another length than those that were delivered."""
    deliver(store, prover, "a")
    queue(*ORDER, "--seq-len", 8)
    with worker(url, directory, "--until-idle") as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "Order 1 is left to others: none of its 2 batches can be judged here; batch 1: " in said
    assert "seq_len" in said
    assert queue("cancel", 1).out == "order 1 is cancelled\n"
    assert rows(queue("status", "--json")) == []
    again = queue("cancel", 1)
    assert again.code == 2
    assert again.err.startswith("hallmark: ORDER: 1 is not allowed; allowed: an order that no worker")
    assert queue("retry", 1).err.startswith("hallmark: ORDER: 1 is not allowed; allowed: an order that")
    assert queue(*ORDER).out == "order 2\n"


def test_a_time_is_read_in_its_zone(queue: Run, store: BatchStore, prover: Prover) -> None:
    deliver(store, prover, "a")
    ordered = rows(queue(*ORDER, "--delivered-before", "2100-01-01T01:00:00+01:00", "--json"))
    assert ordered["delivered_before"] == 4_102_444_800
    assert ordered["is_new"] is True


def test_an_order_that_is_not_there_is_named(queue: Run) -> None:
    result = queue("status", 9)
    assert result.code == 2
    assert result.err.startswith("hallmark: ORDER: 9 is not allowed; allowed: an order that hallmark queue")


@pytest.mark.parametrize("command", [("queue", *ORDER), ("queue", "status"), ("worker", "--model", "m")])
def test_a_file_has_no_queue(cli: Cli, tmp_path: Path, command: tuple[object, ...]) -> None:
    path = tmp_path / "receiver.db"
    BatchStore(path).close()
    result = cli(*command, "--database", path)
    assert result.code == 2
    assert result.err.startswith(
        f"hallmark: --database: '{path}' is not allowed; allowed: a postgresql:// URL"
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((), "give --model or --server, one of them"),
        (("--model", "m", "--server", "http://127.0.0.1:1"), "give --model or --server, one of them"),
        (("--server", "http://127.0.0.1:1", "--dtype", "float32"), "of use with --model only"),
        (("--server", "http://127.0.0.1:1", "--", "-tp", 2), "of use with --model only"),
        (("--server", "http://127.0.0.1:1"), "no answer from http://127.0.0.1:1"),
        (("--model", "/nowhere"), "/nowhere"),
        (("--model", "/nowhere", "--lease", 0), "--lease"),
    ],
)
@pytest.mark.usefixtures("store")
def test_what_a_worker_cannot_be_is_named(
    cli: Cli, url: str, options: tuple[object, ...], problem: str
) -> None:
    result = cli("worker", "--database", url, *options)
    assert (result.code, result.out) == (2, "")
    assert problem in result.err
    assert "Traceback" not in result.err
