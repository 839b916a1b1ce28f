"""The demo's story: an honest node, cheaters, and a validator that chats meanwhile."""

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import torch

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.offline.model import OfflineModel, import_transformers
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.verdict.calibration import Calibration
from hallmark.poc.verdict.judge import Verdict
from hallmark.server.cli.client import ServerError, explain
from hallmark.server.cli.round.validate import look_up, submit_and_wait
from hallmark.server.cli.steps import Steps
from hallmark.server.cli.words import explained
from hallmark.server.demo.claims import Claim, claims
from hallmark.server.demo.node import (
    BATCH_SIZE,
    SEQ_LEN,
    STALL_SECONDS,
    DemoError,
    Node,
    Receiver,
    running_node,
    running_receiver,
)
from hallmark.server.demo.prover import Prover
from hallmark.server.models.small import build_small_model, fast_dtype
from hallmark.server.models.smollm2 import SMOLLM2
from hallmark.server.models.wheel import ModelUnavailableError

__all__ = ["FRAUD_THRESHOLD", "Judged", "Story", "Told"]

FRAUD_THRESHOLD: Final = 1e-7
"""The p-value below which the validator says fraud."""

_COMPUTED: Final = {"seq_len": SEQ_LEN, "batch_size": BATCH_SIZE}
"""What the numbers of the demo's rounds depend on, beside the protocol's defaults."""

_QUESTION: Final = "What is the capital of France?"
_POLL_SECONDS: Final = 0.5
_CHAT_PAUSE_SECONDS: Final = 1.0  # chat comes first: without pauses the validation would wait for it
_CONFLICT: Final = 409

# A fast machine may give the verdict before it answers the first chat request: then the proof is sent again.
_TRIES: Final = 20

_T = TypeVar("_T")


@dataclass(frozen=True)
class Judged:
    """A claim and what the validator said of it.

    Attributes:
        claim: The claim.
        answer: The server's verdict; None where it refused the batch.
        problems: What else was not as it should be, a sentence each.
    """

    claim: Claim
    answer: Mapping[str, Any] | None
    problems: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict | None:
        """The server's; None where it refused the batch."""
        return None if self.answer is None else Verdict(self.answer["verdict"])

    @property
    def is_right(self) -> bool:
        """Whether the verdict is the deserved one and nothing else was wrong."""
        return self.verdict is self.claim.deserved and not self.problems

    @property
    def strongest_test(self) -> str:
        """The test with the smallest p-value."""
        tests: dict[str, float] = {} if self.answer is None else self.answer["tests"]
        return min(tests, key=tests.__getitem__, default="")


@dataclass(frozen=True)
class Told:
    """What came of the story, and what is still up.

    Attributes:
        judged: The claims, the honest ones first.
        node_url: Of the validator.
        receiver_url: Of the receiver.
        api_key: The validator's token.
        is_up: Whether the validator still runs.
    """

    judged: Sequence[Judged]
    node_url: str
    receiver_url: str
    api_key: str
    is_up: Callable[[], bool]


