"""How commands tell verdicts: colours, short keys, output that nobody may read, exit codes."""

import os
import sys
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from hallmark.poc.verdict.judge import Verdict

__all__ = ["STYLES", "exit_code", "print_or_drop", "shortened"]

STYLES: Final[Mapping[Verdict, str]] = MappingProxyType(
    {Verdict.HONEST: "green", Verdict.FRAUD: "red", Verdict.NO_VERDICT: "yellow"}
)
"""The colour of a verdict's row."""

_MAX_KEY: Final = 24


def shortened(public_key: str) -> str:
    """A public key as a table has room for it."""
    return public_key if len(public_key) <= _MAX_KEY else f"{public_key[: _MAX_KEY - 1]}…"


def print_or_drop(text: str) -> None:
    """Print what may be piped into a command that does not read on.

    The exit code stays the verdict then: libraries and Python would exit with 1 or 120.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_code(verdicts: Collection[Verdict]) -> int:
    """0 where all are honest, 1 with fraud among them, else 2; an error is to be given as no verdict."""
    if Verdict.FRAUD in verdicts:
        return 1
    return 0 if set(verdicts) == {Verdict.HONEST} else 2
