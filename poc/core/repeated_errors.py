"""An error that comes again and again, in a log that is to stay readable."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["RepeatedErrors"]

_FIRST_PAUSE: Final = 60.0
_LONGEST_PAUSE: Final = 3600.0


@dataclass(slots=True)
class _Spell:
    """An error that goes on.

    Attributes:
        began: When it was seen first.
        next_line: When it is logged again.
        pause: How long after the last line that is.
        unsaid: How often it came since the last line.
    """

    began: float
    next_line: float
    pause: float = _FIRST_PAUSE
    unsaid: int = 0


class RepeatedErrors:
    """Logs an error at once, then after 1, 2, 4, … minutes, at least each hour, and once when it is over.

    What is the same error is for the caller to say, by a sentence: "Callbacks to http://a stand still".

    Args:
        logger: Where the lines go.
        clock: Seconds of a clock that nobody sets.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._spells: dict[str, _Spell] = {}

    def note(self, what: str, error: object) -> None:
        """Note that it happened, once more or for the first time.

        Args:
            what: What does not work; the same each time.
            error: Why, which may change.
        """
        now = self._clock()
        spell = self._spells.get(what)
        if spell is None:
            self._spells[what] = _Spell(now, now + _FIRST_PAUSE)
            self._logger.error("%s: %s", what, error)
            return
        spell.unsaid += 1
        if now < spell.next_line:
            return
        self._logger.error(
            "%s, for %.0f min now, %d times since the last line: %s",
            what,
            (now - spell.began) / 60,
            spell.unsaid,
            error,
        )
        spell.unsaid = 0
        spell.pause = min(2 * spell.pause, _LONGEST_PAUSE)
        spell.next_line = now + spell.pause

    def is_over(self, what: str) -> None:
        """Note that it works; where it did not before, that is logged."""
        spell = self._spells.pop(what, None)
        if spell is not None:
            self._logger.info("No longer, after %.0f s: %s", self._clock() - spell.began, what)
