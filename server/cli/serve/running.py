"""A server of `hallmark serve` while it runs: probed until it is ready, ended by signals."""

import json
import math
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import httpx

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.core.last_words import LAST_WORDS_VARIABLE
from hallmark.server.cli.client import PREFIX, explain
from hallmark.server.cli.consoles import say
from hallmark.server.cli.serve.ending import exit_code, why_it_ended
from hallmark.server.cli.serve.plan import ServePlan
from hallmark.server.processes.child import ChildProcess

__all__ = ["run"]

_POLL_SECONDS = 0.2
_PROBE_SECONDS = 1.0
_PROBE_TIMEOUT = 5.0

# While it starts, vLLM may not notice a signal for minutes, and has nothing to lose yet. Nor has a node
# without a server, whose worker waits for the others.
_START_UP_PATIENCE = 10.0


def run(plan: ServePlan) -> int:
    """Run the server until it ends, and return its exit code as a shell has it."""
    received: list[signal.Signals] = []

    def remember(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number))

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, remember)
    for note in plan.notes:
        _say(note)
    with TemporaryDirectory(prefix="hallmark-") as folder:
        last_words = Path(folder, "last_words")
        environment = {**plan.environment, LAST_WORDS_VARIABLE: str(last_words)}
        if plan.logging is not None:
            # Each of the server's processes reads it when it starts.
            logging = Path(folder, "logging.json")
            logging.write_text(json.dumps(plan.logging), encoding="utf-8")
            environment["VLLM_LOGGING_CONFIG_PATH"] = str(logging)
        code, ready = _watch(plan, received, environment)
        words = last_words.read_text(encoding="utf-8").splitlines() if last_words.exists() else []
    reason = why_it_ended(plan, code, received, "; ".join(words), was_ready=ready)
    if reason is not None:
        # vLLM's last line may lack its end, and nothing tells whether it does; lines of JSON have theirs.
        _say(reason, before="\n" if plan.logging is None else "")
    return exit_code(plan, code, was_asked=bool(received))


def _watch(
    plan: ServePlan, received: Sequence[signal.Signals], environment: Mapping[str, str]
) -> tuple[int, bool]:
    """Run the server until it ends.

    Returns:
        Its exit code, minus the signal's number where a signal ended it, and whether it had been ready.
    """
    with (
        ChildProcess("vLLM", plan.command, environment=environment) as child,
        _connect(plan) as client,
    ):
        ready, next_probe = False, time.monotonic()
        while (code := child.wait(_POLL_SECONDS)) is None:
            if received:
                # The first signal asks the server to finish; another one is of somebody who will not wait.
                code = _finish(child, received, seconds=None if ready else _START_UP_PATIENCE)
                break
            if not ready and not plan.is_headless and time.monotonic() >= next_probe:
                ready = _probe(client)
                if ready:
                    _say(f"ready: {plan.socket or plan.url}, chat at /v1, proof of compute at {PREFIX}")
                    if plan.has_page:
                        _say(f"look at it: {plan.url}/poc")
                next_probe = time.monotonic() + _PROBE_SECONDS
    return code, ready


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
    headers = {} if plan.api_key is None else {b"Authorization": f"Bearer {plan.api_key}".encode()}
    # It is this command's own server on this machine: its certificate names another host.
    transport = httpx.HTTPTransport(uds=plan.socket, verify=False)
    return httpx.Client(base_url=plan.url, headers=headers, transport=transport, timeout=_PROBE_TIMEOUT)


def _probe(client: httpx.Client) -> bool:
    """Return whether the server is up.

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


def _say(sentence: str, before: str = "") -> None:
    say(f"{before}hallmark: {sentence}")
