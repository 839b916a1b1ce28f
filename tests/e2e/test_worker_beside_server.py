"""A real server computes what a worker asks for, and answers chat meanwhile."""

import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node import Node, Receiver, round_request
from postgresql_server import running

from hallmark.poc.core.errors import StateError
from hallmark.poc.offline.engine import Batch
from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.judge import judge
from hallmark.server.cli.client import PoCClient
from hallmark.server.cli.queue.server_engine import ServerEngine
from hallmark.server.receiver.store import BatchStore
from hallmark.server.verification.order import Draw
from hallmark.server.verification.orders import OrderBook
from hallmark.server.verification.progress import order_provers

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

NONCES = 12
PROVERS = 6


def generated(node: Node, receiver: Receiver, body: Mapping[str, Any]) -> ProofBatch:
    """What a prover delivers first."""
    node.poc("/init/generate", {**body, "callback_url": receiver.url})
    [first, *_] = receiver.wait_for("generated", lambda bodies: len(bodies) > 0)
    node.poc("/stop")
    return ProofBatch.parse(first)


def test_numbers_are_those_of_transformers_within_the_rounds_sigma_and_chat_is_served(
    node: Node, dtype: str, receiver: Receiver, small_model: Path
) -> None:
    body = round_request()
    honest = generated(node, receiver, body)
    claims = [
        ProofBatch(
            public_key=f"prover {number}",
            block_hash=body["block_hash"],
            block_height=body["block_height"],
            nonces=tuple(range(number, number + NONCES)),
            dist=(1.4,) * NONCES,
        )
        for number in range(PROVERS)
    ]
    sampled = ProofBatch.parse(
        {
            **{name: getattr(honest, name) for name in ("public_key", "block_hash", "block_height")},
            "nonces": honest.nonces[:NONCES],
            "dist": honest.dist[:NONCES],
        }
    )
    with PoCClient(node.url, timeout=300, use_proxies=False) as client, ThreadPoolExecutor(1) as thread:
        engine = ServerEngine(client, "w1")
        node.poc("/init", body)
        with pytest.raises(StateError, match="the server has a round of its own"):
            engine.facts_of(body)
        node.poc("/stop")
        round_ = Round.resolve(PoCConfig.parse(body), engine.facts_of(body))
        computing = thread.submit(engine.numbers, round_, [*claims, sampled])
        chats = [node.chat().status_code]
        while not computing.done():
            chats.append(node.chat().status_code)
        found = computing.result()
        numerics = engine.numerics
        engine.close()
    assert set(chats) == {200}
    assert node.status()["state"] == "STOPPED"

    with closing(OfflineModel.load(small_model, device="cpu", dtype=dtype)) as model:
        offline = Round.resolve(PoCConfig.parse(body), model.deployed("", 2**20))
        assert (offline.digest, offline.spec()) == (round_.digest, round_.spec())
        keys = [*found]
        batches = [
            Batch(offline.spec(), tuple(keys[start : start + offline.batch_size]))
            for start in range(0, len(keys), offline.batch_size)
        ]
        expected = {
            key: numbers
            for batch, of_batch in model.compute(batches)
            for key, numbers in zip(batch.keys, of_batch, strict=True)
        }
    assert len(keys) == (PROVERS + 1) * NONCES
    ours, theirs = (np.array([numbers[key] for key in keys]) for numbers in (found, expected))
    assert round_.honest_sigma is not None
    error = float(np.sqrt(np.mean(np.square(ours - theirs))))
    assert error <= round_.honest_sigma

    # A server agrees with itself, whatever else is in a batch.
    claimed = honest.numbers()
    assert claimed is not None
    mine = [found[honest.public_key, nonce] for nonce in honest.nonces[:NONCES]]
    assert np.array_equal(claimed[:NONCES], mine)
    computed = {nonce: found[honest.public_key, nonce] for nonce in honest.nonces[:NONCES]}
    verdict = judge(honest, computed, round_, numerics, sampled=computed)
    assert (verdict.verdict, verdict.numbers, verdict.n_judged) == ("honest", round_.numbers, NONCES)
    assert set(verdict.numerics_differ) <= {"batch_size", "seq_len"}


def test_a_worker_beside_a_server_judges_what_was_ordered(node: Node, receiver: Receiver) -> None:
    """An honest batch, and one that claims other nonces' numbers."""
    body = round_request(block_hash="ordered")
    node.poc("/init/generate", {**body, "callback_url": receiver.url})
    bodies = receiver.wait_for(
        "generated", lambda found: any(each["block_hash"] == "ordered" for each in found)
    )
    node.poc("/stop")
    [honest, *_] = [each for each in bodies if each["block_hash"] == "ordered"]
    others = {name: honest[name][::-1] for name in ("dist", "vectors")}
    forged = {**honest, **others, "public_key": "a forger"}
    with running() as server, closing(BatchStore(server.new_database())) as store:
        for each in (honest, forged):
            store.add("generated", each, None)
        settings = {name: body[name] for name in ("batch_size", "seq_len")}
        OrderBook(store.database).place("ordered", settings, Draw(randomness="later", nonces=6))
        command = [sys.executable, "-P", "-m", "hallmark.server", "worker", "--until-idle"]
        command += ["--database", server.url("hallmark0"), "--server", node.url]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert ran.returncode == 0, ran.stderr
        told = order_provers(store.database, 1)
    found = {each["public_key"]: each["conclusion"]["verdict"] for each in told}
    assert found == {honest["public_key"]: "honest", "a forger": "fraud"}
    assert node.status()["state"] == "STOPPED", "its round is over with it"