class Story:
    """A whole round on real servers.

    Attributes:
        log: Of the server that was started last.
        model_name: What was served.
        calibration: The honest noise that was measured, by the names of `Calibration`; empty before.
    """

    def __init__(self, steps: Steps, folder: Path, nonces: int, *, small: bool) -> None:
        """Prepare the story.

        Args:
            steps: Where progress is shown.
            folder: Where logs and proofs go.
            nonces: How many to prove of block 1, which is calibrated on; of block 2 it is half of them.
            small: Whether to serve the small made model without asking for the trained one.
        """
        self.log: Path | None = None
        self.model_name = SMOLLM2.name
        self.calibration: dict[str, Any] = {}
        self._small = small
        self._steps = steps
        self._folder = folder
        self._nonces = nonces
        self._api_key = secrets.token_urlsafe(16)

    @contextmanager
    def told(self) -> Iterator[Told]:
        """Run it, and leave the validator and the receiver up until the block ends.

        Yields:
            What came of it.

        Raises:
            HallmarkError: Something did not work as it should.
        """
        model = self._provide_model()
        with self._running("the receiver of proofs", running_receiver(self._folder)) as receiver:
            with self._node("the honest node: vLLM with Hallmark", model, "node") as node:
                self._chat(node)
                earlier = self._generate(node, receiver, self._nonces, height=1)
                honest = self._generate(node, receiver, self._nonces // 2, height=2)
            (self._folder / "proof.json").write_text(json.dumps(honest.as_dict()), encoding="utf-8")
            prover = self._load(model)
            calibration = self._calibrate(prover, earlier)
            claimed = list(claims(prover, earlier, honest, self._steps.step))
            with self._node("the validator: another vLLM with Hallmark", model, "validator") as node:
                node.poc.post(
                    "/init/validate",
                    {
                        **_round("validator", height=2),
                        "callback_url": receiver.url,
                        "fraud_threshold": FRAUD_THRESHOLD,
                        **calibration.settings,
                    },
                )
                judged = [self._validate_during_chat(node, claimed[0])]
                for claim in claimed[1:]:
                    with self._steps.step(f"Validate: {claim.title}"):
                        judged.append(_validate(node, claim))
                yield Told(judged, node.url, receiver.url, self._api_key, lambda: node.process.running)
                node.poc.post("/stop")

    def _provide_model(self) -> Path:
        if not self._small:
            try:
                with self._steps.step(f"Provide {SMOLLM2.name}, a really trained model") as update:
                    return SMOLLM2.ensure(update)
            except (ModelUnavailableError, UnsupportedError) as exc:
                self._steps.warn(f"{explained(exc)}. The demo goes on with a small model that is made here.")
        model = self._folder / "model"
        self.model_name = "the small made model"
        with self._steps.step("Make a small model with random weights, which says nothing sensible"):
            build_small_model(model)
        return model

    @contextmanager
    def _running(self, what: str, starting: AbstractContextManager[_T]) -> Iterator[_T]:
        with ExitStack() as stack:
            with self._steps.step(f"Start {what}"):
                running = stack.enter_context(starting)
            yield running
            with self._steps.step(f"Stop {what.partition(':')[0]}"):
                stack.close()

    def _node(self, what: str, model: Path, name: str) -> AbstractContextManager[Node]:
        self.log = self._folder / f"{name}.log"
        return self._running(what, running_node(model, self.log, self._api_key))

    def _chat(self, node: Node) -> None:
        with self._steps.step("Ask it") as update:
            update(f"{_QUESTION} {_words(node.chat(_QUESTION))}")

    def _generate(self, node: Node, receiver: Receiver, wanted: int, *, height: int) -> ProofBatch:
        """Run a round until enough has reached the receiver; returns all that did."""
        round_ = {**_round("honest", height=height), "callback_url": receiver.url}
        block_hash = round_["block_hash"]
        with self._steps.step(f"Prove at least {wanted} nonces of block {height}") as update:
            node.poc.post("/init/generate", round_)
            refusal = node.chat(_QUESTION)
            if refusal.status_code != 503:
                raise DemoError(f"chat is answered with {refusal.status_code}, not 503, while generating")
            for delivered in _deliveries(receiver, block_hash):
                status = node.poc.get("/status")
                if status["state"] != "GENERATING":
                    raise DemoError(f"generating ended in {status['state']}: {status['reason']}")
                update(f"{delivered} delivered, {status['rate_per_second']:.0f} nonces/s")
                if delivered >= wanted:
                    break
            node.poc.post("/stop")
            for delivered in _deliveries(receiver, block_hash):
                status = node.poc.get("/status")
                # The batch in flight still counts; the projections are freed after it.
                if not status["projection"]["bytes"] and delivered == status["total_valid"]:
                    break
            update(f"{delivered} delivered, {status['rate_per_second']:.0f} nonces/s")
        self._steps.say(f"Chat was refused meanwhile, as it should be: {refusal.status_code}")
        return receiver.proof("honest", block_hash)

    def _load(self, model: Path) -> Prover:
        """Load the model into this process, for calibration and for the cheaters."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with self._steps.step("Load the model by transformers, without vLLM"):
            import_transformers().utils.logging.disable_progress_bar()
            return Prover(OfflineModel.load(model, device=device, dtype=fast_dtype()), _COMPUTED)

    def _calibrate(self, prover: Prover, proof: ProofBatch) -> Calibration:
        """Measure how far honest machines are apart: the node's vLLM, and transformers here."""
        with self._steps.step("Calibrate on block 1, vLLM against transformers") as update:
            found = prover.calibration(proof, prover.numbers(proof, update))
            update(f"{found.n} nonces, {found.numbers} numbers each")
        self.calibration = asdict(found)
        self._steps.say(
            f"Honest noise: sigma {found.sigma:.4f} of a number's spread; "
            f"assumed at most {found.honest_sigma:g}"
        )
        return found

    def _validate_during_chat(self, node: Node, claim: Claim) -> Judged:
        """Have the honest proof judged, and chat as long as that takes."""
        problems = []
        with self._steps.step(f"Validate: {claim.title}") as update:
            for _ in range(_TRIES):
                answer, words = _validate_and_chat(node, claim.proof, update)
                if words:
                    break
            computed = answer["computed_distances"]
            equal = sum(ours == theirs for ours, theirs in zip(computed, claim.proof.dist, strict=True))
            update(f"{equal} of {len(computed)} nonces recomputed, the same to the last bit")
        if words:
            self._steps.say(f"Meanwhile it answered {len(words)} chats: {_QUESTION} {words[-1]}")
        else:
            problems.append("no chat request was answered before the verdict")
        if equal < len(computed):
            problems.append(
                f"{len(computed) - equal} distances were not recomputed, the same to the last bit"
            )
        return Judged(claim, answer, tuple(problems))


def _deliveries(receiver: Receiver, block_hash: str) -> Iterator[int]:
    """Yield how many nonces the receiver has, again and again, as long as more come from time to time.

    Raises:
        DemoError: None has come for a long time.
    """
    most, last_growth = -1, time.monotonic()
    while True:
        delivered = receiver.count("honest", block_hash)
        if delivered > most:
            most, last_growth = delivered, time.monotonic()
        if time.monotonic() - last_growth > STALL_SECONDS:
            raise DemoError(f"the receiver has {most} nonces and has got none for {STALL_SECONDS:g} s")
        yield delivered
        time.sleep(_POLL_SECONDS)


def _validate(node: Node, claim: Claim) -> Judged:
    """Have a proof judged, which the server may refuse as not of its round."""
    try:
        return Judged(claim, submit_and_wait(node.poc, claim.proof, seconds=STALL_SECONDS))
    except ServerError as exc:
        if exc.status != _CONFLICT:
            raise
        deserved = claim.deserved is None and f"at height {claim.proof.block_height}" in exc.detail
        return Judged(claim, None, () if deserved else (f"{claim.title}: {exc.detail}",))


def _validate_and_chat(
    node: Node, proof: ProofBatch, update: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    """Have a proof judged; returns the answer, and what chat was answered before it."""
    answer: dict[str, Any] = node.poc.post("/validate?wait=false", proof.as_dict())
    answered: list[str] = []
    while True:
        words = _words(node.chat(_QUESTION))
        answer = look_up(node.poc, answer["request_id"])
        if "verdict" in answer:
            return answer, answered
        answered.append(words)
        update(f"{len(answered)} chat requests answered meanwhile")
        time.sleep(_CHAT_PAUSE_SECONDS)


def _words(chat: httpx.Response) -> str:
    """Return what a chat request was answered with, on one line.

    Raises:
        DemoError: It was refused.
    """
    if not chat.is_success:
        raise DemoError(f"chat is answered with {chat.status_code}: {explain(chat)}")
    content: str = chat.json()["choices"][0]["message"]["content"]
    return " ".join(content.split())


def _round(public_key: str, *, height: int) -> dict[str, Any]:
    return {
        "block_hash": hashlib.sha256(f"hallmark demo block {height}".encode()).hexdigest(),
        "block_height": height,
        "public_key": public_key,
        "node_id": 0,
        "node_count": 1,
        **_COMPUTED,
    }
