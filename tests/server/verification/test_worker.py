"""Workers: verdicts as `hallmark verify` gives them, each once, whatever happens to those who compute."""

import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from builders import BATCH, BLOCK
from clock import Clock
from command_line import Cli
from offline_proofs import SHORT, Prover, judged_lines, write
from ordered_batches import SETTINGS, deliver, give_order, verdicts_of
from postgresql_server import running
from store_databases import execute

from hallmark.poc.core.errors import EngineError, UnsupportedError
from hallmark.poc.offline.model import TransformersLoader
from hallmark.poc.protocol.config import DeployedModel
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.server.receiver.store import BatchStore
from hallmark.server.verification import jobs, planning
from hallmark.server.verification import worker as worker_module
from hallmark.server.verification.jobs import JobQueue
from hallmark.server.verification.judging import Judge
from hallmark.server.verification.order import Draw
from hallmark.server.verification.orders import OrderBook
from hallmark.server.verification.progress import order_provers, order_rows
from hallmark.server.verification.worker import OwnEngine, Worker

_LEASE = 60.0


class Failing(OwnEngine):
    """An engine some of whose batches fail."""

    failures: int

    def numbers(self, round_: Round, claims: Sequence[ProofBatch]) -> Mapping[NonceKey, Sequence[float]]:
        if self.failures:
            self.failures -= 1
            raise EngineError("the device is on fire")
        return super().numbers(round_, claims)


class Bench:
    """A store and what works on it."""

    def __init__(self, store: BatchStore, prover: Prover, directory: Path) -> None:
        self.store, self.prover, self._directory = store, prover, directory

    @cached_property
    def fingerprint(self) -> str:
        return TransformersLoader(self._directory, None, None).fingerprint()

    def worker(
        self, name: str = "a worker", *, failures: int = 0, fingerprint: str | None = None, **clocks: Clock
    ) -> Worker:
        engine = Failing(self.prover.model, fingerprint or self.fingerprint)
        engine.failures = failures
        return Worker(self.store, engine, name, _LEASE, **clocks)

    def conclusions(self, order: int = 1) -> dict[str, str]:
        return {
            prover["public_key"]: prover["conclusion"]["verdict"]
            for prover in order_provers(self.store.database, order)
        }


