"""What rounds leave behind in the API server, counted in objects: the answers to validated batches."""

import gc
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from builders import small_request
from runtime import (
    POC,
    QUICK,
    CallbackReceiver,
    Engine,
    application,
    client_of,
    eventually,
    running_receiver,
    snapshot,
)

from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.rounds.validation_job import SettledJob
from hallmark.poc.specification import PoCManager

ROUNDS = 8
COUNTED = ("hallmark.", "_asyncio.Task", "httpx.", "httpcore.", "sqlite3.")


@pytest.fixture
async def receiver() -> AsyncIterator[CallbackReceiver]:
    async with running_receiver() as receiver:
        yield receiver


async def run_round(
    number: int, http: httpx.AsyncClient, manager: PoCManager, receiver: CallbackReceiver
) -> None:
    """Generate, validate a forged batch and a true one, stop, and let everything be delivered."""
    body = small_request(block_hash=f"block {number}", callback_url=receiver.url)
    batch = {key: body[key] for key in ("block_hash", "block_height", "public_key", "node_id")}
    batch["nonces"] = [*range(8)]
    (await http.post(f"{POC}/init/generate", json=body)).raise_for_status()
    await eventually(lambda: snapshot(manager)["total_checked"] >= 8)
    (await http.post(f"{POC}/phase/validate")).raise_for_status()
    forged = await http.post(f"{POC}/validate", json={**batch, "dist": [1.0] * 8})
    assert forged.json()["verdict"] == "fraud"
    honest = await http.post(f"{POC}/validate", json={**batch, "dist": forged.json()["computed_distances"]})
    assert honest.json()["verdict"] == "honest"
    (await http.post("/v1/completions", json=[1, 2, 3])).raise_for_status()
    (await http.get(f"{POC}/status")).raise_for_status()
    (await http.post(f"{POC}/stop")).raise_for_status()
    n_valid = snapshot(manager)["total_valid"]
    await eventually(lambda: sum(len(each["nonces"]) for each in receiver.bodies("generated")) == n_valid)
    await eventually(lambda: len(receiver.bodies("validated")) == 2)
    await eventually(lambda: not snapshot(manager)["callbacks"]["queued"])
    assert manager.active is not None
    assert manager.active.owner is not None
    await manager.active.owner


def count() -> Counter[str]:
    """Living objects of the classes that rounds are made of, by name."""
    gc.collect()
    names = (f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
    return Counter(name for name in names if name.startswith(COUNTED))


async def test_rounds_leave_nothing_but_answers(tmp_path: Path, receiver: CallbackReceiver) -> None:
    engine = Engine()
    manager = PoCManager(engine, QUICK, Outbox(QUICK, OutboxStore(tmp_path / "outbox.db")))
    await manager.recover()

    async def run(numbers: range) -> Counter[str]:
        for number in numbers:
            await run_round(number, http, manager, receiver)
            receiver.requests.clear()
            engine.keys.clear()
        return count()

    async with client_of(application(manager)) as http:
        before = await run(range(3))
        after = await run(range(3, 3 + ROUNDS))
    await manager.shutdown()
    grown = {name: n - before[name] for name, n in after.items() if n - before[name] >= ROUNDS}
    assert grown == {f"{SettledJob.__module__}.SettledJob": 2 * ROUNDS}
