"""Receivers, workers and the database killed again and again while batches come in and are verified."""

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

from _queue_account import account
from _queue_batches import Delivery
from _queue_killers import DatabaseCrashes, ReceiverKiller, WorkerKiller
from _queue_processes import ENVIRONMENT, Kept, receiver, worker, worker_command
from _queue_progress import Part, Progress
from _queue_senders import DRAWN, Senders
from ordered_batches import SETTINGS
from postgresql_server import PostgresServer

from hallmark.poc.core.errors import StateError
from hallmark.server.processes.child import ChildProcess
from hallmark.server.receiver.store import BatchStore
from hallmark.server.verification.order import Draw
from hallmark.server.verification.orders import OrderBook
from hallmark.server.verification.progress import order_rows

__all__ = ["LEASE", "PROCESSES", "run", "work_until_idle"]

LEASE: Final = 3.0
"""Seconds."""

PROCESSES: Final = 2
"""Receivers, and workers."""

_LONGEST_SECONDS: Final = 1800.0
_POLL_SECONDS: Final = 0.1
_ORDERS: Final = 3
"""How often a block is ordered at most."""


def run(
    server: PostgresServer,
    folder: Path,
    model: Path,
    batches: Sequence[Delivery],
    kills: int,
    crashes: int,
    seed: int,
) -> tuple[dict[str, Any], list[str]]:
    """Deliver and verify batches beside kills, and take account.

    Args:
        server: The database's, which is durable.
        folder: Where processes log.
        model: The model's directory.
        batches: What is delivered.
        kills: Of receivers and workers, half and half.
        crashes: Of the database.
        seed: Decides all that is left to chance.

    Returns:
        A row of results, and what is not as it should be.
    """
    database = server.new_database()
    BatchStore(database).close()
    begun = time.monotonic()
    receivers = [receiver(number, database, folder) for number in range(PROCESSES)]
    workers = [worker(number, database, model, folder, LEASE) for number in range(PROCESSES)]
    of_workers = kills // 2
    progress = Progress(len(batches), {"receiver": kills - of_workers, "worker": of_workers})
    first, second, third = (random.Random(f"{seed} {number}") for number in range(3))  # noqa: S311
    senders = Senders(batches, [each.url for each in receivers], database, progress, seed)
    receiver_killer = ReceiverKiller(receivers, senders, kills - of_workers, progress, first)
    worker_killer = WorkerKiller(workers, database, of_workers, progress, second)
    database_crashes = DatabaseCrashes(server, crashes, progress, third)
    kept = [*receivers, *workers]
    try:
        _keep_until_done(kept, [senders, receiver_killer, worker_killer, database_crashes])
    finally:
        for each in kept:
            each.stop()
    # They may have been stopped before they had taken all.
    work_until_idle(database, model, folder, PROCESSES, LEASE)
    with closing(BatchStore(database)) as store:
        ordered_again = 0
        while _order_rest(store, sorted({batch.block for batch in batches})):
            ordered_again += 1
            work_until_idle(database, model, folder, 1, LEASE)
        counts, problems = account(store, batches, senders.acknowledged)
        orders = len(order_rows(store.database))
    row = {
        "what": "kills",
        "batches": len(batches),
        "provers": len({batch.body["public_key"] for batch in batches}),
        "blocks": len({batch.block for batch in batches}),
        "receivers killed": receiver_killer.kills,
        "in a post": receiver_killer.hits,
        "workers killed": worker_killer.kills,
        "in a job": worker_killer.hits,
        "database crashes": database_crashes.crashes,
        **counts,
        "answers lost": senders.answers_lost,
        "posts sent again": senders.sent_again,
        "orders": orders,
        "ended for want of the database": sum(each.ended_alone for each in kept),
        "seconds": round(time.monotonic() - begun),
    }
    made = receiver_killer.kills + worker_killer.kills
    if (made, database_crashes.crashes) != (kills, crashes):
        problems.append(f"{made} kills and {database_crashes.crashes} crashes were made")
    return row, problems


def work_until_idle(database: str, model: Path, folder: Path, count: int, lease: float) -> None:
    """Run so many workers until there is nothing left to do."""
    with ExitStack() as stack:
        last = [
            stack.enter_context(
                ChildProcess(
                    "hallmark worker",
                    worker_command(f"last-{number}", database, model, lease, "--until-idle"),
                    log=folder / f"last-{number}.log",
                    environment=ENVIRONMENT,
                )
            )
            for number in range(count)
        ]
        for process in last:
            code = process.wait(_LONGEST_SECONDS)
            assert code == 0, f"{process.name} ended with {code}: {process.log_tail()}"


def _keep_until_done(kept: Sequence[Kept], parts: Sequence[Part]) -> None:
    """Start what has ended until senders and killers are done."""
    until = time.monotonic() + _LONGEST_SECONDS
    for each in kept:
        each.keep()
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(part)
        while not all(part.has_ended for part in parts) and not any(part.has_failed for part in parts):
            assert time.monotonic() < until, f"not done within {_LONGEST_SECONDS:g} s"
            for each in kept:
                each.keep()
            time.sleep(_POLL_SECONDS)


def _order_rest(store: BatchStore, blocks: Sequence[str]) -> bool:
    """Order what no order has; return whether there was something.

    An order is about the batches below the first id that may still come: one that another receiver was about
    to store may have kept a later one out.
    """
    orders = OrderBook(store.database)
    has_ordered = False
    for block in blocks:
        before = sum(order["block_hash"] == block for order in order_rows(store.database))
        assert before < _ORDERS, f"{block} was ordered {before} times"
        try:
            orders.place(block, SETTINGS, Draw(randomness=f"block {before} after {block}", nonces=DRAWN))
        except StateError:
            continue  # nothing of it waits
        has_ordered = True
    return has_ordered
