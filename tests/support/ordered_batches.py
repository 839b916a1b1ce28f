"""Delivered batches for the queue of verification, and orders about them."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from builders import BLOCK
from offline_proofs import BATCH_SIZE, SEQ_LEN, Prover, off, part

from hallmark.server.receiver.store import BatchStore
from hallmark.server.verification.order import Draw, Order
from hallmark.server.verification.orders import OrderBook

__all__ = ["SETTINGS", "deliver", "give_order", "verdicts_of"]

SETTINGS: Final[Mapping[str, Any]] = {"batch_size": BATCH_SIZE, "seq_len": SEQ_LEN, "fraud_threshold": 1e-4}


def deliver(
    store: BatchStore,
    prover: Prover,
    keys: Iterable[str],
    *,
    batches: int = 2,
    size: int = BATCH_SIZE,
    noise: float = 0.0,
    first: int = 0,
) -> list[dict[str, Any]]:
    """Deliver batches of each prover, off by noise of its own in units of s; return their bodies."""
    bodies = []
    for number, key in enumerate(keys):
        proof = prover.prove(range(first, first + batches * size), public_key=key)
        if noise:
            proof = off(proof, np.random.default_rng(number), noise)
        for place in range(batches):
            body = prover.generated(part(proof, slice(place * size, (place + 1) * size)))
            store.add("generated", body, f"{key}-{first}-{place}")
            bodies.append(body)
    return bodies


def give_order(store: BatchStore, draw: Draw | None = None, settings: Mapping[str, Any] = SETTINGS) -> Order:
    """Order that what has been delivered is verified."""
    order, _ = OrderBook(store.database).place(BLOCK, settings, draw or Draw(randomness="a later block"))
    return order


def verdicts_of(store: BatchStore) -> dict[int, dict[str, Any]]:
    """The bodies of the verdicts, by the batch that each is about."""
    bodies = [store.get(summary["id"]) for summary in store.summaries(kind="validated")]
    found = [stored["body"] for stored in bodies if stored is not None]
    by_batch = {body["verification"]["batch"]: body for body in found}
    assert len(by_batch) == len(found), "a batch has one verdict"
    return by_batch
