"""A disk that is full in the middle of a round: the round ends and says why, and nothing counted is lost."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from builders import small_config
from runtime import POC, QUICK, Engine, application, client_of, eventually, running_receiver, snapshot
from small_disk import SmallDisk, small_file_system, small_files

from hallmark.poc.core.errors import OutboxError
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.protocol.config import PoCState
from hallmark.poc.specification import PoCManager

# Nothing is merged before the end, so that findings fill the disk.
SETTINGS = QUICK.model_copy(update={"callback_interval": 3600.0})
BYTES = 2**18


@pytest.fixture(params=[small_file_system, small_files], ids=["full", "failing"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    with request.param(tmp_path / "disk", BYTES) as disk:
        yield disk


def kept(path: Path) -> tuple[int, dict[int, float]]:
    """The position of the round that the file has, and what was found on the way there."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        (position,) = database.execute("SELECT position FROM rounds").fetchone()
        found = [json.loads(row) for (row,) in database.execute("SELECT found FROM findings ORDER BY id")]
    return position, {n: d for nonces, dist, _ in found for n, d in zip(nonces, dist, strict=True)}


async def test_a_round_ends_where_the_disk_is_full_and_keeps_all_it_has_counted(disk: SmallDisk) -> None:
    path = disk.path / "outbox.db"
    async with running_receiver() as receiver:
        manager = PoCManager(Engine(), SETTINGS, Outbox(SETTINGS, OutboxStore(path)))
        try:
            await manager.recover()
            await manager.start_round(small_config(callback_url=receiver.url))
            await eventually(lambda: manager.state is PoCState.STOPPED)
            status = snapshot(manager)
            assert f"the outbox {path} cannot be written" in status["reason"]
            assert not manager.gate_closed
            async with client_of(application(manager)) as http:
                assert (await http.post("/v1/completions", json=[1, 2])).status_code == 200
                assert (await http.get(f"{POC}/status")).json()["state"] == "STOPPED"
            assert status["total_checked"] > 0
            position, found = await asyncio.to_thread(kept, path)
            shown = dict(zip(status["valid_nonces"], status["valid_distances"], strict=True))
            assert position == status["total_checked"] == status["total_valid"] == len(found)
            assert shown.items() <= found.items()

            with pytest.raises(OutboxError, match="cannot be written"):
                await manager.start_round(small_config(block_hash="too early"))
            disk.make_room()
            # What it had found is delivered by itself, and no other round is needed for that.
            await eventually(lambda: sum(len(b["nonces"]) for b in receiver.bodies("generated")) >= position)
            await manager.start_round(small_config(block_hash="another", callback_url=receiver.url))
            await eventually(lambda: snapshot(manager)["total_checked"] >= 8)
            await manager.stop()
        finally:
            await manager.shutdown()
        bodies = receiver.bodies("generated")
        arrived = [
            pair
            for body in bodies
            if body["block_hash"] == small_config().block_hash
            for pair in zip(body["nonces"], body["dist"], strict=True)
        ]
        assert len(arrived) == position, "each once"
        assert dict(arrived) == found
        assert any(body["block_hash"] == "another" for body in bodies), "the next round is as any other"
