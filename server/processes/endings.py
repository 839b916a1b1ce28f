"""How processes end, in words."""

import signal
from typing import Final

__all__ = ["how_it_ended"]

_CRASHES: Final = frozenset(
    {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS}
)


def how_it_ended(code: int) -> str:
    """Say how a process ended, as the rest of a sentence about it.

    Args:
        code: Its exit code, minus the signal's number where a signal ended it.
    """
    if code >= 0:
        return f"ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal
        name = f"signal {-code}"
    if -code in _CRASHES:
        return f"crashed with {name} ({signal.strsignal(-code)})"
    if -code == signal.SIGKILL:
        return "was killed by SIGKILL, which is what the kernel does when memory is short"
    return f"was ended by {name}"