@pytest.fixture
def bench(store: BatchStore, prover: Prover, directory: Path) -> Bench:
    return Bench(store, prover, directory)


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what failed be tried again at once."""
    monkeypatch.setattr(jobs, "_RETRY_SECONDS", 0)
    monkeypatch.setattr(worker_module, "_FIRST_PAUSE", 0)


def soon(store: BatchStore) -> None:
    """Let every lease be over."""
    with store.database.transaction() as connection:
        connection.execute("UPDATE jobs SET leased_until = now() - make_interval(secs => 1)")


def test_honest_provers_are_honest_and_a_cheater_is_convicted(bench: Bench) -> None:
    store = bench.store
    deliver(store, bench.prover, "ab")
    deliver(store, bench.prover, "c", noise=2.0)
    give_order(store, Draw(randomness="r", nonces=4))
    bench.worker().run(until_idle=True)
    verdicts = verdicts_of(store)
    assert [verdicts[batch]["verdict"] for batch in range(1, 7)] == ["honest"] * 4 + ["fraud"] * 2
    assert {body["n_judged"] for body in verdicts.values()} == {4}
    assert all(body["error_rms"] < 0.01 for batch, body in verdicts.items() if batch < 5)
    assert bench.conclusions() == {"a": "honest", "b": "honest", "c": "fraud"}
    a, b, c = store.provers()
    assert (a.batches, a.evidence.nonces, b.is_fraud(1e-4), c.is_fraud(1e-4)) == (2, 8, False, True)
    [row] = order_rows(store.database)
    assert (row["verdicts"], row["fraud_verdicts"], row["provers_convicted"], row["jobs"]) == (6, 2, 1, 3)
    assert (row["jobs_ended"], row["jobs_given_up"], row["provers_open"]) == (3, 0, 0)


@pytest.mark.parametrize(
    ("draw", "options"),
    [
        (Draw(randomness="r", nonces=3), ("--sample", 3)),
        (Draw(randomness="r", power=0.99, cheat=0.5), ("--power", 0.99, "--cheat", 0.5)),
        (Draw(randomness="r"), ()),
    ],
    ids=["number", "power", "all"],
)
def test_others_can_repeat_the_draw_and_come_to_the_same(
    bench: Bench, cli: Cli, directory: Path, tmp_path: Path, draw: Draw, options: tuple[object, ...]
) -> None:
    """By what is kept with a verdict, and the batches that the receiver gives out."""
    deliver(bench.store, bench.prover, "ab", batches=3)
    deliver(bench.store, bench.prover, "c", batches=3, noise=0.2)
    give_order(bench.store, draw)
    bench.worker().run(until_idle=True)
    verdicts = verdicts_of(bench.store)
    if draw.nonces is not None:
        assert {len(body["nonces"]) for body in verdicts.values()} == {draw.nonces}, "and no others"
    kept = verdicts[1]["verification"]
    assert kept == {"order": 1, "batch": 1, **draw.as_dict(), "last_batch": 9, "delivered_before": None}
    proofs = [bench.store.get(number) for number in range(1, 1 + kept["last_batch"])]
    file = write(tmp_path / "proofs.json", *proofs)
    seed = ("--seed", kept["randomness"]) if options else ()
    again = cli(
        *("verify", file, "--model", directory, *SHORT, "--fraud-threshold", 1e-4, *options, *seed, "--json")
    )
    lines, _ = judged_lines(again)
    singles, joined = lines[:9], lines[9:]
    for place, line in enumerate(singles, start=1):
        ours = verdicts[place]
        assert (line["verdict"], line["n_judged"]) == (ours["verdict"], ours["n_judged"])
        assert line["probability_honest"] == pytest.approx(ours["probability_honest"], rel=1e-6)
    told = order_provers(bench.store.database, 1)
    together = {prover["public_key"]: prover["conclusion"] for prover in told}
    for line in joined:
        ours = together[line["public_key"]]
        assert ours["n_judged"] == line["n_judged"]
        assert ours["verdict"] == line["verdict"]


def test_an_exported_verdict_is_read_like_a_servers(
    bench: Bench, cli: Cli, directory: Path, tmp_path: Path
) -> None:
    deliver(bench.store, bench.prover, "a")
    give_order(bench.store)
    bench.worker().run(until_idle=True)
    file = write(tmp_path / "verdicts.json", *verdicts_of(bench.store).values())
    lines, _ = judged_lines(cli("verify", file, "--model", directory, *SHORT, "--json"))
    assert {line["verdict"] for line in lines} == {"honest"}


def test_two_workers_share_the_jobs_and_each_batch_has_one_verdict(bench: Bench, url: str) -> None:
    deliver(bench.store, bench.prover, "abcdef")
    give_order(bench.store, Draw(randomness="r", nonces=5))
    with closing(BatchStore(url)) as second:
        other = Bench(second, bench.prover, bench._directory)
        workers = [bench.worker("first"), other.worker("second")]
        threads = [threading.Thread(target=each.run, kwargs={"until_idle": True}) for each in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(worker.ended_jobs for worker in workers) == order_rows(bench.store.database)[0]["jobs"] == 8
    assert sorted(verdicts_of(bench.store)) == [*range(1, 13)]
    assert set(bench.conclusions().values()) == {"honest"}


def test_a_job_that_is_handed_in_twice_counts_once(bench: Bench) -> None:
    """By a worker whose lease was over, and by the one that had taken it over."""
    deliver(bench.store, bench.prover, "a", batches=1)
    order = give_order(bench.store)
    worker, queue = bench.worker(), JobQueue(bench.store)
    assert worker._plan()
    first = queue.lease("first", worker._fitness, _LEASE)
    assert first is not None
    assert queue.lease("second", worker._fitness, _LEASE) is None, "it is leased"
    soon(bench.store)
    second = queue.lease("second", worker._fitness, _LEASE)
    assert second is not None
    assert (second.id, second.keys, second.attempts) == (first.id, first.keys, 2)
    assert not queue.extend(first, "first", _LEASE)
    assert queue.extend(second, "second", _LEASE)
    queue.release(first, "first", "too late to say so")
    facts, numerics = bench.prover.model.facts, bench.prover.model.numerics
    judge = Judge(order=order, facts=facts, numerics=numerics)
    numbers = [[0.5, 0.5] for _ in first.keys]
    assert queue.complete(first, numbers, judge), "what is handed in first counts"
    assert not queue.complete(second, [[9.0, 9.0] for _ in second.keys], judge)
    assert not queue.give_up(second.id, judge)
    assert len(verdicts_of(bench.store)) == 1
    assert bench.store.provers()[0].batches == 1


def test_a_batch_that_fails_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch)
    deliver(bench.store, bench.prover, "a")
    give_order(bench.store)
    bench.worker(failures=jobs.MAX_ATTEMPTS - 1).run(until_idle=True)
    assert bench.conclusions() == {"a": "honest"}


def test_a_batch_that_always_fails_is_given_up_and_the_others_are_judged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    deliver(bench.store, bench.prover, "ab", batches=1)
    give_order(bench.store)
    bench.worker(failures=jobs.MAX_ATTEMPTS).run(until_idle=True)
    [row] = order_rows(bench.store.database)
    assert (row["verdicts"], row["no_verdict"], row["jobs_given_up"]) == (1, 1, 1)
    assert bench.conclusions() == {"a": "no_verdict", "b": "honest"}
    with bench.store.database.reading() as connection:
        [(error,)] = connection.execute("SELECT error FROM verifications WHERE verdict IS NULL").fetchall()
    assert error == "job 1 was given up after 5 attempts: the device is on fire"
    assert JobQueue(bench.store).retry(1) == 1
    assert order_rows(bench.store.database)[0]["provers_open"] == 1
    bench.worker().run(until_idle=True)
    assert bench.conclusions() == {"a": "honest", "b": "honest"}
    assert sorted(verdicts_of(bench.store)) == [1, 2]
    assert JobQueue(bench.store).retry(1) == 0


def test_of_a_batch_in_several_jobs_only_what_was_given_up_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    deliver(bench.store, bench.prover, "a", batches=2, size=12)
    give_order(bench.store)
    bench.worker(failures=jobs.MAX_ATTEMPTS).run(until_idle=True)
    assert bench.conclusions() == {"a": "no_verdict"}
    assert sorted(verdicts_of(bench.store)) == [2], "the second one has none of the first job's nonces"
    assert JobQueue(bench.store).retry(1) == 1
    worker = bench.worker()
    worker.run(until_idle=True)
    assert worker.ended_jobs == 1
    assert bench.conclusions() == {"a": "honest"}
    assert sorted(verdicts_of(bench.store)) == [1, 2]


def test_what_kills_its_workers_is_not_tried_for_ever(bench: Bench) -> None:
    deliver(bench.store, bench.prover, "a", batches=1)
    give_order(bench.store)
    worker, queue = bench.worker(), JobQueue(bench.store)
    worker._plan()
    for attempt in range(1, jobs.MAX_ATTEMPTS + 1):
        job = queue.lease("killed", worker._fitness, _LEASE)
        assert job is not None
        assert job.attempts == attempt
        soon(bench.store)
    worker.run(until_idle=True)
    assert bench.conclusions() == {"a": "no_verdict"}
    assert verdicts_of(bench.store) == {}


def test_a_batch_that_cannot_be_judged_says_why_and_keeps_nobody(bench: Bench) -> None:
    [body] = deliver(bench.store, bench.prover, "a", batches=1)
    bench.store.add(
        "generated", {**body, "public_key": "b", "round": "ab" * 32, "round_settings": None}, None
    )
    nothing = {"nonces": [], "dist": [], "vectors": [], "failed_nonces": [*range(8)]}
    bench.store.add("generated", {**body, "public_key": "c", **nothing}, None)
    give_order(bench.store)
    bench.worker().run(until_idle=True)
    assert bench.conclusions() == {"a": "honest", "b": "no_verdict", "c": "no_verdict"}
    with bench.store.database.reading() as connection:
        errors = connection.execute("SELECT batch, error FROM verifications ORDER BY batch").fetchall()
    assert errors[0] == (1, None)
    assert "round" in errors[1][1]
    assert errors[2] == (3, "the batch claims no nonce")


def test_a_nonce_that_fails_is_no_fraud(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(bench.store, bench.prover, "a")
    give_order(bench.store)
    worker = bench.worker()
    real = worker._engine.numbers
    monkeypatch.setattr(
        worker._engine,
        "numbers",
        lambda round_, claims: {key: [math.nan, math.nan] for key in real(round_, claims)},
    )
    worker.run(until_idle=True)
    assert bench.conclusions() == {"a": "no_verdict"}
    assert verdicts_of(bench.store) == {}


def test_a_worker_with_another_model_leaves_jobs_to_others(bench: Bench) -> None:
    deliver(bench.store, bench.prover, "a")
    give_order(bench.store)
    assert bench.worker()._plan()
    other = bench.worker("other", fingerprint="another model")
    other.run(until_idle=True)
    assert other.ended_jobs == 0
    bench.worker().run(until_idle=True)
    assert bench.conclusions() == {"a": "honest"}


def test_an_order_that_a_model_cannot_have_is_left_and_said_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    deliver(bench.store, bench.prover, "a")
    give_order(bench.store, settings={**SETTINGS, "seq_len": 10_000_000})
    bench.worker().run(until_idle=True)
    [said] = [message for message in caplog.messages if message.startswith("Order 1")]
    assert said.startswith("Order 1 is left to others: seq_len: 10000000 is not allowed")
    assert order_rows(bench.store.database)[0]["planned_at"] is None


def test_a_lease_is_extended_while_the_engine_computes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(bench.store, bench.prover, "a", batches=1)
    give_order(bench.store)
    worker = bench.worker()
    worker._lease_seconds = 0.3
    real = worker._engine.numbers
    seen: list[Any] = []

    def slow(round_: Round, claims: Sequence[ProofBatch]) -> Mapping[NonceKey, Sequence[float]]:
        deadline = time.monotonic() + 60
        ends = "SELECT leased_until FROM jobs"
        while len(seen) < 3:
            with bench.store.database.reading() as connection:
                [(until,)] = connection.execute(ends).fetchall()
            if until not in seen:
                seen.append(until)
            assert time.monotonic() < deadline
        return real(round_, claims)

    monkeypatch.setattr(worker._engine, "numbers", slow)
    worker.run(until_idle=True)
    assert seen == sorted(seen)
    assert bench.conclusions() == {"a": "honest"}


def test_a_worker_that_is_interrupted_gives_its_job_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(bench.store, bench.prover, "a", batches=1)
    give_order(bench.store)
    worker = bench.worker()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker._engine, "numbers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.run()
    job = JobQueue(bench.store).lease("next", worker._fitness, _LEASE)
    assert job is not None
    assert job.attempts == 1, "it was no attempt"


def test_a_database_that_goes_away_costs_nothing(
    prover: Prover, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes away while a batch is computed, and is back later."""
    with running() as server, closing(BatchStore(server.new_database())) as store:
        bench = Bench(store, prover, directory)
        deliver(store, prover, "a")
        give_order(store)
        worker = bench.worker()
        real = worker._engine.numbers
        computed: list[Any] = []

        def numbers(round_: Round, claims: Sequence[ProofBatch]) -> Mapping[NonceKey, Sequence[float]]:
            if not computed:
                server.stop("immediate")
                threading.Timer(3, server.start).start()
            computed.append(claims)
            return real(round_, claims)

        monkeypatch.setattr(worker._engine, "numbers", numbers)
        worker.run(until_idle=True)
        assert len(computed) == 2, "nothing was computed twice"
        assert bench.conclusions() == {"a": "honest"}


