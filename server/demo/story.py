"""The demo's story: an honest node, a dishonest one, and a validator."""

import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.verdict.judge import Verdict
from hallmark.server.cli.round.validate import look_up, submit_and_wait
from hallmark.server.demo.claims import NONCES_OF_A_FORGERY, Claim, forgeries
from hallmark.server.demo.model import LAYERS, build_demo_model
from hallmark.server.demo.node import DemoError, Node, Receiver, running_node, running_receiver
from hallmark.server.demo.steps import Steps

__all__ = ["Judged", "Story"]

_VALID_RATE: Final = 0.5
_ALTERED_LAYER: Final = 2
_POLL_SECONDS: Final = 0.5
_STALL_SECONDS: Final = 180.0

# A fast machine may give the verdict before it answers the first chat request: then the proof is sent again.
_TRIES: Final = 20

_T = TypeVar("_T")


@dataclass(frozen=True)
class Judged:
    """A claim and what the validator said of it.

    Attributes:
        claim: The claim.
        answer: The server's.
        problems: What else was not as it should be, a sentence each.
    """

    claim: Claim
    answer: Mapping[str, Any]
    problems: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The server's."""
        return Verdict(self.answer["verdict"])

    @property
    def is_right(self) -> bool:
        """Whether the verdict is the deserved one and nothing else was wrong."""
        return self.verdict is self.claim.deserved and not self.problems


class Story:
    """A whole round on real servers.

    Attributes:
        log: Of the server that was started last.
    """

    def __init__(self, steps: Steps, folder: Path, nonces: int) -> None:
        """Prepare the story.

        Args:
            steps: Where progress is shown.
            folder: Where models, logs and proofs go.
            nonces: Valid nonces to find in the honest round.
        """
        self.log: Path | None = None
        self._steps = steps
        self._folder = folder
        self._nonces = nonces
        self._api_key = secrets.token_urlsafe(16)

    def tell(self) -> Iterator[Judged]:
        """Run it; yields each claim once it is judged, the honest one first.

        Raises:
            HallmarkError: Something did not work as it should.
        """
        model, altered_model = self._folder / "model", self._folder / "altered-model"
        with self._steps.step(f"Make a model of {LAYERS} layers, and one that differs in one of them"):
            build_demo_model(model)
            build_demo_model(altered_model, altered_layer=_ALTERED_LAYER)
        with self._running("the receiver of callbacks", running_receiver(self._folder)) as receiver:
            with self._node("the honest server", model) as node:
                earlier = self._generate(node, receiver, "honest", height=1, wanted=NONCES_OF_A_FORGERY)
                honest = self._generate(node, receiver, "honest", height=2, wanted=self._nonces)
            with self._node("the server with the other model", altered_model) as node:
                other = self._generate(node, receiver, "cheat", height=2, wanted=NONCES_OF_A_FORGERY)
            (self._folder / "proof.json").write_text(json.dumps(honest.as_dict()), encoding="utf-8")
            with self._node("the validator, which has the honest model", model) as node:
                node.poc.post("/init/validate", _round("validator", height=2))
                yield self._validate_during_chat(node, honest)
                for claim in forgeries(honest, earlier, other, valid_rate=_VALID_RATE):
                    with self._steps.step(f"Validate: {claim.title}"):
                        answer = submit_and_wait(node.poc, claim.proof, seconds=_STALL_SECONDS)
                    yield Judged(claim, answer)
                node.poc.post("/stop")

    @contextmanager
    def _running(self, what: str, starting: AbstractContextManager[_T]) -> Iterator[_T]:
        with ExitStack() as stack:
            with self._steps.step(f"Start {what}"):
                running = stack.enter_context(starting)
            yield running
            with self._steps.step(f"Stop {what}"):
                stack.close()

    def _node(self, what: str, model: Path) -> AbstractContextManager[Node]:
        self.log = self._folder / f"{model.name}.log"
        return self._running(what, running_node(model, self.log, self._api_key))

    def _generate(
        self, node: Node, receiver: Receiver, public_key: str, *, height: int, wanted: int
    ) -> ProofBatch:
        """Run a round until enough has reached the receiver; returns all that did."""
        round_ = {**_round(public_key, height=height), "callback_url": receiver.url}
        block_hash = round_["block_hash"]
        with self._steps.step(f"Generate {wanted} valid nonces for block {height}") as update:
            node.poc.post("/init/generate", round_)
            refusal = node.chat("Hello?")
            if refusal.status_code != 503:
                raise DemoError(f"chat is answered with {refusal.status_code}, not 503, while generating")
            for delivered in _deliveries(receiver, public_key, block_hash):
                status = node.poc.get("/status")
                if status["state"] != "GENERATING":
                    raise DemoError(f"generating ended in {status['state']}: {status['reason']}")
                update(f"{delivered} delivered, {status['rate_per_second']:.1f} nonces/s tried")
                if delivered >= wanted:
                    break
            node.poc.post("/stop")
            for delivered in _deliveries(receiver, public_key, block_hash):
                status = node.poc.get("/status")
                # The batch in flight still counts; the projections are freed after it.
                if not status["projection"]["bytes"] and delivered == status["total_valid"]:
                    break
            update(
                f"{delivered} found and delivered, {status['rate_per_second']:.1f} nonces/s tried, "
                f"chat refused with {refusal.status_code} meanwhile"
            )
        return receiver.proof(public_key, block_hash)

    def _validate_during_chat(self, node: Node, honest: ProofBatch) -> Judged:
        """Have the honest proof judged, and chat as long as that takes."""
        claim = Claim("the honest node's proof", honest, Verdict.HONEST)
        problems = []
        with self._steps.step(f"Validate: {claim.title}") as update:
            for _ in range(_TRIES):
                answer, answered = _validate_and_chat(node, honest)
                if answered:
                    break
            computed = answer["computed_distances"]
            equal = sum(ours == theirs for ours, theirs in zip(computed, honest.dist, strict=True))
            update(
                f"{equal} of {len(computed)} distances recomputed to the last bit, "
                f"{answered} chat requests answered meanwhile"
            )
        if not answered:
            problems.append("no chat request was answered before the verdict")
        if equal < len(computed):
            problems.append(f"{len(computed) - equal} distances were not recomputed to the last bit")
        return Judged(claim, answer, tuple(problems))


