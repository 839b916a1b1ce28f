"""What an outbox of ten thousand callbacks costs a server: time, memory, disk, and stalls of the event loop.

The server's own `Outbox` queues merged batches for two real receivers, on a file, while neither is there. It
is closed and opened again as by a restart; then one receiver comes, and then the other one. A task that
sleeps a millisecond at a time shows how long the event loop, which also serves chat, is held up meanwhile.
"""

import argparse
import asyncio
import sqlite3
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

import psutil
from _outages import Receiver
from _report import print_table, target, write_results

from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.protocol.status import CallbackStats
from hallmark.poc.settings.settings import Settings
from hallmark.server.receiver.store import BatchStore

NONCES = 100
"""Of a batch: what a node with 20 valid nonces a second merges in five seconds."""

_IDLE_SECONDS = 2.0
_POLL_SECONDS = 0.05
_FLUSH_SECONDS = 1.0
_MEBIBYTE = 2**20


class Phase:
    """What is measured of a stretch of time.

    Args:
        name: What happens in it.
        path: The outbox's file.
    """

    def __init__(self, name: str, path: Path) -> None:
        self._row: dict[str, Any] = {"phase": name}
        self._path = path
        self._process = psutil.Process()
        self._stalls: list[float] = []
        self._peak = 0
        self.commits: list[float] = []

    @asynccontextmanager
    async def measured(self, batches: int = 0) -> AsyncIterator[None]:
        """Measure the length of a block, in which so many batches are handled."""
        tasks = [asyncio.create_task(self._sleep()), asyncio.create_task(self._watch_memory())]
        await asyncio.sleep(_POLL_SECONDS)
        begun = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begun
            # What has been held up to the end is late only now.
            await asyncio.sleep(_POLL_SECONDS)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if batches:
            self._row |= {"batches": batches, "batches_s": round(batches / seconds, 1)}
        self._row |= {"seconds": round(seconds, 2)}
        self._row["file_mib"] = round(file_bytes(self._path) / _MEBIBYTE, 1)

    def row(self) -> dict[str, Any]:
        """Return what was measured."""
        if self.commits:
            self._row["commit_ms"] = _percentiles(self.commits)
        self._row["stall_ms"] = [*_percentiles(self._stalls), round(max(self._stalls) * 1e3, 2)]
        self._row["peak_mib"] = round(self._peak / _MEBIBYTE, 1)
        return self._row

    async def _sleep(self) -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.001)
            self._stalls.append(time.perf_counter() - begun - 0.001)

    async def _watch_memory(self) -> None:
        while True:
            self._peak = max(self._peak, self._process.memory_info().rss)
            await asyncio.sleep(_POLL_SECONDS)


def batch(number: int) -> dict[str, Any]:
    """Return a merged batch of a node, as the server makes them."""
    first = number * NONCES
    nonces = range(first, first + NONCES)
    return {
        **{"public_key": "02ab64c1f0" * 6, "block_hash": "00000000000000000001f8a2c5d3" * 2},
        **{"block_height": 812_345, "node_id": 0, "round": "0" * 64},
        "covered": [first, first + NONCES - 1],
        "nonces": [*nonces],
        # As many digits as distances have.
        "dist": [1.3 + nonce * 1.1e-11 for nonce in nonces],
        "failed_nonces": [],
        "numerics": {
            "vllm": "0.32.0",
            "torch": "2.13.0",
            "dtype": "bfloat16",
            "batch_size": 32,
            "seq_len": 256,
        },
    }