def test_rows_are_what_the_issue_of_a_verdict_needs(bench: Bench, url: str) -> None:
    """A verdict is in its prover's record, and both are there or neither."""
    deliver(bench.store, bench.prover, "a")
    give_order(bench.store)
    worker, queue = bench.worker(), JobQueue(bench.store)
    worker._plan()
    execute(
        url,
        "CREATE FUNCTION broken() RETURNS TRIGGER LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'broken'; END $$",
        "CREATE TRIGGER broken BEFORE UPDATE ON provers FOR EACH ROW EXECUTE FUNCTION broken()",
    )
    job = queue.lease("w", worker._fitness, _LEASE)
    assert job is not None
    facts, numerics = bench.prover.model.facts, bench.prover.model.numerics
    judge = Judge(order=job.order, facts=facts, numerics=numerics)
    with pytest.raises(Exception, match="broken"):
        queue.complete(job, [[0.0, 0.0] for _ in job.keys], judge)
    assert verdicts_of(bench.store) == {}
    [row] = order_rows(bench.store.database)
    assert row["jobs_ended"] == 0
    execute(url, "DROP FUNCTION broken CASCADE")
    queue.release(job, "w")
    worker.run(until_idle=True)
    assert sorted(verdicts_of(bench.store)) == [1, 2]
    assert bench.conclusions() == {"a": "honest"}