def _deliveries(receiver: Receiver, public_key: str, block_hash: str) -> Iterator[int]:
    """Yield how many nonces the receiver has, again and again, as long as more come from time to time.

    Raises:
        DemoError: None has come for a long time.
    """
    most, last_growth = -1, time.monotonic()
    while True:
        delivered = receiver.count(public_key, block_hash)
        if delivered > most:
            most, last_growth = delivered, time.monotonic()
        if time.monotonic() - last_growth > _STALL_SECONDS:
            raise DemoError(f"the receiver has {most} nonces and has got none for {_STALL_SECONDS:g} s")
        yield delivered
        time.sleep(_POLL_SECONDS)


def _validate_and_chat(node: Node, proof: ProofBatch) -> tuple[dict[str, Any], int]:
    """Have a proof judged; returns the answer, and how many chat requests were answered before it."""
    answer: dict[str, Any] = node.poc.post("/validate?wait=false", proof.as_dict())
    answered = 0
    while True:
        chat = node.chat("Are you still there?")
        if not chat.is_success:
            raise DemoError(f"chat is answered with {chat.status_code} while validating")
        answer = look_up(node.poc, answer["request_id"])
        if "verdict" in answer:
            return answer, answered
        answered += 1


def _round(public_key: str, *, height: int) -> dict[str, Any]:
    return {
        "block_hash": hashlib.sha256(f"hallmark demo block {height}".encode()).hexdigest(),
        "block_height": height,
        "public_key": public_key,
        "valid_rate": _VALID_RATE,
        "node_id": 0,
        "node_count": 1,
    }
