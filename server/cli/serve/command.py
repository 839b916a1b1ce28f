"""`hallmark serve`: vLLM's own API server, with proof of compute in it."""

import math
import os
import signal
import time
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import httpx
import typer

from hallmark.poc.core.errors import UnsupportedError
from hallmark.server.cli.client import PREFIX, explain
from hallmark.server.cli.serve.checks import check_plan, check_vllm
from hallmark.server.cli.serve.plan import ServePlan, plan
from hallmark.server.processes.child import ChildProcess

__all__ = ["serve"]

_POLL_SECONDS = 0.2
_PROBE_SECONDS = 1.0
_PROBE_TIMEOUT = 5.0

# While it starts, vLLM may not notice a signal for minutes, and has nothing to lose yet.
_START_UP_PATIENCE = 10.0


def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model, as vLLM takes it.")],
) -> None:
    """Start vLLM's API server with proof of compute: hallmark serve MODEL, then vLLM's flags.

    Every flag after MODEL goes to vLLM untouched; `hallmark serve MODEL --help` lists them. Settings of
    proof of compute are part of vLLM's `--additional-config '{"hallmark": {...}}'`. The token of the control
    routes comes from HALLMARK_API_KEY, or from the file that the setting api_key_file names; without one the
    server must listen on loopback.

    --max-num-batched-tokens and --max-num-seqs are raised to what a PoC batch needs where they are not given.
    The command reports ready once proof of compute answers, and ends with the server's exit code.
    """
    if model.startswith("-"):
        raise typer.BadParameter("the model comes first: hallmark serve MODEL, then vLLM's flags")
    planned = plan(model, context.args, os.environ)
    warning = check_vllm(allow_unsupported=planned.settings.allow_unsupported_vllm)
    if warning is not None:
        _say(warning)
    check_plan(planned)
    raise typer.Exit(_run(planned))


def _run(plan: ServePlan) -> int:
    """Run the server until it ends, and return its exit code as a shell has it."""
    received: list[signal.Signals] = []

    def remember(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number))

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, remember)
    for note in plan.notes:
        _say(note)
    with (
        ChildProcess("vLLM", plan.command, environment=plan.environment) as child,
        _connect(plan) as client,
    ):
        ready, next_probe = False, time.monotonic()
        while (code := child.wait(_POLL_SECONDS)) is None:
            if received:
                # The first signal asks the server to finish; another one is of somebody who will not wait.
                code = _finish(child, received, seconds=None if ready else _START_UP_PATIENCE)
                break
            if not ready and time.monotonic() >= next_probe:
                ready = _probe(client)
                if ready:
                    _say(f"ready: {plan.socket or plan.url}, chat at /v1, proof of compute at {PREFIX}")
                next_probe = time.monotonic() + _PROBE_SECONDS
    if code == 0 and ready and not received:
        # What vLLM's API server ends with when its engine has died; to a supervisor it is a failure.
        _say("vLLM has ended, and nobody asked it to: why stands in its log above")
        return 1
    return code if code >= 0 else 128 - code


def _finish(child: ChildProcess, received: Sequence[signal.Signals], *, seconds: float | None) -> int:
    """Pass the first signal on and wait; return the exit code.

    Args:
        child: The server.
        received: Signals that came, and come meanwhile.
        seconds: The longest to wait before the server is killed; None leaves that to vLLM's own flags.
    """
    child.send_signal(received[0])
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    while (code := child.wait(_POLL_SECONDS)) is None:
        if len(received) > 1 or time.monotonic() >= deadline:
            return child.kill()
    return code


def _connect(plan: ServePlan) -> httpx.Client:
    headers = {} if plan.api_key is None else {"Authorization": f"Bearer {plan.api_key}"}
    # It is this command's own server on this machine: its certificate names another host.
    transport = httpx.HTTPTransport(uds=plan.socket, verify=False)
    return httpx.Client(base_url=plan.url, headers=headers, transport=transport, timeout=_PROBE_TIMEOUT)


def _probe(client: httpx.Client) -> bool:
    """Whether the server is up.

    Raises:
        UnsupportedError: It is up, and proof of compute is not.
    """
    try:
        if client.get("/health").status_code != 200:
            return False
        status = client.get(f"{PREFIX}/status")
    except httpx.TransportError:
        return False
    if status.is_success:
        return True
    raise UnsupportedError(
        f"the server is up without proof of compute and is stopped: GET {PREFIX}/status answers "
        f"{status.status_code} ({explain(status)}); why it did not load stands in vLLM's log above"
    )


def _say(sentence: str) -> None:
    print(f"hallmark: {sentence}", flush=True)