def test_what_is_told_of_orders_is_json(bench: Bench) -> None:
    deliver(bench.store, bench.prover, "a")
    give_order(bench.store, Draw(randomness="r", power=0.99, cheat=0.5))
    bench.worker().run(until_idle=True)
    told: dict[str, Any] = json.loads(json.dumps(order_provers(bench.store.database, 1)[0]))
    assert told["sample"]["power_reached"] is True
    assert told["sample"]["drawn"] >= told["sample"]["needed"]
    assert json.loads(json.dumps(order_rows(bench.store.database)))[0]["block_hash"] == BLOCK


def test_no_id_that_a_sender_chooses_keeps_a_verdict_away(bench: Bench) -> None:
    deliver(bench.store, bench.prover, "a")
    for batch in (1, 2):
        bench.store.add("generated", {**BATCH, "nonces": [batch, 8, 9]}, f"verification-{batch}")
    give_order(bench.store)
    bench.worker().run(until_idle=True)
    assert sorted(verdicts_of(bench.store)) == [1, 2]


def test_a_batch_that_no_longer_reads_is_named_and_the_others_are_judged(bench: Bench) -> None:
    [body] = deliver(bench.store, bench.prover, "a", batches=1)
    bench.store.add("generated", {**body, "public_key": "b", "r_target": 10**400}, None)
    give_order(bench.store)
    bench.worker().run(until_idle=True)
    assert bench.conclusions() == {"a": "honest", "b": "no_verdict"}


