"""A terminal of a stated size, and what a person sees on it."""

import fcntl
import os
import pty
import struct
import sys
import termios
import traceback
from collections.abc import Callable
from typing import Final

import pyte

__all__ = ["picture", "run_on_a_terminal"]

_READ_BYTES: Final = 65_536
_MAX_LINES: Final = 2_000


def picture(run: Callable[[], None], columns: int, lines: int) -> str:
    """Run something in a fork whose terminal has a stated size; return what that shows in the end.

    What has scrolled out at the top is returned too. The fork has whatever this process has imported, and no
    threads but the one that calls.

    Args:
        run: Prints what is to be seen. It may end by SystemExit.
        columns: Width of the terminal.
        lines: Its height.
    """
    screen, _ = run_on_a_terminal(run, columns, lines)
    scrolled = ["".join(line[column].data for column in range(columns)) for line in screen.history.top]
    return "\n".join(line.rstrip() for line in [*scrolled, *screen.display]).strip("\n") + "\n"


def run_on_a_terminal(run: Callable[[], None], columns: int, lines: int) -> tuple[pyte.HistoryScreen, int]:
    """Run something as `picture` does; return the terminal as it is left, and the fork's exit code.

    The code is 0 where `run` returns or raises, and its own where it becomes another program.
    """
    screen = pyte.HistoryScreen(columns, lines, history=_MAX_LINES)
    stream = pyte.ByteStream(screen)
    child, controller = pty.fork()
    if child == 0:
        _show(run, columns, lines)
    try:
        while shown := _read(controller):
            stream.feed(shown)
    finally:
        os.close(controller)
        _, status = os.waitpid(child, 0)
    return screen, os.waitstatus_to_exitcode(status)


def _show(run: Callable[[], None], columns: int, lines: int) -> None:
    """Run it in the child, and end that."""
    try:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        for name in ("COLUMNS", "LINES"):
            os.environ.pop(name, None)
        os.environ["TERM"] = "xterm-256color"
        # Those of this process know where they stood in the files that they wrote to.
        sys.stdout, sys.stderr = map(os.fdopen, (1, 2), "ww")
        run()
    except SystemExit:
        pass
    except BaseException:  # noqa: BLE001  # the picture shows it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _read(controller: int) -> bytes:
    try:
        return os.read(controller, _READ_BYTES)
    except OSError:
        # Linux's way to say that nobody has the terminal open any more.
        return b""
