"""The `hallmark` command, which is `python -P -m hallmark.server` too."""

import sys
import traceback

from hallmark.poc.core.errors import HallmarkError

__all__ = ["main"]


def main() -> None:
    """Run the command line; an error ends it with code 2, and with one sentence where it is explained.

    No error may end it with code 1, which is a verdict: fraud.
    """
    try:
        from hallmark.server.commands import app

        app()
    except HallmarkError as exc:
        print(f"hallmark: {exc}", file=sys.stderr)
        sys.exit(2)
    except Exception as exc:  # noqa: BLE001  # shown in full, and Python's own exit code for it is 1
        traceback.print_exc()
        reason = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
        print(f"hallmark: unexpected error: {reason}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
