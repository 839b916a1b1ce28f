"""Posts numbered callbacks through an outbox on disk, in processes that may be killed at any moment.

Each generation is a process forked from this one, which has imported everything: `pid N` says which it is. It
posts payload after payload, and prints `posted N` once the outbox has said that it has number N. All but the
last generation go on until they are killed; that one posts a few, waits until nothing is queued, and ends.
"""

import argparse
import asyncio
import gc
import itertools
import os
from pathlib import Path

from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.settings.settings import Settings

_NUMBERS_OF_A_GENERATION = 100_000
_LAST_ONES = 10


def payload(name: str, number: int) -> dict[str, object]:
    """A callback that receivers take, told apart by its number."""
    return {
        "public_key": name,
        "block_hash": "a block",
        "block_height": 7,
        "node_id": 0,
        "nonces": [number],
        "dist": [1.25],
    }


async def send(database: Path, url: str, name: str, first: int, is_last: bool) -> None:
    """What one generation does."""
    settings = Settings(
        callback_backoff_base=0.01, callback_backoff_cap=0.1, callback_timeout=2.0, callback_max_retries=None
    )
    outbox = Outbox(settings, OutboxStore(database))
    await outbox.recover()
    numbers = range(first, first + _LAST_ONES) if is_last else itertools.count(first)
    for number in numbers:
        await outbox.post(url, "generated", compact_json(payload(name, number)))
        print("posted", number, flush=True)
        # About as fast as they are delivered, so that some are queued, one is in flight and some are gone.
        await asyncio.sleep(0.002)
    while outbox.stats()["queued"]:  # noqa: ASYNC110  # what it waits for is done by another process
        await asyncio.sleep(0.02)
    await outbox.close(1.0)


def main() -> None:
    """Run the generations, each when the one before has been killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--generations", type=int, required=True)
    arguments = parser.parse_args()
    gc.freeze()
    for generation in range(arguments.generations):
        pid = os.fork()
        if pid == 0:
            first = generation * _NUMBERS_OF_A_GENERATION
            is_last = generation == arguments.generations - 1
            asyncio.run(send(arguments.database, arguments.url, arguments.name, first, is_last))
            return
        print("pid", pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