def test_what_is_claimed_is_judged_whatever_stands_beside_it(bench: Bench) -> None:
    """A body that looks like a verdict, too: with the honest distances where a verdict has the claim."""
    [body] = deliver(bench.store, bench.prover, "a", batches=1)
    forged = {**body, "public_key": "b", "dist": [0.5] * 8, "vectors": None, "encoding": None}
    bench.store.add("generated", {**forged, "received_dist": body["dist"]}, None)
    give_order(bench.store)
    bench.worker().run(until_idle=True)
    assert bench.conclusions() == {"a": "honest", "b": "fraud"}


def test_an_error_that_nobody_expects_is_an_attempt_and_ends_no_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_once(monkeypatch)
    deliver(bench.store, bench.prover, "a", batches=1)
    give_order(bench.store)
    worker = bench.worker()

    def broken(*_: object) -> None:
        raise RuntimeError("device-side assert triggered")

    monkeypatch.setattr(worker._engine, "numbers", broken)
    worker.run(until_idle=True)
    assert bench.conclusions() == {"a": "no_verdict"}
    assert order_rows(bench.store.database)[0]["jobs_given_up"] == 1
    assert "RuntimeError: device-side assert triggered" in caplog.text


def test_a_worker_in_another_dtype_decides_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even beside a batch that says nothing of how it was computed."""
    [body] = deliver(bench.store, bench.prover, "a", batches=1)
    nothing = {"numerics": None, "round": None, "round_settings": None}
    bench.store.add("generated", {**body, "public_key": "b", **nothing}, None)
    order = give_order(bench.store)
    assert order.dtype == bench.prover.model.numerics["dtype"]
    with monkeypatch.context() as patched:
        other = {**bench.prover.model.numerics, "dtype": "float64"}
        patched.setattr(OwnEngine, "numerics", property(lambda _: other))
        bench.worker().run(until_idle=True)
    assert order_rows(bench.store.database)[0]["planned_at"] is None
    bench.worker().run(until_idle=True)
    assert bench.conclusions() == {"a": "honest", "b": "fraud"}, "they are the numbers of another key"


def test_a_strangers_batch_does_not_let_wrong_settings_be_planned(bench: Bench) -> None:
    [body] = deliver(bench.store, bench.prover, "a", batches=1)
    nothing = {"round": None, "round_settings": None}
    bench.store.add("generated", {**body, "public_key": "b", **nothing}, None)
    give_order(bench.store, settings={**SETTINGS, "seq_len": 8})
    bench.worker().run(until_idle=True)
    assert order_rows(bench.store.database)[0]["planned_at"] is None


def test_an_order_that_cannot_be_had_keeps_no_other_waiting(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(bench.store, bench.prover, "a")
    give_order(bench.store)
    assert bench.worker()._plan()
    deliver(bench.store, bench.prover, "b")
    give_order(bench.store, Draw(randomness="another"), {**SETTINGS, "fraud_threshold": 1e-5})
    worker = bench.worker()
    real = worker._engine.facts_of

    def facts_of(body: Mapping[str, Any]) -> DeployedModel:
        if body["fraud_threshold"] == SETTINGS["fraud_threshold"]:
            raise UnsupportedError("the server cannot compute the round")
        return real(body)

    monkeypatch.setattr(worker._engine, "facts_of", facts_of)
    worker.run(until_idle=True)
    assert bench.conclusions(2) == {"b": "honest"}
    assert order_rows(bench.store.database)[0]["jobs_ended"] == 0


def test_an_order_that_an_engine_cannot_have_now_waits_five_seconds(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    deliver(bench.store, bench.prover, "a")
    give_order(bench.store)
    clock = Clock()
    worker = bench.worker(clock=clock)
    with monkeypatch.context() as patched:

        def busy(_: object) -> None:
            raise EngineError("the server has a round of its own")

        patched.setattr(worker._engine, "facts_of", busy)
        assert not worker._plan()
    assert caplog.messages == ["Order 1 waits: the server has a round of its own"]
    assert not worker._plan(), "the engine is not asked again"
    clock.advance(4.9)
    assert not worker._plan()
    assert not worker._is_idle(), "an order that waits is not done"
    clock.advance(0.1)
    assert worker._plan()


def test_the_times_of_an_order_are_those_of_the_clock(bench: Bench) -> None:
    deliver(bench.store, bench.prover, "a", batches=1)
    now = Clock(1.8e9)
    OrderBook(bench.store.database, now=now).place(BLOCK, SETTINGS, Draw(randomness="r"))
    worker = bench.worker(now=now)
    now.advance(20)
    assert worker._plan()
    now.advance(300)
    assert worker._work()
    [row] = order_rows(bench.store.database)
    assert (row["ordered_at"], row["planned_at"]) == (1.8e9, 1.8e9 + 20)
    with bench.store.database.reading() as connection:
        assert connection.execute("SELECT ended_at FROM jobs").fetchall() == [(1.8e9 + 320,)]


def test_batches_that_all_claim_one_nonce_do_not_wait_for_one_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_MAX_BATCHES", 2)
    [body] = deliver(bench.store, bench.prover, "a", batches=1)
    for number in range(3):
        bench.store.add("generated", {**body, "another": number}, None)
    give_order(bench.store)
    bench.worker().run(until_idle=True)
    assert sorted(verdicts_of(bench.store)) == [1, 2]
    assert order_rows(bench.store.database)[0]["no_verdict"] == 2
