"""Ends what a process has started of Ray's, once that process is gone or asks for it.

``python -P -m hallmark.poc.actors.warden FOLDER`` waits until its standard input is closed, as it is
when the process that holds the other end ends, however that happens. Then it kills whoever still has a file
of the folder open, where that Ray keeps its logs and sockets and nobody else has any, and removes the folder.
Ray's processes notice by themselves that their head is gone, but some only after a minute or two.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["main"]

_GRACE_SECONDS = 2.0
_MOST_SECONDS = 10.0
_SECONDS_BETWEEN = 0.1


def main(folder: Path) -> None:
    """Wait for the end of standard input, and clean up.

    Args:
        folder: Of Ray's files.
    """
    parent = os.getppid()
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    while os.read(sys.stdin.fileno(), 1):
        pass
    started = time.monotonic()
    while time.monotonic() < started + _MOST_SECONDS:
        users = _users(folder)
        if os.getppid() == parent:
            # It asks, and lives: it has a file of Ray's open too.
            users.discard(parent)
        if not users:
            break
        # Most of Ray ends of itself, and says so in its logs.
        if time.monotonic() > started + _GRACE_SECONDS:
            for pid in users:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_SECONDS_BETWEEN)
    shutil.rmtree(folder, ignore_errors=True)


def _users(folder: Path) -> set[int]:
    """Return the processes that have a file below a folder open."""
    below = f"{folder}{os.sep}"
    found = set()
    for opened in Path("/proc").glob("[0-9]*/fd/*"):
        # Processes and their files come and go, and those of other users are hidden.
        with suppress(OSError):
            if os.readlink(opened).startswith(below):
                found.add(int(opened.parts[2]))
    return found - {os.getpid()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