async def bench(directory: Path, count: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the phases, and what concerns all of them."""
    path = directory / "outbox.db"
    settings = Settings(callback_backoff_base=0.1, callback_backoff_cap=1.0)
    receivers = [Receiver(directory, name) for name in ("first", "second")]
    about: dict[str, Any] = {"body_bytes": len(compact_json(batch(count))), "resident_mib_before": resident()}

    phases = [Phase("idle", path)]
    outbox = await _started(settings, path)
    async with phases[-1].measured():
        await asyncio.sleep(_IDLE_SECONDS)
    phases.append(Phase("queue, both receivers down", path))
    async with phases[-1].measured(count):
        for number in range(count):
            body = batch(number // 2)
            begun = time.perf_counter()
            await outbox.post(receivers[number % 2].url, "generated", compact_json(body))
            phases[-1].commits.append(time.perf_counter() - begun)
    about["resident_mib_with_all_queued"] = resident()
    await outbox.close(_FLUSH_SECONDS)

    phases.append(Phase("start on what is queued", path))
    async with phases[-1].measured():
        outbox = await _started(settings, path)
    assert outbox.stats()["queued"] == count
    for number, receiver in enumerate(receivers):
        phases.append(Phase(f"deliver, {('one', 'both')[number]} up", path))
        # Not on the event loop, nor in a thread that ends: the receiver would end with it.
        await asyncio.to_thread(receiver.start)
        await _until(outbox, receiver.url, lambda stats: stats["delivered"] > 0)
        async with phases[-1].measured(_of(outbox, receiver.url)["queued"]):
            await _until(outbox, receiver.url, lambda stats: stats["queued"] == 0)
    about["resident_mib_after"] = resident()
    about["retried"] = outbox.stats()["retried"]
    await outbox.close(_FLUSH_SECONDS)
    about["file_mib_after"] = round(file_bytes(path) / _MEBIBYTE, 1)
    for receiver in receivers:
        await asyncio.to_thread(receiver.stop)
        check(receiver, count // 2)
    return [phase.row() for phase in phases], about


def check(receiver: Receiver, count: int) -> None:
    """That a receiver has every batch once, in order."""
    with closing(BatchStore(receiver.database)) as store:
        assert store.stats()["generated"] == {"batches": count, "nonces": count * NONCES, "duplicates": 0}
        begins = [
            found["body"]["covered"][0]
            for identifier in range(1, count + 1)
            if (found := store.get(identifier)) is not None
        ]
    assert begins == [n * NONCES for n in range(count)]


def resident() -> float:
    """Return what this process holds of memory, in MiB."""
    return round(float(psutil.Process().memory_info().rss) / _MEBIBYTE, 1)


def file_bytes(path: Path) -> int:
    """Return the bytes of an outbox's file and its write-ahead log."""
    return sum(file.stat().st_size for ending in ("", "-wal") if (file := Path(f"{path}{ending}")).exists())


async def _started(settings: Settings, path: Path) -> Outbox:
    outbox = Outbox(settings, OutboxStore(path))
    await outbox.recover()
    return outbox


def _of(outbox: Outbox, url: str) -> CallbackStats:
    """Return what the status shows of a receiver, asked for as often as a busy operator would."""
    return outbox.stats()["receivers"][url]


async def _until(outbox: Outbox, url: str, condition: Callable[[CallbackStats], bool]) -> None:
    while not condition(_of(outbox, url)):  # noqa: ASYNC110  # it is about what others do
        await asyncio.sleep(_POLL_SECONDS)


def _percentiles(seconds: Sequence[float]) -> list[float]:
    """Return the 50th and the 99th in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return [round(cuts[each - 1] * 1e3, 2) for each in (50, 99)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=10_000, help="for both receivers together")
    parser.add_argument("--no-results", action="store_true", help="write no results file")
    arguments = parser.parse_args()
    with TemporaryDirectory() as directory:
        rows, about = asyncio.run(bench(Path(directory), arguments.batches))
    print_table(rows)
    print_table([about])
    if arguments.no_results:
        return
    write_results(
        "outbox",
        target(),
        about=(
            f"{arguments.batches} batches of {NONCES} nonces, half of them for each of two `hallmark "
            "receiver` processes on the same machine, through the server's outbox on a file: batches a "
            "second, "
            "milliseconds that the one who queues waits for the commit (50th and 99th percentile), "
            "milliseconds that a task of the event loop which sleeps for one is late (50th and 99th "
            "percentile, longest), this process's peak of resident memory and the file with its log at the "
            "end of the phase, in MiB. The outbox is closed before, and opened again in, the third phase."
        ),
        rows=rows,
        packages=("hallmark-poc", "torch", "httpx"),
        sqlite=sqlite3.sqlite_version,
        **about,
    )


if __name__ == "__main__":
    main()
