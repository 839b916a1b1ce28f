"""The id that names a control request, and its line in the log."""

import logging
import math
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from fastapi import Request

from hallmark.poc.core.request_id import REQUEST_ID_HEADER, usable_id

__all__ = ["RepeatedRefusals", "log_request", "request_id"]

logger = logging.getLogger(__name__)

_REPEAT_SECONDS: Final = 60.0
_MAX_REFUSALS: Final = 256
_SCOPE_KEY: Final = "hallmark.request_id"
_MAX_PATH: Final = 200
_MAX_DETAIL: Final = 400
_CREDENTIALS = re.compile(r"//[^/\s]*@")


def request_id(request: Request) -> str:
    """Return the client's id for the request where it sent one that may be logged, else a new one.

    It is the same whenever it is asked for.
    """
    known: str | None = request.scope.get(_SCOPE_KEY)
    if known is None:
        given = request.headers.getlist(REQUEST_ID_HEADER)
        known = request.scope[_SCOPE_KEY] = usable_id(given) or uuid.uuid4().hex
    return known


class RepeatedRefusals:
    """Refusals that were logged lately: a client that polls with a wrong token asks for ever.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lately: OrderedDict[tuple[object, ...], tuple[float, int]] = OrderedDict()

    def left_out(self, *refusal: object) -> int | None:
        """Note a refusal, and tell whether it gets a line.

        Returns:
            How many of its like have had none since the last line; None where this one gets none either.
        """
        now = self._clock()
        written, count = self._lately.pop(refusal, (-math.inf, 0))
        is_due = now >= written + _REPEAT_SECONDS
        self._lately[refusal] = (now, 0) if is_due else (written, count + 1)
        if len(self._lately) > _MAX_REFUSALS:
            self._lately.popitem(last=False)
        return count if is_due else None


def log_request(request: Request, identifier: str, status: int, detail: str | None = None) -> None:
    """Write one line about a request: its id, method, path and status, and for an error what it was told.

    What was done as asked is in the debug log: the round's own lines tell of it. The very same refusal has a
    line a minute at most, which says how many had none.

    What came from outside is ASCII there, with everything escaped that is not printable, and bounded: no
    request can write a line of its own, and none a long one. The query, the headers and the credentials of
    URLs stay out.
    """
    repeated: RepeatedRefusals | None = getattr(request.app.state, "hallmark_refusals", None)
    left_out: int | None = 0
    if detail is not None and repeated is not None:
        left_out = repeated.left_out(request.method, request.url.path[:_MAX_PATH], status, detail)
    if left_out is None:
        return
    logger.log(
        _level(status, detail),
        "Request %s: %s %s: %d%s%s",
        identifier,
        request.method,
        _printable(request.url.path, _MAX_PATH),
        status,
        "" if detail is None else f": {_printable(_CREDENTIALS.sub('//…@', detail), _MAX_DETAIL)}",
        f" ({left_out} more like it since the last line)" if left_out else "",
    )


def _level(status: int, detail: str | None) -> int:
    if detail is None:
        return logging.DEBUG
    return logging.WARNING if status == 401 or status >= 500 else logging.INFO


def _printable(text: str, longest: int) -> str:
    escaped = text[:longest].encode("unicode_escape").decode("ascii")
    return escaped if len(escaped) <= longest and len(text) <= longest else f"{escaped[:longest]}..."
