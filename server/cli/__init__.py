"""The `hallmark` command; one module a subcommand."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; an error that is explained ends it with code 2 and one sentence."""
    from hallmark.poc.errors import HallmarkError
    from hallmark.server.cli.app import app

    try:
        app()
    except HallmarkError as exc:
        print(f"hallmark: {exc}", file=sys.stderr)
        sys.exit(2)
