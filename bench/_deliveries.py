"""Processes that deliver batches to receivers as servers do: by connections that are kept, one at a time."""

import multiprocessing
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing.pool import AsyncResult, Pool
from multiprocessing.synchronize import Barrier
from typing import Final

import httpx
from _network_bodies import Prover, round_of

__all__ = ["CONNECTIONS", "SENDERS", "Load", "senders", "start"]

SENDERS: Final = 2
"""Processes."""

CONNECTIONS: Final = 8
"""Threads of each, with a connection of their own."""

_PROVERS: Final = 1_000
_ANSWER_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """What is delivered.

    Attributes:
        nonces: Of each batch.
        validated: The share of verdicts, each with as many nonces and both sides' vectors.
    """

    nonces: int
    validated: float

    def __str__(self) -> str:
        beside = f", {self.validated:.0%} verdicts" if self.validated else ""
        return f"{self.nonces:,} nonces{beside}"


@contextmanager
def senders(loads: Sequence[Load]) -> Iterator[Pool]:
    """Run processes that have the bodies of loads at hand."""
    context = multiprocessing.get_context("spawn")
    are_ready = context.Barrier(SENDERS + 1)
    with context.Pool(SENDERS, _prepare, (loads, are_ready)) as pool:
        are_ready.wait()
        yield pool


def _prepare(loads: Sequence[Load], are_ready: Barrier) -> None:
    for load in loads:
        _bodies(load.nonces)
    are_ready.wait()


@cache
def _bodies(n_nonces: int) -> tuple[Prover, dict[str, bytes]]:
    prover = Prover(round_of("02" + "0" * 64, 7, _PROVERS))
    return prover, {"generated": prover.delivery(n_nonces), "validated": prover.verdict(n_nonces)}


def start(pool: Pool, load: Load, urls: Sequence[str], begin: float, end: float) -> AsyncResult[list[int]]:
    """Let all processes of a pool deliver.

    Args:
        pool: Of `SENDERS` processes.
        load: What.
        urls: To whom, each connection to one of them.
        begin: Until when nothing is counted; seconds since the epoch.
        end: Until when they deliver.
    """
    calls = [(load, tuple(urls), begin, end, number) for number in range(SENDERS)]
    return pool.starmap_async(_deliver, calls, chunksize=1)


def _deliver(load: Load, urls: Sequence[str], begin: float, end: float, number: int) -> int:
    """Deliver by several connections; return how many batches were acknowledged between begin and end.

    Args:
        load: What.
        urls: To whom.
        begin: From when on it is counted; seconds since the epoch.
        end: Until when.
        number: Of this process.
    """
    prover, bodies = _bodies(load.nonces)

    def run(connection: int) -> int:
        place = number * CONNECTIONS + connection
        chance = random.Random(f"{load} {begin} {place}")  # noqa: S311  # no secret
        url, acknowledged = urls[place % len(urls)], 0
        with httpx.Client(trust_env=False, timeout=_ANSWER_SECONDS) as client:
            while time.time() < end:
                kind = "validated" if chance.random() < load.validated else "generated"
                body, webhook_id = _another(bodies[kind], prover, chance)
                headers = {"Content-Type": "application/json", "webhook-id": webhook_id}
                answer = client.post(f"{url}/{kind}", content=body, headers=headers)
                # No error of httpx's: those do not get through to another process.
                assert answer.is_success, f"{answer.status_code} {answer.text}"
                assert not answer.json()["duplicate"]
                acknowledged += begin <= time.time() < end
        return acknowledged

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        return sum(threads.map(run, range(CONNECTIONS)))


def _another(body: bytes, prover: Prover, chance: random.Random) -> tuple[bytes, str]:
    """Return the same batch of another prover for another block, and its id."""
    config = prover.round.config
    block, key = f"{chance.getrandbits(256):064x}", f"02{chance.randrange(_PROVERS):064x}"
    body = body.replace(config.block_hash.encode(), block.encode(), 1)
    return body.replace(config.public_key.encode(), key.encode(), 1), f"msg_{chance.getrandbits(128):032x}"
