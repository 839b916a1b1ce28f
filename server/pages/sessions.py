"""Who is logged in to a page: sessions that read it, and open nothing else."""

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

__all__ = ["SESSION_SECONDS", "PageSessions"]

SESSION_SECONDS: Final = 12 * 3600
"""How long a session lasts."""

_MAX_SESSIONS: Final = 1_000


class PageSessions:
    """Sessions of one process: a restart ends them all.

    Beyond 1,000 the oldest one ends.

    Args:
        clock: Seconds on a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    def begin(self) -> str:
        """Begin a session; return the secret that its cookie holds."""
        secret = secrets.token_urlsafe(32)
        self._ends[_hash(secret)] = self._clock() + SESSION_SECONDS
        if len(self._ends) > _MAX_SESSIONS:
            self._ends.popitem(last=False)
        return secret

    def is_open(self, secret: str | None) -> bool:
        """Return whether a session of this secret has begun and not ended."""
        return secret is not None and self._clock() < self._ends.get(_hash(secret), 0.0)

    def end(self, secret: str | None) -> None:
        """End a session, if there is one of this secret."""
        if secret is not None:
            self._ends.pop(_hash(secret), None)


def _hash(secret: str) -> bytes:
    # Cookies come as bytes of Latin-1.
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
