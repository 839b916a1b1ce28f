"""The last line of `hallmark serve`: why the server has ended, whatever ended it."""

import signal
from collections.abc import Sequence

from hallmark.server.cli.serve.plan import ServePlan
from hallmark.server.cli.words import explained
from hallmark.server.processes.child import ProcessError, check_port
from hallmark.server.processes.endings import how_it_ended

__all__ = ["exit_code", "why_it_ended"]


def exit_code(plan: ServePlan, code: int, *, was_asked: bool) -> int:
    """Return the exit code of the command, as a shell has it.

    vLLM's API server ends with 0 when its engine has died; to a supervisor that is a failure.

    Args:
        plan: The server.
        code: Its exit code, minus the signal's number where a signal ended it.
        was_asked: Whether this command was asked to end, and passed it on.
    """
    if code == 0 and not was_asked and not plan.is_help:
        return 1
    return code if code >= 0 else 128 - code


def why_it_ended(
    plan: ServePlan, code: int, received: Sequence[signal.Signals], words: str, *, was_ready: bool
) -> str | None:
    """Return the sentence; None where the reason has just been printed, or only help was.

    Args:
        plan: The server.
        code: Its exit code, minus the signal's number where a signal ended it.
        received: The signals that this command was sent.
        words: What the server's processes have left to say of their end.
        was_ready: Whether it had come up.
    """
    if plan.is_help:
        return None
    ended = how_it_ended(code)
    if received:
        if code == -signal.SIGKILL:
            # Nothing tells whether a node that answers nowhere has come up.
            too_late = "it did not end in time" if plan.is_headless else "it did not end while it started"
            why = "a second signal came" if len(received) > 1 else too_late
            return f"vLLM was asked to end by {received[0].name}, and killed since {why}"
        return f"vLLM has {ended}, as {received[0].name} asked this command to"
    if words:
        return f"vLLM has ended: {words}" if code == 0 else f"vLLM {ended}: {words}"
    if code < 0:
        return f"vLLM's API server {ended}; this command was sent no signal"
    if code == 0:
        return (
            "vLLM has ended, and this command did not ask it to: either another process sent SIGTERM to its "
            "API server, or why stands in its log above"
        )
    if not was_ready and code == 2:
        return None
    return (None if was_ready else _lost_port(plan)) or f"vLLM {ended}: why stands in its log above"


def _lost_port(plan: ServePlan) -> str | None:
    """Say that the port was taken while the server started; None where it was not."""
    if plan.address is None:
        return None
    try:
        check_port(*plan.address)
    except ProcessError as exc:
        return f"vLLM ended before it was ready: {explained(exc)}"
    return None
