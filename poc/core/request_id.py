"""The HTTP request that work is done for, whichever task does it and however much later."""

import re
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final

__all__ = ["REQUEST_ID", "REQUEST_ID_HEADER", "usable_id"]

REQUEST_ID: Final[ContextVar[str | None]] = ContextVar("hallmark_request_id", default=None)
"""The id of that request; None where none asked for the work. Tasks that a request starts inherit it."""

REQUEST_ID_HEADER: Final = "X-Request-Id"

_USABLE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


def usable_id(given: Sequence[str]) -> str | None:
    """Return the id that somebody else gave a request; None where it is none that a log may repeat.

    Args:
        given: The values of the header.
    """
    return given[0] if len(given) == 1 and _USABLE.fullmatch(given[0]) else None
