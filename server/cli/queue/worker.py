"""`hallmark worker`: recompute what was ordered."""

import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from hallmark.poc.core.json_logs import json_logging
from hallmark.server.cli.client import ApiKey
from hallmark.server.cli.consoles import JsonLogs, log_as_json, say
from hallmark.server.cli.offline import recomputing
from hallmark.server.cli.offline.engine_command import vllm_flags
from hallmark.server.cli.queue.queue_database import QueueDatabase, opened
from hallmark.server.cli.words import counted

if TYPE_CHECKING:
    from types import FrameType

    from hallmark.server.verification.worker import Worker, WorkerEngine

__all__ = ["worker"]

_INTERRUPTED: Final = 130
_SERVER_SECONDS: Final = 600.0
"""How long a server may take for a batch; it may serve chat beside."""


def worker(
    context: typer.Context,
    database: QueueDatabase,
    model: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="A directory with the model; it is run in this process."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A Hallmark server that recomputes, in the place of a model here."),
    ] = None,
    engine: recomputing.Engine = recomputing.EngineName.TRANSFORMERS,
    device: recomputing.Device = None,
    dtype: recomputing.Dtype = None,
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Nonces of the largest batch, for --engine vllm.")
    ] = 32,
    seq_len: Annotated[
        int, typer.Option(min=1, metavar="N", help="Rows of the longest nonce, for --engine vllm.")
    ] = 256,
    name: Annotated[
        str | None, typer.Option(help="What it is called in the database; by default host and process.")
    ] = None,
    lease: Annotated[
        float,
        typer.Option(min=1.0, metavar="SECONDS", help="How long others wait for it, once it gives no sign."),
    ] = 60.0,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End when nothing is left that it may do.")
    ] = False,
    api_key: ApiKey = None,
    json_logs: JsonLogs = False,
) -> None:
    """Recompute what was ordered, and write verdicts.

    Run as many as you like, on any machines. The model runs in this process, by transformers or by vLLM with
    its own flags after --; or on the Hallmark server of --server, which goes on serving chat. A worker that
    is killed loses nothing: another one takes over its job. Ctrl-C or SIGTERM ends it after its job, a second
    one at once.

    \b
      hallmark worker --model qwen3-8b
      hallmark worker --model qwen3-235b --engine vllm -- -tp 8
      hallmark worker --server http://127.0.0.1:8000
    """  # noqa: D301  # the sign by which help keeps lines as they are
    if (model is None) == (server is None):
        raise typer.BadParameter("give --model or --server, one of them")
    flags = vllm_flags(context)
    if server is not None and (flags or device is not None or dtype is not None):
        raise typer.BadParameter("--device, --dtype and flags of vLLM's are of use with --model only")
    if json_logs:
        log_as_json(json_logging("INFO", "ext://sys.stderr"))
    else:
        _log()
    # Two that are started anew at the same moment, in two containers say, are two.
    called = name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    from hallmark.server.verification.worker import Worker

    with opened(database) as store, ExitStack() as stack:
        used: WorkerEngine
        if server is not None:
            used = stack.enter_context(_beside(server, api_key, called))
        else:
            assert model is not None  # noqa: S101  # one of them is given
            shape = (batch_size, seq_len)
            used = stack.enter_context(_loaded(engine, model, device, dtype, flags, shape))
        found = Worker(store, used, called, lease)
        say(f"Working as {called}.")
        try:
            with _ended_by_signals(found):
                found.run(until_idle=until_idle)
        except KeyboardInterrupt:
            if server is not None:
                # Threads wait for the server's answers, and nothing else ends them.
                os._exit(_INTERRUPTED)
            raise
    say(f"{counted(found.ended_jobs, 'job')} done.")


@contextmanager
def _beside(url: str, api_key: str | None, name: str) -> "Iterator[WorkerEngine]":
    from hallmark.server.cli.client import PoCClient
    from hallmark.server.cli.queue.server_engine import ServerEngine

    with PoCClient(url, api_key, timeout=_SERVER_SECONDS) as client:
        client.get("/status")
        with closing(ServerEngine(client, name)) as engine:
            yield engine


@contextmanager
def _loaded(
    engine: recomputing.EngineName,
    model: Path,
    device: str | None,
    dtype: str | None,
    flags: Sequence[str],
    shape: tuple[int, int],
) -> "Iterator[WorkerEngine]":
    """Load a model for batches of so many nonces and rows."""
    from hallmark.poc.protocol.config import PoCConfig
    from hallmark.server.verification.worker import OwnEngine

    batch_size, seq_len = shape
    any_round = PoCConfig(
        block_hash="any", block_height=0, public_key="any", batch_size=batch_size, seq_len=seq_len
    )
    loader = recomputing.loader(engine, model, device, dtype, flags, any_round, [], in_pool=False)
    with recomputing.loaded(loader, quiet=False) as loaded:
        yield OwnEngine(loaded, loader.fingerprint())


@contextmanager
def _ended_by_signals(worker: "Worker") -> Iterator[None]:
    """Let the first signal end the worker after its job, and the second one at once."""

    def end(number: int, _: "FrameType | None") -> None:
        say("Ending after this job; once more ends at once.")
        worker.stop()
        for each in before:
            signal.signal(each, signal.default_int_handler)
        del number

    before = {each: signal.signal(each, end) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _log() -> None:
    """Log what the worker does on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("hallmark.server.verification")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
