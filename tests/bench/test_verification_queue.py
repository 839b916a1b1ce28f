"""The bench of the queue under kills, shortened; and its account, which tells what is wrong."""

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from _queue_account import account, record_problems
from _queue_batches import CHEAT, Delivery, deliveries
from offline_proofs import Prover
from ordered_batches import SETTINGS
from postgresql_server import PostgresServer, running
from store_databases import execute

from hallmark.poc.offline.model import TransformersLoader
from hallmark.server.models.small import build_small_model
from hallmark.server.receiver.store import BatchStore
from hallmark.server.verification.order import Draw
from hallmark.server.verification.orders import OrderBook
from hallmark.server.verification.worker import OwnEngine, Worker

ROOT = Path(__file__).parents[2]


def test_batches_have_one_verdict_each_though_receivers_and_workers_are_killed() -> None:
    command = [
        *(sys.executable, "-P", "bench/verification_queue.py", "--no-results"),
        *("--batches", "60", "--kills", "4", "--crashes", "0", "--jobs", "0"),
    ]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    said = dict(re.findall(r"^ *([a-z ]+): (\d+)$", ran.stdout, re.M))
    assert (said["receivers killed"], said["workers killed"]) == ("2", "2")
    assert said["batches"] == said["acknowledged"] == "60"
    assert (said["lost"], said["doubled"]) == ("0", "0")
    assert int(said["verdicts"]) + int(said["without a verdict"]) == 60
    assert int(said["without a verdict"]) > 0


@dataclass(frozen=True, slots=True)
class Judged:
    """Batches that were delivered and judged as they should be."""

    url: str
    store: BatchStore
    batches: list[Delivery]
    acknowledged: dict[str, set[int]]

    def problems(self) -> list[str]:
        return account(self.store, self.batches, self.acknowledged)[1]


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgresServer]:
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def template(
    postgresql: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[Delivery], dict[str, set[int]]]:
    """A database in which all is judged."""
    directory = tmp_path_factory.mktemp("queue") / "model"
    build_small_model(directory)
    prover = Prover(directory)
    url = postgresql.new_database()
    batches = deliveries(prover, 2, 10, random.Random(0))  # noqa: S311
    with closing(BatchStore(url)) as store:
        stored = {
            batch.webhook_id: {store.add("generated", batch.body, batch.webhook_id)[0]} for batch in batches
        }
        for block in ("block 0", "block 1"):
            OrderBook(store.database).place(block, SETTINGS, Draw(randomness="r", nonces=4))
        engine = OwnEngine(prover.model, TransformersLoader(directory, None, None).fingerprint())
        Worker(store, engine, "a worker", 60.0).run(until_idle=True)
    return urlsplit(url).path.removeprefix("/"), batches, stored


@pytest.fixture
def judged(
    postgresql: PostgresServer, template: tuple[str, list[Delivery], dict[str, set[int]]]
) -> Iterator[Judged]:
    """A copy of it."""
    name, batches, stored = template
    url = postgresql.new_database(f"TEMPLATE {name}")
    with closing(BatchStore(url)) as store:
        yield Judged(url, store, batches, stored)


def test_an_account_has_nothing_to_say_where_all_is_well(judged: Judged) -> None:
    counts, problems = account(judged.store, judged.batches, judged.acknowledged)
    assert problems == []
    assert (counts["acknowledged"], counts["verdicts"], counts["without a verdict"]) == (20, 19, 1)
    assert (counts["lost"], counts["doubled"], counts["jobs leased again"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE batches SET webhook_id = 'x' WHERE id = 3", "block 0, batch 2 was acknowledged as {3}"),
        ("UPDATE batches SET body = '{}' WHERE id = 3", "block 0, batch 2 was acknowledged as {3}"),
        (
            "UPDATE verifications SET verdict = NULL WHERE batch = 4",
            "batch 4 has verdict None and error None",
        ),
        ("UPDATE verifications SET error = 'e' WHERE batch = 4", "batch 4 has verdict"),
        (
            "UPDATE verifications SET verdict = NULL, error = 'e' WHERE batch = 4",
            "batch 4 has verdict None and error 'e': it should not",
        ),
        (
            "UPDATE batches SET body = replace(body, '\"batch\":4,', '\"batch\":5,') WHERE id > 20",
            "batches have more than one verdict: [5]",
        ),
        ("UPDATE jobs SET ended_at = NULL WHERE id = 1", "1 jobs are open, 0 were given up"),
        ("UPDATE jobs SET numbers = NULL WHERE id = 1", "0 jobs are open, 1 were given up"),
        ("UPDATE ordered_provers SET n_open = 1 WHERE id = 3", "order 1 left ['prover 2'] open"),
        (
            'UPDATE ordered_provers SET conclusion = \'{"verdict": "fraud"}\' WHERE id = 3',
            f"order 1 left [] open and convicted ['{CHEAT}', 'prover 2']",
        ),
        ("UPDATE provers SET batches = 9 WHERE public_key = 'prover 2'", "the record of 'prover 2' is"),
        ("DELETE FROM provers WHERE public_key = 'prover 0'", "the records convict []"),
    ],
)
def test_an_account_tells_what_is_wrong(judged: Judged, change: str, said: str) -> None:
    execute(judged.url, change)
    assert any(problem.startswith(said) for problem in judged.problems()), judged.problems()


def test_a_record_counts_a_nonce_once(judged: Judged) -> None:
    """The fourth prover's batches claim half of their nonces twice."""
    assert record_problems(judged.store) == []
    record = next(each for each in judged.store.provers() if each.public_key == "prover 3")
    assert record.batches == 4
    assert record.evidence.nonces <= 16
