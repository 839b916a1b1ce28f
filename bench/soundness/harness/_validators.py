"""Who judges batches: a server's own `POST /validate`, and `hallmark verify`, both in this process.

A small model runs in float32, the same on every processor. Nothing stands between a batch's bytes and the
product: parsing, checks and judge are the route's, and the command's.
"""

import asyncio
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[3] / "tests" / "support"))

import httpx
from runtime import POC, application, client_of, running_manager
from transformers_engine import TransformersEngine

from hallmark.server.commands import app as command_line

DTYPE = "float32"
"""What models run in here."""

Body = Mapping[str, Any] | bytes
"""A batch as a client has it, or the bytes of one that JSON's writers do not write."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answers to a batch.

    Attributes:
        status: Of HTTP.
        body: The answer's JSON.
    """

    status: int
    body: Mapping[str, Any]

    @property
    def outcome(self) -> str:
        """`refused`, or the verdict: `honest`, `fraud` or `no_verdict`."""
        return str(self.body["verdict"]) if self.status == 200 else "refused"

    @property
    def reason(self) -> str:
        """The words of a refusal; the tests that convict; otherwise nothing."""
        return ", ".join(self.body["rejected_by"]) if self.status == 200 else str(self.body["detail"])


class Server:
    """A server in a round, to which batches are sent.

    Args:
        runner: Runs its event loop; it stands still between calls.
        client: Of its HTTP API.
    """

    def __init__(self, runner: asyncio.Runner, client: httpx.AsyncClient) -> None:
        self._runner = runner
        self._client = client

    def validate(self, request: Mapping[str, Any], batch: Body) -> Answer:
        """Set a round, unless it is set already, and send a batch to `/validate`."""
        return self._runner.run(self._validate(request, batch))

    async def _validate(self, request: Mapping[str, Any], batch: Body) -> Answer:
        begun = await self._client.post(f"{POC}/init/validate", json=dict(request))
        begun.raise_for_status()
        answer = await self._client.post(f"{POC}/validate", content=as_bytes(batch))
        return Answer(answer.status_code, answer.json())


@contextmanager
def running_server(directory: Path) -> Iterator[Server]:
    """Serve the model of a directory."""
    with asyncio.Runner() as runner:
        engine = TransformersEngine(directory, dtype=DTYPE)
        # As vLLM's engine tells them, too: a batch that states another one is refused.
        engine.numerics = {**engine.numerics, "quantization": "none", "kv_cache_dtype": DTYPE}
        manager = running_manager(engine)
        client = client_of(application(runner.run(manager.__aenter__())))
        try:
            yield Server(runner, runner.run(client.__aenter__()))
        finally:
            runner.run(client.__aexit__(None, None, None))
            runner.run(manager.__aexit__(None, None, None))


@dataclass(frozen=True, slots=True)
class Verified:
    """What `hallmark verify` ends with and prints.

    Attributes:
        code: 0 all honest, 1 fraud among them, 2 neither.
        text: Its table, and what it says below it.
    """

    code: int
    text: str

    def said(self, sentence: str) -> str:
        """Return the line that says a sentence.

        Where it is asked for one, and what is credited in the end.
        """
        lines = self.text.splitlines()
        credited = lines[-1].rpartition("; ")[2]
        found = next((line for line in lines if sentence and sentence in line), None)
        return credited if found is None else f"{found.partition(': ')[2] or found}; {credited}"


def verify(
    directory: Path, folder: Path, batches: Sequence[Body], request: Mapping[str, Any] | None, *options: str
) -> Verified:
    """Run `hallmark verify` over batches of a file, one a line.

    Args:
        directory: The model's.
        folder: Where the file of batches goes, and what was recomputed stays for the next call.
        batches: The batches.
        request: What the round was set with; None: the options say.
        *options: Further ones.
    """
    proofs, round_file = folder / "proofs.jsonl", folder / "round.json"
    proofs.write_bytes(b"\n".join(map(as_bytes, batches)))
    words = ["verify", str(proofs), "--model", str(directory), "--dtype", DTYPE]
    words += ["--state", str(folder / "recomputed.jsonl"), *options]
    if request is not None:
        round_file.write_text(json.dumps(dict(request)), encoding="utf-8")
        words += ["--round", str(round_file)]
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(io.StringIO()):
        code = command_line(words, standalone_mode=False)
    return Verified(code, printed.getvalue().rstrip())


def as_bytes(batch: Body) -> bytes:
    """Return a batch as it goes over the wire."""
    return batch if isinstance(batch, bytes) else json.dumps(dict(batch)).encode()
