"""The `hallmark` command, which is `python -P -m hallmark.server` too."""

import io
import logging
import sys
import traceback
from contextlib import suppress

from hallmark.poc.core.errors import HallmarkError

__all__ = ["main"]


def main() -> None:
    """Run the command line; an error ends it with code 2, and with one sentence where it is explained.

    Notes that were added to the error are printed below it, as hints. No error may end it with code 1, which
    is a verdict: fraud.
    """
    for stream in (sys.stdout, sys.stderr):
        # A locale without some sign of a table must not cost a verdict.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        from hallmark.server.commands import app

        app(prog_name="hallmark")
    except SystemExit as exc:
        # Libraries end with 1 where a reader has gone away.
        if isinstance(exc.__context__, BrokenPipeError):
            sys.exit(2)
        raise
    except BrokenPipeError:
        sys.exit(2)
    except HallmarkError as exc:
        from hallmark.server.cli.consoles import say

        say(f"hallmark: {exc}", logging.ERROR)
        for note in getattr(exc, "__notes__", ()):
            say(f"hint: {note}", logging.ERROR)
        sys.exit(2)
    except Exception as exc:  # noqa: BLE001  # shown in full, and Python's own exit code for it is 1
        reason = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
        # Where standard error cannot be written either, nobody can be told.
        with suppress(OSError):
            traceback.print_exc()
            print(f"hallmark: unexpected error: {reason}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
