"""What provers deliver for several blocks: batches of the small model, made before anything is measured."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from offline_proofs import BATCH_SIZE, Prover, off, part

__all__ = ["CHEAT", "Delivery", "deliveries"]

CHEAT: Final = "prover 0"
"""The one that is off by noise."""

_NOISE: Final = 2.0
"""In units of s."""

_REPEATED: Final = BATCH_SIZE // 2
"""Nonces that the second batch of a prover claims once more."""

_REFUSED_SHARE: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A batch as a server sends it.

    Attributes:
        webhook_id: Of the delivery.
        block: The block's hash.
        body: Of the callback.
        content: The body, written.
        can_be_judged: Whether it is of the round that is ordered.
    """

    webhook_id: str
    block: str
    body: Mapping[str, Any]
    content: bytes
    can_be_judged: bool


def deliveries(prover: Prover, blocks: int, of_block: int, chance: random.Random) -> list[Delivery]:
    """Make the batches, block by block.

    Every fifth batch of a block is the second one of a prover, and claims half of the first one's nonces.

    Args:
        prover: What computes.
        blocks: How many.
        of_block: Batches of each.
        chance: Decides which cannot be judged.
    """
    made = []
    for number in range(blocks):
        block = f"block {number}"
        for place in range(of_block):
            has_second = place % 5 == 3 and place + 1 < of_block
            if place % 5 == 4:
                continue
            key = f"prover {place - place // 5}"
            nonces = BATCH_SIZE + (_REPEATED if has_second else 0)
            proof = prover.prove(range(nonces), public_key=key, block_hash=block)
            assert len(proof.nonces) == nonces
            if key == CHEAT:
                proof = off(proof, np.random.default_rng(number), _NOISE)
            is_refused = key != CHEAT and (chance.random() < _REFUSED_SHARE or number == place - 1 == 0)
            first = prover.generated(part(proof, slice(0, BATCH_SIZE)))
            if is_refused:
                first |= {"round": "ab" * 32, "round_settings": None}
            made.append(_delivery(block, place, first, can_be_judged=not is_refused))
            if has_second:
                second = prover.generated(part(proof, slice(_REPEATED, None)))
                made.append(_delivery(block, place + 1, second, can_be_judged=True))
    return made


def _delivery(block: str, place: int, body: Mapping[str, Any], *, can_be_judged: bool) -> Delivery:
    return Delivery(
        webhook_id=f"{block}, batch {place}",
        block=block,
        body=body,
        content=json.dumps(body).encode(),
        can_be_judged=can_be_judged,
    )
