"""Random calls on a real server, beside traffic: whatever their order, what must hold holds.

Specification 6.2: no race conditions or deadlocks. The same on a simulated engine, by the thousand, is in
tests/poc/test_state_machine.py.
"""

import random
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from _traffic import Traffic
from node import Node, proof, round_request

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

BLOCKS = ("block a", "block b")
CALLS = 120


def many_nonces(block: str) -> dict[str, Any]:
    """A batch that takes long on any machine: a fifth of the nonces that may wait at most."""
    return proof(round_request(block_hash=block), list(range(20_000)), [1.0] * 20_000)


class Client:
    """Calls at random, remembering the jobs that were accepted."""

    def __init__(self, node: Node, chance: random.Random, distances: dict[str, list[float]]) -> None:
        self.node = node
        self.chance = chance
        self.distances = distances
        self.jobs: list[tuple[str, str]] = []
        self.answers: set[tuple[str, int]] = set()

    def call(self) -> None:
        calls: list[Callable[[], object]] = [
            lambda: self._post("/init", self._round()),
            lambda: self._post("/init/generate", self._round()),
            lambda: self._post("/init/validate", self._round()),
            lambda: self._post("/init/validate", self._round()),
            lambda: self._post("/phase/generate", None),
            lambda: self._post("/phase/validate", None),
            lambda: self._post("/stop", None),
            self._submit,
            self._submit,
            self._submit,
            self._give_up_waiting,
        ]
        self.chance.choice(calls)()

    def _round(self) -> dict[str, Any]:
        return round_request(block_hash=self.chance.choice(BLOCKS), valid_rate=1)

    def _post(self, path: str, body: Any) -> httpx.Response:
        response = self.node.http.post(f"/api/v1/pow{path}", json=body)
        assert response.status_code in (200, 202, 409), response.text
        self.answers.add((path, response.status_code))
        return response

    def _batch(self, block: str) -> dict[str, Any]:
        nonces = list(range(len(self.distances[block])))
        return proof(
            round_request(block_hash=block),
            nonces,
            self.distances[block],
            public_key=self.chance.choice("ab"),
        )

    def end(self) -> None:
        """See one job completed and end another with its round, whatever became of those at random.

        On a slow machine a batch that takes long holds up all that come after it, on a fast one nothing.
        """
        block = BLOCKS[0]
        self.node.poc("/stop")
        self.node.poc("/init/validate", round_request(block_hash=block, valid_rate=1))
        short = self._accepted(block, self._batch(block))
        self.node.wait_for(lambda _: self.node.get(f"/api/v1/pow/validate/{short}")["status"] == "completed")
        self._accepted(block, many_nonces(block))
        self.node.poc("/stop")

    def _submit(self) -> None:
        block = self.chance.choice(BLOCKS)
        response = self._post("/validate?wait=false", self._batch(block))
        if response.status_code == 202:
            self.jobs.append((block, response.json()["request_id"]))

    def _accepted(self, block: str, batch: dict[str, Any]) -> str:
        job: str = self.node.poc("/validate?wait=false", batch, status=202)["request_id"]
        self.jobs.append((block, job))
        return job

    def _give_up_waiting(self) -> None:
        """Where a round validates, on a batch of its block that takes longer than the client has patience."""
        asked = self.node.status()["config"] or round_request()
        many = many_nonces(asked["block_hash"])
        url = f"{self.node.url}/api/v1/pow/validate"
        try:
            answer = httpx.post(url, json=many, timeout=0.3, trust_env=False)
            assert answer.status_code in (202, 409), answer.text
        except httpx.ReadTimeout:
            self.answers.add(("gave up", 0))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_whatever_the_order_of_calls_every_job_ends_once_and_the_gate_is_the_states(
    node: Node, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    distances = {}
    for block in BLOCKS:
        node.poc("/init/validate", round_request(block_hash=block))
        claims = proof(round_request(block_hash=block), list(range(40)), [1.0] * 40, public_key="a")
        distances[block] = node.poc("/validate", claims)["computed_distances"]
    node.poc("/stop")
    client = Client(node, chance, distances)
    for _ in range(CALLS):
        client.call()
        state = node.status()["state"]
        assert (node.chat().status_code == 503) is (state == "GENERATING")
        time.sleep(chance.choice([0, 0, 0.05]))
    assert {("/validate?wait=false", 202), ("/validate?wait=false", 409), ("gave up", 0)} <= client.answers

    client.end()
    status = node.wait_for(lambda status: not status["is_model_initialized"])
    assert status["validation"]["queued_jobs"] == status["validation"]["queued_nonces"] == 0
    results = [(block, node.get(f"/api/v1/pow/validate/{job}")) for block, job in client.jobs]
    assert {result["status"] for _, result in results} == {"completed", "failed"}
    for block, result in results:
        if result["status"] == "failed":
            assert "has ended" in result["error"]
            continue
        # Key `a` is the one whose distances these are.
        assert (result["computed_distances"] == distances[block]) is (result["verdict"] == "honest")
    # Afterwards a round goes as ever, beside traffic.
    with Traffic(node.url, node.model, clients=2, seed=seed).running():
        node.poc("/init/validate", round_request(block_hash=BLOCKS[0]))
        verdict = node.poc(
            "/validate",
            proof(round_request(block_hash=BLOCKS[0]), list(range(40)), distances[BLOCKS[0]], public_key="a"),
        )
    assert (verdict["verdict"], verdict["computed_distances"]) == ("honest", distances[BLOCKS[0]])
