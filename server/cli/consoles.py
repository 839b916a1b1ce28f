"""Where commands write: results to standard output, everything else to standard error."""

import io
import logging
import logging.config
import os
import sys
from typing import IO, Annotated, Any, Final

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from hallmark.poc.core.errors import StateError
from hallmark.poc.core.json_logs import COMMAND_LOGGER
from hallmark.server.cli.words import printable

__all__ = [
    "WIDE",
    "AsJson",
    "JsonLogs",
    "is_terminal",
    "log_as_json",
    "notes",
    "print_or_drop",
    "results",
    "say",
    "show",
]

WIDE: Final = 120
"""Columns from which on views show more; in 80 they show what matters."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

JsonLogs = Annotated[bool, typer.Option("--json-logs", help="Log lines of JSON, for programs.")]

_NARROWEST: Final = 80
_OFF_A_TERMINAL: Final = 100_000


class _Console(Console):
    """A console whose reader may go away: the exit code stays the command's, where rich's is a verdict."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _drop(self.file)


def results() -> Console:
    """Return the console for what a command was asked for.

    Off a terminal it is wide, so that a program finds each row on one line; COLUMNS folds tables there too.
    """
    console = _console(sys.stdout)
    # A table that is narrower would lose digits; a terminal breaks its lines instead.
    console.width = max(console.width, _NARROWEST)
    return console


def notes() -> Console:
    """Return the console for progress, warnings and errors."""
    return _console(sys.stderr)


def show(console: Console, *shown: RenderableType) -> None:
    """Print results without spaces at the ends of lines; off a terminal no sentence is folded."""
    with console.capture() as captured:
        for each in shown:
            is_sentence = isinstance(each, Text | str)
            console.print(each, soft_wrap=is_sentence and not is_terminal(sys.stdout))
    print_or_drop("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_or_drop(text: str) -> bool:
    """Print what may be piped into a command that does not read on; return whether anybody reads.

    The exit code stays the command's then: libraries would exit with 1, which is a verdict, Python with 120.

    Raises:
        StateError: Standard output cannot be written, as on a full disk.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _drop(sys.stdout)
        return False
    except OSError as exc:
        _drop(sys.stdout)
        raise StateError(f"standard output cannot be written: {exc.strerror}") from exc
    return True


def say(sentence: str, level: int = logging.INFO) -> None:
    """Write a sentence to standard error: on a terminal wrapped between words, else on one line.

    Args:
        sentence: What to say.
        level: How it counts where the command logs as JSON, which is one line of that then.
    """
    command = logging.getLogger(COMMAND_LOGGER)
    if command.handlers:
        command.log(level, "%s", sentence.removeprefix("hallmark: "))
        return
    try:
        notes().print(printable(sentence), markup=False, soft_wrap=not is_terminal(sys.stderr))
    except OSError:
        # A log on a full disk must not cost a verdict, and there is nowhere else to tell it.
        _drop(sys.stderr)


def log_as_json(configuration: dict[str, Any]) -> None:
    """Let this command's own sentences be lines of JSON from now on, as its server's are."""
    logging.config.dictConfig(configuration)


def is_terminal(file: IO[str] | None) -> bool:
    """Tell whether somebody looks on, whatever variables say of colours; None is a stream that is closed."""
    return file is not None and file.isatty()


def _console(file: IO[str] | None) -> Console:
    is_sized = is_terminal(file) or "COLUMNS" in os.environ
    width = None if is_sized else _OFF_A_TERMINAL
    return _Console(file=io.StringIO() if file is None else file, highlight=False, width=width)


def _drop(file: IO[str]) -> None:
    """Let what is still written to a stream go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
