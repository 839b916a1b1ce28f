"""Real servers for the tests: `hallmark serve` on real vLLM, and `hallmark receiver`."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from builders import make_body, small_request
from python_path import with_support

from hallmark.server.models.small import fast_dtype
from hallmark.server.processes.child import ChildProcess, free_port

BATCH_SIZE = 32
SEQ_LEN = 256
START_SECONDS = 600.0
# So few blocks of cache (of 128 tokens on a CPU, 16 on most GPUs) that requests are preempted, and prompts in
# chunks.
BLOCKS = 160 if torch.cuda.is_available() else 20
TIGHT = ("--num-gpu-blocks-override", str(BLOCKS), "--long-prefill-token-threshold", "128")
HALLMARK = (sys.executable, "-P", "-m", "hallmark.server")


class Node:
    """A running server, and the calls that tests make of it."""

    def __init__(self, process: ChildProcess, port: int, model: str) -> None:
        self.process = process
        self.port = port
        self.model = model
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=120, trust_env=False)

    def close(self) -> None:
        self.http.close()

    def get(self, path: str) -> Any:
        response = self.http.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, body: Any = None, *, status: int = 200) -> Any:
        response = self.http.post(path, json=body)
        assert response.status_code == status, (response.status_code, response.text)
        return response.json()

    def poc(self, path: str, body: Any = None, *, status: int = 200) -> Any:
        return self.post(f"/api/v1/pow{path}", body, status=status)

    def status(self) -> Any:
        return self.get("/api/v1/pow/status")

    def wait_for(self, condition: Callable[[Any], bool], *, seconds: float = 120.0) -> Any:
        """The first status that meets a condition."""
        deadline = time.monotonic() + seconds
        while not condition(status := self.status()):
            assert time.monotonic() < deadline, status
            time.sleep(0.1)
        return status

    def find_valid(self, round_: dict[str, Any], count: int = 50) -> dict[str, Any]:
        """Generate until so many valid nonces are found, and go on to validate; return them as a batch."""
        self.poc("/init/generate", round_)
        assert self.chat().status_code == 503
        self.wait_for(lambda status: status["total_valid"] >= count)
        self.poc("/phase/validate")
        status = self.status()
        return proof(round_, status["valid_nonces"][:count], status["valid_distances"][:count])

    def chat(self, text: str = "Tell me about proofs.") -> httpx.Response:
        return self.http.post(
            "/v1/chat/completions",
            json={"model": self.model, "messages": [{"role": "user", "content": text}], "max_tokens": 8},
        )

    def complete(self, prompt: str, tokens: int = 24) -> str:
        """A greedy completion."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        text: str = self.post("/v1/completions", body)["choices"][0]["text"]
        return text

    def probe(self, method: str, *arguments: Any) -> list[Any]:
        body = {"method": f"probe_{method}", "args": arguments}
        results: list[Any] = self.post("/collective_rpc", body)["results"]
        return results


@contextmanager
def running_node(
    model: Path,
    log: Path,
    *flags: str,
    settings: dict[str, Any] | None = None,
    dtype: str | None = None,
    **environment: str,
) -> Iterator[Node]:
    """Start `hallmark serve` on the model, wait until it is ready, and end it afterwards.

    Where no dtype is given, it is the one that is fast on this machine.
    """
    port = free_port()
    config = {
        "hallmark": {
            "allow_developer_mode": True,  # for the probes
            "callback_interval": 0.5,
            "callback_backoff_base": 0.1,
            "outbox_path": str(log.with_suffix(".outbox.db")),
            **(settings or {}),
        }
    }
    command = [
        *(*HALLMARK, "serve", str(model), "--host", "127.0.0.1", "--port", str(port)),
        *("--served-model-name", "demo", "--dtype", dtype or fast_dtype(), "--max-model-len", "2048"),
        *("--max-num-seqs", str(BATCH_SIZE), "--additional-config", json.dumps(config)),
        *("--worker-extension-cls", "probe.Probe"),
        *flags,
    ]
    # The interpreter is for the tests of kernels in this process only.
    variables = {
        **{"VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": with_support(), "TRITON_INTERPRET": "0"},
        **environment,
    }
    with (
        ChildProcess("hallmark serve", command, log=log, environment=variables) as process,
        closing(Node(process, port, "demo")) as node,
    ):

        def ready() -> bool:
            try:
                return node.http.get("/health").status_code == 200
            except httpx.TransportError:
                return False

        try:
            process.wait_until(ready, seconds=START_SECONDS)
        except Exception as error:
            error.add_note(process.log_tail(60))
            raise
        yield node


class Receiver:
    """A running `hallmark receiver`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def close(self) -> None:
        self.http.close()

    def batches(self, kind: str) -> list[Any]:
        return [
            self._get(f"/batches/{entry['id']}")["body"]
            for entry in self._get(f"/batches?kind={kind}&limit=1000")
        ]

    def _get(self, path: str) -> Any:
        response = self.http.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    def wait_for(
        self, kind: str, condition: Callable[[list[Any]], bool], *, seconds: float = 60.0
    ) -> list[Any]:
        deadline = time.monotonic() + seconds
        while not condition(batches := self.batches(kind)):
            assert time.monotonic() < deadline, f"{len(batches)} batches of {kind} so far"
            time.sleep(0.2)
        return batches


def round_request(**fields: Any) -> dict[str, Any]:
    """A round with short inputs, so that batches take little time."""
    stated = {
        "block_hash": "00000000000000000001f8a2c5d3",
        "block_height": 812_345,
        "public_key": "02ab64c1f0",
    }
    return small_request(**{**stated, "batch_size": BATCH_SIZE, "seq_len": 32, **fields})


def proof(round_: dict[str, Any], nonces: list[int], dist: list[float], **fields: Any) -> dict[str, Any]:
    """A batch of proofs for a round."""
    stated = {key: round_[key] for key in ("block_hash", "block_height", "public_key")}
    return make_body(nonces, dist, **{**stated, **fields})
