"""Runs a command that is told to end when the process that started it is gone.

``python -P -m hallmark.server.processes.tether PARENT_PID COMMAND...`` asks Linux for a SIGTERM at the
parent's death and becomes the command. It is a program of its own because the same in `subprocess`'s
`preexec_fn` would run Python between fork and exec, which can deadlock a parent that has threads.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping

__all__ = ["PARENT_VARIABLE", "main", "parent_is_gone"]

PARENT_VARIABLE = "HALLMARK_PARENT_PID"
"""Names the parent to the command, which may have to look for itself: a program can lose a signal."""

_PR_SET_PDEATHSIG = 1


def parent_is_gone(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process was started on a tether and the one that held it has ended."""
    parent = environment.get(PARENT_VARIABLE)
    return parent is not None and os.getppid() != int(parent)


def main(arguments: list[str]) -> None:
    """Ask for the signal and become the command; returns never.

    Args:
        arguments: The parent's process id, then the command.

    Raises:
        OSError: The kernel refuses the request, or the command cannot be run.
    """
    parent, command = int(arguments[0]), arguments[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # A parent that died before the request will never be noticed by it.
    if os.getppid() != parent:
        sys.exit(f"the process {parent} that asked for {command[0]} has ended")
    os.environ[PARENT_VARIABLE] = str(parent)
    os.execvp(command[0], command)  # noqa: S606  # the caller's command, no shell in between


if __name__ == "__main__":
    main(sys.argv[1:])
