"""The id that names a control request, and its line in the log."""

import logging
import re
import uuid
from typing import Final

from fastapi import Request

__all__ = ["REQUEST_ID_HEADER", "log_request", "request_id"]

logger = logging.getLogger(__name__)

REQUEST_ID_HEADER: Final = "X-Request-Id"

_SCOPE_KEY: Final = "hallmark.request_id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_MAX_PATH: Final = 200
_MAX_DETAIL: Final = 400
_CREDENTIALS = re.compile(r"//[^/\s]*@")


def request_id(request: Request) -> str:
    """The client's id for the request where it sent one that may be logged, else a new one.

    It is the same whenever it is asked for.
    """
    known: str | None = request.scope.get(_SCOPE_KEY)
    if known is None:
        given = request.headers.getlist(REQUEST_ID_HEADER)
        usable = len(given) == 1 and _REQUEST_ID.fullmatch(given[0])
        known = request.scope[_SCOPE_KEY] = given[0] if usable else uuid.uuid4().hex
    return known


def log_request(request: Request, identifier: str, status: int, detail: str | None = None) -> None:
    """Write one line about a request: its id, method, path and status, and for an error what it was told.

    What came from outside is ASCII there, with everything escaped that is not printable, and bounded: no
    request can write a line of its own, and none a long one. The query, the headers and the credentials of
    URLs stay out.
    """
    logger.log(
        logging.WARNING if status == 401 or status >= 500 else logging.INFO,
        "Request %s: %s %s: %d%s",
        identifier,
        request.method,
        _printable(request.url.path, _MAX_PATH),
        status,
        "" if detail is None else f": {_printable(_CREDENTIALS.sub('//…@', detail), _MAX_DETAIL)}",
    )


def _printable(text: str, longest: int) -> str:
    escaped = text[:longest].encode("unicode_escape").decode("ascii")
    return escaped if len(escaped) <= longest and len(text) <= longest else f"{escaped[:longest]}..."
