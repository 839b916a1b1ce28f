"""What is claimed in the demo: two honest proofs, and nine ways to cheat."""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final

from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.verdict.judge import Verdict
from hallmark.server.demo.prover import Numbers, Prover, Update, with_numbers
from hallmark.server.demo.shortcuts import (
    fp8,
    int8,
    last_row_only,
    layer_count,
    rounded_weights,
    without_layer,
)

__all__ = ["CLAIMED_NONCES", "Claim", "claims"]

CLAIMED_NONCES: Final = 64
"""Nonces of a cheater's proof: some times what convicts the least of these cheats."""

_LAST_LAYERS: Final = 2
_ALL: Final = "Saved all work."

Step = Callable[[str], AbstractContextManager[Update]]
"""Takes a title, and shows what is told meanwhile of how far it is."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A batch and the verdict it deserves.

    Attributes:
        title: Who sends it, in a few words.
        story: What its prover did and saved.
        proof: What it sends.
        deserved: The right verdict; None where the batch has to be refused without one.
    """

    title: str
    story: str
    proof: ProofBatch
    deserved: Verdict | None


def claims(prover: Prover, earlier: ProofBatch, honest: ProofBatch, step: Step) -> Iterator[Claim]:
    """Yield an honest node's claim, one of an honest node with another engine, and those of cheaters.

    Args:
        prover: Computes what is not copied.
        earlier: An honest proof of an earlier block.
        honest: An honest proof of the round's block.
        step: Shows progress.
    """
    model, width = prover.model.model, prover.model.hidden_size
    layers, bits = layer_count(model), 8 * model.dtype.itemsize
    memory = f"Saved {1 - 8 / bits:.0%} of the memory."
    some = _first(honest)

    def computed(title: str, numbers: Callable[[Update], Numbers]) -> ProofBatch:
        with step(f"Compute the proof of: {title}") as update:
            return with_numbers(some, numbers(update), width)

    def fraud(title: str, story: str, numbers: Callable[[Update], Numbers]) -> Claim:
        return Claim(title, story, computed(title, numbers), Verdict.FRAUD)

    def shortcut(title: str, story: str, change: AbstractContextManager[None]) -> Claim:
        def numbers(update: Update) -> Numbers:
            with change:
                return prover.numbers(some, update)

        return fraud(title, story, numbers)

    yield Claim("honest node", "Ran the whole model on vLLM, as the validator does.", honest, Verdict.HONEST)
    title = "honest node, other engine"
    proof = computed(title, lambda update: prover.numbers(some, update))
    proof = replace(proof, numerics=prover.model.numerics)
    yield Claim(
        title, "Ran the whole model by transformers, where the validator has vLLM.", proof, Verdict.HONEST
    )
    yield fraud(
        "made-up numbers",
        f"Ran no model: drew numbers that look like real ones. {_ALL}",
        lambda _: _made_up(some),
    )
    yield fraud(
        "mean of earlier outputs",
        f"Ran none of these inputs: sent the mean of older outputs. {_ALL}",
        lambda update: prover.numbers_of(prover.mean_states(_first(earlier), update), some),
    )
    yield Claim(
        "another node's numbers",
        f"Copied the honest proof, under a key of its own. {_ALL}",
        replace(some, public_key="thief"),
        Verdict.FRAUD,
    )
    yield Claim(
        "an earlier block's numbers",
        f"Sent an old proof with the new block's hash on it. {_ALL}",
        replace(_first(earlier), block_hash=honest.block_hash, block_height=honest.block_height),
        Verdict.FRAUD,
    )
    yield shortcut(
        "INT8 weights", f"Rounded weights of {bits} bits to 8. {memory}", rounded_weights(model, int8)
    )
    yield shortcut(
        "FP8 weights", f"Rounded weights of {bits} bits to floats of 8. {memory}", rounded_weights(model, fp8)
    )
    yield shortcut(
        f"1 of {layers} layers left out",
        f"Ran all layers but number {layers // 2 + 1}. Saved {1 / layers:.1%} of the work.",
        without_layer(model, layers // 2),
    )
    yield shortcut(
        f"{_LAST_LAYERS} of {layers} layers cut short",
        f"Ran the last {_LAST_LAYERS} for an input's last token only. "
        f"Saved {_LAST_LAYERS / layers:.1%} of the work.",
        last_row_only(model, _LAST_LAYERS),
    )
    yield Claim(
        "same hash, other height",
        f"Sent an honest proof again, for another height. {_ALL}",
        replace(some, block_height=honest.block_height + 1),
        None,
    )


def _first(proof: ProofBatch) -> ProofBatch:
    return replace(
        proof,
        nonces=proof.nonces[:CLAIMED_NONCES],
        dist=proof.dist[:CLAIMED_NONCES],
        vectors=None if proof.vectors is None else proof.vectors[:CLAIMED_NONCES],
    )


def _made_up(proof: ProofBatch) -> Numbers:
    """Return numbers as they would be distributed if they were true."""
    draw = random.Random(0)  # noqa: S311  # the forger needs no secrecy
    count = 1 if proof.encoding is None else proof.encoding["k_dim"]
    return [[draw.gauss() for _ in range(count)] for _ in proof.nonces]
