"""Calls of several clients in random order. Specification 6.2: no race conditions or deadlocks."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress

import httpx
import pytest
from builders import small_config, small_request
from runtime import POC, QUICK, Engine, application, client_of, honest_proof, running_manager, snapshot

from hallmark.poc.core.errors import EngineError, HallmarkError, RoundCancelledError, StateError
from hallmark.poc.protocol.config import PoCConfig, PoCState
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round_spec import RoundSpec
from hallmark.poc.rounds.engine_protocol import Slice
from hallmark.poc.rounds.validation_job import ValidationJob
from hallmark.poc.specification import PoCManager
from hallmark.poc.verdict.judge import Verdict

CLIENTS, CALLS_PER_CLIENT = 6, 40
SIZE = {"batch_size": 4, "seq_len": 2}
CONFIGS = [small_config(block_hash=block, public_key="prover", **SIZE) for block in ("block a", "block b")]


class WatchedEngine(Engine):
    """Notes what is done in which round, and fails now and then."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.rounds: list[tuple[str, list[list[NonceKey]]]] = []
        self.is_open = False
        self.may_fail = True
        self._chance = chance

    async def open_round(self, spec: RoundSpec) -> int:
        assert not self.is_open, "the previous round was not closed"
        self.is_open = True
        self.rounds.append((spec.block_hash, []))
        return await super().open_round(spec)

    @property  # type: ignore[misc]  # nobody sets it here
    def is_idle(self) -> bool:
        return self._chance.random() < 0.5

    async def start(self, batches: Sequence[Sequence[NonceKey]], layers: int | None) -> Slice:
        assert self.is_open
        self.rounds[-1][1].extend(list(keys) for keys in batches)
        if self.may_fail and self._chance.random() < 0.01:
            raise EngineError("injected")
        return await super().start(batches, layers)

    async def close_round(self) -> None:
        self.is_open = False
        await super().close_round()


class Clients:
    """Several clients of one manager, each making random calls, checking what must hold at all times."""

    def __init__(self, manager: PoCManager, proofs: list[ProofBatch], chance: random.Random) -> None:
        self.manager = manager
        self.proofs = proofs
        self.chance = chance
        self.jobs: list[ValidationJob] = []
        self.refusals: list[HallmarkError] = []

    async def run(self) -> None:
        async with asyncio.timeout(120):
            await asyncio.gather(*(self._client() for _ in range(CLIENTS)))

    async def _client(self) -> None:
        for _ in range(CALLS_PER_CLIENT):
            call = self.chance.choices(
                [self._start, self._init, self._switch, self._stop, self._validate, self._generate],
                weights=[4, 0.3, 4, 0.5, 8, 2],  # rounds must live long enough to judge something
            )[0]
            try:
                await call()
            except (StateError, RoundCancelledError, EngineError) as exc:
                self.refusals.append(exc)
            self.check()
            await asyncio.sleep(self.chance.choice([0, 0, 0.002, 0.05]))

    def check(self) -> None:
        manager, active = self.manager, self.manager.active
        assert manager.gate_closed == (manager.state is PoCState.GENERATING)
        status = snapshot(manager)
        assert status["state"] == manager.state.value
        assert (status["reason"] is not None) == (manager.state is PoCState.STOPPED and active is not None)
        if manager.state is PoCState.STOPPED:
            assert status["validation"]["queued_jobs"] == 0
        assert status["total_checked"] >= status["total_valid"]

    def _config(self) -> PoCConfig:
        return self.chance.choices(CONFIGS, weights=[9, 1])[0]

    async def _start(self) -> None:
        phase = self.chance.choice([PoCState.GENERATING, PoCState.VALIDATING])
        await self.manager.start_round(self._config(), phase)

    async def _init(self) -> None:
        await self.manager.init(self._config())

    async def _switch(self) -> None:
        await self.manager.switch_phase(self.chance.choice([PoCState.GENERATING, PoCState.VALIDATING]))

    async def _stop(self) -> None:
        await self.manager.stop()

    async def _validate(self) -> None:
        self.jobs.append(await self.manager.submit(self.chance.choice(self.proofs)))

    async def _generate(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):  # a client that goes away in the middle
                await self.manager.run_batch()


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_the_order_of_calls_the_invariants_hold(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    proofs = [
        await honest_proof(small_config(block_hash=each.block_hash, public_key="other", **SIZE), range(6))
        for each in CONFIGS
    ]
    engine = WatchedEngine(chance)
    async with running_manager(engine, QUICK) as manager:
        clients = Clients(manager, proofs, chance)
        await clients.run()
        # After all that a plain round still runs, and its batch is judged.
        engine.may_fail = False
        await manager.start_round(CONFIGS[1], PoCState.VALIDATING)
        clients.jobs.append(await manager.submit(proofs[1]))
        await clients.jobs[-1].settled.wait()
        await manager.stop()
    verdicts = [job.outcome().verdict for job in clients.jobs if job.status == "completed"]
    errors = [str(job.error) for job in clients.jobs if job.status == "failed"]
    assert len(verdicts) + len(errors) == len(clients.jobs), "every submitted batch is answered"
    assert set(verdicts) == {Verdict.HONEST}
    assert all("has ended: " in error for error in errors)
    assert clients.refusals

    assert not engine.overlapped
    for block, batches in engine.rounds:
        walked: list[int] = []
        for keys in batches:
            assert len({key for key, _ in keys}) == 1, "generation and validation do not share a batch"
            if keys[0][0] == "prover":
                walked += [nonce for _, nonce in keys]
        assert walked == list(range(len(walked))), f"the walk for {block} has a gap or a repetition"


async def test_clients_over_http_never_see_a_state_that_is_not_one() -> None:
    """Specification 6.2: no race conditions or deadlocks, from outside."""
    chance = random.Random(0)  # noqa: S311
    engine = Engine()
    bodies = [small_request(block_hash=block, **SIZE) for block in ("block a", "block b")]
    proofs = [
        (await honest_proof(small_config(block_hash=body["block_hash"], **SIZE), range(6))).as_dict()
        for body in bodies
    ]

    async def client(http: httpx.AsyncClient) -> None:
        for _ in range(25):
            path, body = chance.choice(
                [
                    ("/init/generate", chance.choice(bodies)),
                    ("/init/validate", chance.choice(bodies)),
                    ("/phase/generate", None),
                    ("/phase/validate", None),
                    ("/validate", chance.choice(proofs)),
                    ("/validate?wait=false", chance.choice(proofs)),
                    ("/stop", None),
                ]
            )
            answer = await http.post(POC + path, json=body)
            assert answer.status_code in (200, 202, 409), answer.text
            if answer.status_code == 409:
                assert answer.json()["detail"]
            elif path == "/validate" and answer.status_code == 200:
                assert answer.json()["verdict"] == "honest"
            status = (await http.get(f"{POC}/status")).json()
            assert status["state"] in list(PoCState)
            gate = await http.post("/v1/completions", json=[1, 2])
            assert gate.status_code in (200, 503)

    async with (
        running_manager(engine, QUICK) as manager,
        client_of(application(manager)) as http,
        asyncio.timeout(120),
    ):
        await asyncio.gather(*(client(http) for _ in range(5)))
        assert (await http.post(f"{POC}/init/validate", json=bodies[0])).status_code == 200
        assert (await http.post(f"{POC}/validate", json=proofs[0])).json()["verdict"] == "honest"
    assert not engine.overlapped
