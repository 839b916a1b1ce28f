"""A running `hallmark serve` on a model with random weights."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from _models import ModelShape, write_model
from _vllm import ENVIRONMENT

from hallmark.server.cli.client import PoCClient, UnreachableError
from hallmark.server.models.small import fast_dtype
from hallmark.server.processes.child import ChildProcess, free_port

_START_SECONDS = 600.0

_ANSWER_SECONDS: Final = 300.0
"""A machine that has other work is slow, and no run of hours is to end for it."""


@dataclass(frozen=True, slots=True)
class Server:
    """What benches use of a running server.

    Attributes:
        poc: A client of its control routes.
        model: The folder of the model, which is also its name.
        outbox: The file of its outbox, unless the settings name another one.
        pid: The process id of `hallmark serve`.
    """

    poc: PoCClient
    model: Path
    outbox: Path
    pid: int


@contextmanager
def running_server(
    shape: ModelShape, *flags: str, settings: Mapping[str, object], **environment: str
) -> Iterator[Server]:
    """Serve a model of a shape, and end the server afterwards.

    Args:
        shape: The shape.
        *flags: Further flags of vLLM's.
        settings: Hallmark's settings.
        **environment: Further variables of its environment.
    """
    port = free_port()
    with TemporaryDirectory() as directory:
        model, log = Path(directory) / "model", Path(directory) / "server.log"
        outbox = Path(directory) / "outbox.db"
        write_model(shape, model)
        command = [
            *(sys.executable, "-P", "-m", "hallmark.server", "serve", str(model)),
            *("--host", "127.0.0.1", "--port", str(port), "--load-format", "dummy"),
            *("--dtype", fast_dtype(), "--max-model-len", "2048"),
            *(
                "--additional-config",
                json.dumps({"hallmark": {"outbox_path": str(outbox), **settings}}),
            ),
            *flags,
        ]
        environment = {**ENVIRONMENT, **environment}
        del environment["VLLM_PLUGINS"]
        process = ChildProcess("hallmark serve", command, log=log, environment=environment)
        with (
            process,
            PoCClient(f"http://127.0.0.1:{port}", timeout=_ANSWER_SECONDS, use_proxies=False) as poc,
        ):

            def is_up() -> bool:
                try:
                    return bool(poc.get("/status"))
                except UnreachableError:
                    return False

            try:
                process.wait_until(is_up, seconds=_START_SECONDS)
            except Exception as error:
                error.add_note(process.log_tail(60))  # the log goes with the folder
                raise
            yield Server(poc, model, outbox, process.pid)
