"""What a soak keeps a server busy with: chats, rounds with everything accounted for, validation, polling."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from _account import Received, lost, problems
from _leftovers import ever_queued
from _status_history import StatusHistory

from hallmark.server.cli.client import PoCClient

BATCH_SIZE, SEQ_LEN = 32, 64
TOKENS = 16

_GENERATE_SECONDS = 10.0
_BATCHES, _NONCES = 2, 128
"""Delivered batches of a round that are validated, and nonces of each."""
_POLL_SECONDS = 0.25
_PATIENCE = 120.0
_REFUSED_SECONDS = 0.1
_WORDS = ("block", "nonce", "layer", "proof", "token", "queue", "batch", "chain", "model", "norm")


@dataclass(slots=True)
class Account:
    """What a soak has done, and what went wrong.

    Attributes:
        done: How often, by what.
        lost: Nonces that a status showed and that did not arrive.
        problems: What else is not as it should be, verdicts that are wrong among it.
    """

    done: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    problems: list[str] = field(default_factory=list)


class Chats:
    """Clients that stream one short answer after the other; one that is refused by the gate asks again.

    Attributes:
        wanted: Set while they are to be at it.
    """

    def __init__(self, url: str, model: str, account: Account, clients: int) -> None:
        self.wanted = threading.Event()
        self._url, self._model, self._account, self._clients = url, model, account, clients

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep the clients there for the length of a block."""
        over = threading.Event()
        threads = [threading.Thread(target=self._chat, args=(n, over)) for n in range(self._clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def _chat(self, client: int, over: threading.Event) -> None:
        with httpx.Client(base_url=self._url, timeout=_PATIENCE, trust_env=False) as http:
            number = 0
            while not over.is_set():
                if not self.wanted.wait(_POLL_SECONDS):
                    continue
                number += 1
                word = _WORDS[number % len(_WORDS)]
                try:
                    answered = self._stream(http, f"{client}: tell me about {word} {number}.")
                except (httpx.HTTPError, ValueError) as exc:
                    self._account.problems.append(f"a chat broke off: {exc!r}")
                    answered = False
                self._account.done["completions" if answered else "refused_chats"] += 1
                if not answered:
                    over.wait(_REFUSED_SECONDS)

    def _stream(self, http: httpx.Client, content: str) -> bool:
        """Return whether the chat was answered, and not refused."""
        body = {
            **{"model": self._model, "messages": [{"role": "user", "content": content}], "stream": True},
            **{"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True},
        }
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = [line for line in response.iter_lines() if line]
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return False
        if response.status_code != httpx.codes.OK or lines[-1:] != ["data: [DONE]"]:
            raise ValueError(f"{response.status_code}: {lines[-1:]}")
        return True


class Rounds:
    """Rounds of one new block after the other: generated, delivered, validated and stopped.

    Args:
        poc: A client of the server.
        outbox: The server's outbox.
        receiver_url: Where callbacks go.
        database: The receiver's file.
        account: Where it is noted what happens.
    """

    def __init__(
        self, poc: PoCClient, outbox: Path, receiver_url: str, database: Path, account: Account
    ) -> None:
        self._poc = poc
        self._outbox = outbox
        self._receiver_url = receiver_url
        self._database = database
        self._account = account
        self._number = 0

    def run(self, until: float) -> None:
        """Run rounds until a moment of `time.monotonic`; one that has begun comes to its end."""
        while time.monotonic() < until:
            self._run_one()

    def validate(self, until: float) -> None:
        """Set one round, and let it judge batches of made-up claims and of true ones until a moment."""
        request = self._next_request()
        self._poc.post("/init/validate", request)
        first = 0
        while time.monotonic() < until:
            nonces = [*range(first, first + _NONCES)]
            batch = {**_identity(request), "nonces": nonces, "dist": [1.0] * len(nonces)}
            computed = self._judge(batch, "fraud")["computed_distances"]
            self._judge({**batch, "dist": computed}, "honest")
            first += _NONCES
        self._poc.post("/stop")
        self._wait_until_delivered()

    def _run_one(self) -> None:
        request, shown = self._next_request(), StatusHistory()
        queued_before = ever_queued(self._outbox)
        judged_before = self._judged()
        self._poc.post("/init/generate", request)
        self._watch(shown, _GENERATE_SECONDS)
        self._poc.post("/phase/validate")
        self._wait_until(lambda: len(self._received(request).bodies) >= _BATCHES, "batches to validate")
        for body in self._received(request).bodies[:_BATCHES]:
            batch = _part(request, body)
            self._judge(batch, "honest")
            self._judge(_forged(batch), "fraud")
            self._watch(shown, 0.0)
        self._poc.post("/stop")
        status = self._wait_until_delivered()
        shown.note(status)
        self._wait_until(
            lambda: len(self._received(request).distances) == status["total_valid"], "all that was found"
        )
        received = self._received(request)
        queued = ever_queued(self._outbox) - queued_before - (self._judged() - judged_before)
        found = problems(received, shown, request, queued)
        self._account.problems += [f"{request['block_hash']}: {problem}" for problem in found]
        self._account.lost += len(lost(received, shown))
        self._account.done["nonces"] += received.n_covered
        self._account.done["rounds"] += 1

    def _next_request(self) -> dict[str, Any]:
        self._number += 1
        return {
            "block_hash": f"soak {self._number}",
            "block_height": self._number,
            # Of its own for each round, so that what has arrived can be told apart.
            "public_key": f"node of round {self._number}",
            **{"node_id": 0, "node_count": 1, "batch_size": BATCH_SIZE, "seq_len": SEQ_LEN},
            "callback_url": self._receiver_url,
        }

    def _judge(self, batch: Mapping[str, Any], expected: str) -> dict[str, Any]:
        verdict: dict[str, Any] = self._poc.post("/validate?wait=true", batch)
        self._account.done["verdicts"] += 1
        if verdict["verdict"] != expected:
            self._account.problems.append(
                f"{batch['block_hash']}: the verdict is {verdict['verdict']} and not {expected}"
            )
        else:
            self._account.done["right_verdicts"] += 1
        return verdict

    def _judged(self) -> int:
        return self._account.done["verdicts"]

    def _watch(self, shown: StatusHistory, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            shown.note(self._poc.get("/status"))
            self._account.done["polls"] += 1
            if time.monotonic() >= until:
                return
            time.sleep(_POLL_SECONDS)

    def _wait_until_delivered(self) -> dict[str, Any]:
        """Return the status once the engine holds nothing and the outbox is empty."""

        def is_over(status: Mapping[str, Any]) -> bool:
            callbacks = status["callbacks"]
            return not (status["projection"]["bytes"] or callbacks["queued"] or callbacks["in_flight"])

        # A merge may still be under way where the outbox is empty.
        self._wait_until(lambda: is_over(self._poc.get("/status")), "an empty outbox")
        status: dict[str, Any] = self._poc.get("/status")
        self._account.done["delivered"] = status["callbacks"]["delivered"]
        return status

    def _received(self, request: Mapping[str, Any]) -> Received:
        return Received.of(self._database, request["public_key"])

    def _wait_until(self, condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + _PATIENCE
        while not condition():
            if time.monotonic() > until:
                raise RuntimeError(f"{what}: not in {_PATIENCE:g} s: {self._poc.get('/status')}")
            time.sleep(_POLL_SECONDS)


def poll(poc: PoCClient, account: Account, until: float) -> None:
    """Ask for the status and the metrics again and again, until a moment of `time.monotonic`."""
    while time.monotonic() < until:
        poc.get("/status")
        poc.http.get("/metrics").raise_for_status()
        account.done["polls"] += 1
        time.sleep(_POLL_SECONDS / 10)


def _identity(request: Mapping[str, Any]) -> dict[str, Any]:
    return {key: request[key] for key in ("block_hash", "block_height", "public_key", "node_id")}


def _part(request: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first nonces of a delivered batch, as a batch to judge."""
    per_nonce = {key: body[key][:_NONCES] for key in ("nonces", "dist", "vectors")}
    return {**_identity(request), **per_nonce, "encoding": body["encoding"], "round": body["round"]}


def _forged(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same claims for nonces that they are not of."""
    return {**batch, "dist": _turned(batch["dist"]), "vectors": _turned(batch["vectors"])}


def _turned(values: Sequence[Any]) -> list[Any]:
    return [*values[1:], values[0]]
