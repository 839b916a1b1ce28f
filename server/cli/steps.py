"""Progress of a long command: a spinner on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

__all__ = ["Steps"]

_SECONDS_BETWEEN_LINES = 5.0


class Steps:
    """Announces each step when it begins, and its duration when it is done."""

    def __init__(self, console: Console) -> None:
        """Write to a console.

        Args:
            console: Whether it is a terminal decides how progress is shown.
        """
        self.console = console

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """Show a step while its block runs.

        Args:
            title: What is being done.

        Yields:
            Takes a few words on how far it is; the last ones stay beside the title.
        """
        started = time.monotonic()
        latest = ""
        if self.console.is_terminal:
            with self.console.status(escape(title)) as spinner:

                def update(text: str) -> None:
                    nonlocal latest
                    latest = text
                    spinner.update(escape(f"{title}: {text}"))

                yield update
        else:
            self._line(f"{title} ...")
            last_line = started

            def update(text: str) -> None:
                nonlocal latest, last_line
                latest = text
                if time.monotonic() - last_line >= _SECONDS_BETWEEN_LINES:
                    last_line = time.monotonic()
                    self._line(f"  {text}")

            yield update
        self.say(f"{title}" + (f": {latest}" if latest else "") + f" ({time.monotonic() - started:.0f} s)")

    def say(self, sentence: str) -> None:
        """Write a line about something that is done."""
        self.console.print("[green]✓[/green]", escape(sentence), soft_wrap=True, highlight=False)

    def warn(self, sentence: str) -> None:
        """Write a line about something that is not as it was wished."""
        self.console.print("[yellow]![/yellow]", escape(sentence), soft_wrap=True, highlight=False)

    def _line(self, text: str) -> None:
        self.console.print(escape(text), soft_wrap=True, highlight=False)
