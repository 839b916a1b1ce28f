"""Mixed inference on a running server, and sliced PoC batches beside it, driven by hand.

A server started with VLLM_SERVER_DEV_MODE=1 lets a client call the worker's methods: batches are begun and
advanced here by random numbers of layers, where the server's own scheduler would choose them.
"""

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

Key = tuple[str, int]
Numbers = list[list[float]]

_PREFIX = "A proof of compute shows that a model was run, and not only promised. " * 12
_WORDS = ("block", "nonce", "layer", "proof", "token", "queue", "batch", "chain", "model", "norm")


class Batches:
    """PoC batches of the round that is open on a server; the server itself must have none at work.

    Args:
        http: A client of the server.
        chance: Where the sizes of slices come from.
    """

    def __init__(self, http: httpx.Client, chance: random.Random) -> None:
        self._http = http
        self._chance = chance
        self._sequence = 0
        self.slices = 0

    def whole(self, keys: Sequence[Key]) -> Numbers:
        """Return the numbers of a batch that is computed in one go."""
        return self._numbers(self._call("poc_start", [list(keys)], None))

    def sliced(self, keys: Sequence[Key], most_layers: int = 3) -> Numbers:
        """Return the numbers of a batch that stands still after every few layers."""
        done = self._call("poc_start", [list(keys)], self._chance.randint(1, most_layers))
        while done["batches"] is None:
            self.slices += 1
            done = self._call("poc_advance", self._chance.randint(1, most_layers))
        self.slices += 1
        return self._numbers(done)

    def suspended(self, keys: Sequence[Key]) -> None:
        """Begin a batch, and leave it after its first layer."""
        assert self._call("poc_start", [list(keys)], 1)["batches"] is None

    def advance(self) -> None:
        """Go on with a batch that stands still, for one layer."""
        self._call("poc_advance", 1)

    def _numbers(self, done: dict[str, Any]) -> Numbers:
        numbers: Numbers = done["batches"][0]["numbers"]
        return numbers

    def _call(self, method: str, *arguments: Any) -> dict[str, Any]:
        """Return the payload, which is the same on every rank but for the times."""
        self._sequence += 1
        body = {"method": method, "args": [self._sequence, *arguments]}
        response = self._http.post("/collective_rpc", json=body)
        response.raise_for_status()
        replies = response.json()["results"]
        for reply in replies:
            if reply["status"] != "ok" or reply["sequence"] != self._sequence:
                raise RuntimeError(f"{method}: {reply}")
        payload: dict[str, Any] = replies[0]["payload"]
        return payload


class Traffic:
    """Clients that keep a server busy with requests of every kind.

    Attributes:
        served: How many requests of each kind have been answered, or broken off on purpose.
        errors: What went wrong.
    """

    def __init__(self, url: str, model: str, *, clients: int, seed: int) -> None:
        self.served: Counter[str] = Counter()
        self.errors: list[str] = []
        self._url, self._model = url, model
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._client, args=(random.Random(seed + n),))  # noqa: S311
            for n in range(clients)
        ]

    @contextmanager
    def running(self) -> Iterator["Traffic"]:
        """Keep the clients at it for the length of a block, which then tells what went wrong."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()
        if self.errors:
            raise RuntimeError(self.errors[0])

    def _client(self, chance: random.Random) -> None:
        kinds = [self._greedy, self._sampled, self._streamed, self._prefixed, self._aborted, self._long]
        with httpx.Client(base_url=self._url, timeout=300, trust_env=False) as http:
            while not self._stop.is_set():
                kind = chance.choice(kinds)
                try:
                    kind(http, chance)
                except (httpx.HTTPError, AssertionError, KeyError, ValueError) as error:
                    self.errors.append(f"{kind.__name__}: {error!r}")
                    return
                self.served[kind.__name__.strip("_")] += 1

    def _body(self, prompt: str, tokens: int, **more: Any) -> dict[str, Any]:
        return {
            **{"model": self._model, "prompt": prompt, "max_tokens": tokens, "temperature": 0},
            **{"ignore_eos": True, **more},
        }

    def _complete(self, http: httpx.Client, body: dict[str, Any]) -> None:
        response = http.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        assert response.json()["usage"]["completion_tokens"] == body["max_tokens"]

    def _greedy(self, http: httpx.Client, chance: random.Random) -> None:
        self._complete(http, self._body(_words(chance, 8), chance.randint(4, 32)))

    def _sampled(self, http: httpx.Client, chance: random.Random) -> None:
        self._complete(http, self._body(_words(chance, 8), 16, temperature=1.0, seed=chance.randint(0, 9)))

    def _streamed(self, http: httpx.Client, chance: random.Random) -> None:
        body = self._body(_words(chance, 8), 16, stream=True)
        with http.stream("POST", "/v1/completions", json=body) as response:
            lines = [line for line in response.iter_lines() if line.startswith("data: ")]
        assert lines[-1] == "data: [DONE]", lines[-1]

    def _prefixed(self, http: httpx.Client, chance: random.Random) -> None:
        self._complete(http, self._body(_PREFIX + _words(chance, 3), 8))

    def _aborted(self, http: httpx.Client, chance: random.Random) -> None:
        body = self._body(_words(chance, 8), 200, stream=True)
        with http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            for _ in range(chance.randint(1, 6)):
                next(lines)

    def _long(self, http: httpx.Client, chance: random.Random) -> None:
        self._complete(http, self._body(_words(chance, 150), chance.randint(8, 64)))


def completions(url: str, model: str, prompts: Sequence[str], *, tokens: int, at_once: int) -> list[str]:
    """Greedy completions, so many at a time, in the order of the prompts."""
    texts = [""] * len(prompts)
    waiting = list(enumerate(prompts))

    def client() -> None:
        with httpx.Client(base_url=url, timeout=300, trust_env=False) as http:
            while waiting:
                try:
                    n, prompt = waiting.pop()
                except IndexError:
                    return
                body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
                response = http.post("/v1/completions", json={**body, "ignore_eos": True})
                texts[n] = json.dumps(response.raise_for_status().json()["choices"][0]["text"])

    clients = [threading.Thread(target=client) for _ in range(at_once)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    return texts


def some_prompts(count: int, seed: int) -> list[str]:
    """Prompts of a few words to a few hundred, the same ones for the same seed."""
    chance = random.Random(seed)  # noqa: S311
    return [_words(chance, chance.choice([4, 12, 60])) for _ in range(count)]


def metric(http: httpx.Client, name: str) -> float:
    """Return the sum of a metric's samples on the server's `/metrics`."""
    lines = http.get("/metrics").raise_for_status().text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def _words(chance: random.Random, count: int) -> str:
    return " ".join(f"{chance.choice(_WORDS)}{chance.randint(0, 99)}" for _ in range(count))
