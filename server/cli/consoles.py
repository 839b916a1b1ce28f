"""Where commands write: results to standard output, everything else to standard error."""

import os
import sys
from typing import IO, Annotated, Final

import typer
from rich.console import Console, RenderableType

from hallmark.server.cli.words import printable

__all__ = ["WIDE", "AsJson", "notes", "print_or_drop", "results", "say", "show"]

WIDE: Final = 120
"""Columns from which on views show more; in 80 they show what matters."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_OFF_A_TERMINAL: Final = 100_000


def results() -> Console:
    """Return the console for what a command was asked for.

    Off a terminal it is wide, so that a program finds each row on one line; COLUMNS says otherwise.
    """
    return _console(sys.stdout)


def notes() -> Console:
    """Return the console for progress, warnings and errors."""
    return _console(sys.stderr)


def show(console: Console, *shown: RenderableType) -> None:
    """Print results on a console, without spaces at the ends of lines."""
    with console.capture() as captured:
        for each in shown:
            console.print(each)
    print_or_drop("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_or_drop(text: str) -> bool:
    """Print what may be piped into a command that does not read on; return whether anybody reads.

    The exit code stays the command's then: libraries would exit with 1, which is a verdict, Python with 120.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def say(sentence: str) -> None:
    """Write a sentence to standard error: on a terminal wrapped between words, else on one line."""
    notes().print(printable(sentence), markup=False, soft_wrap=not sys.stderr.isatty())


def _console(file: IO[str]) -> Console:
    is_sized = file.isatty() or "COLUMNS" in os.environ
    return Console(file=file, highlight=False, width=None if is_sized else _OFF_A_TERMINAL)
