"""The one boundary where Hallmark's errors become HTTP answers.

Four more errors exist on this side only::

    HallmarkError
    ├── UnauthorizedError   401  no token, or a wrong one
    ├── UnknownPathError    404  nothing is served there
    ├── MethodError         405  the path has another method
    └── BodyTooLargeError   413  the body is longer than `max_body_bytes`

Every answer names its request in `X-Request-Id`, errors in their body too, and the log has a line about it
with the same id where the request was refused or changed something.
"""

import logging
import math
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from hallmark.poc.core.errors import (
    EngineError,
    FieldError,
    HallmarkError,
    NotReadyError,
    OutboxError,
    QueueFullError,
    RoundCancelledError,
    StateError,
    UnknownRequestError,
)
from hallmark.poc.core.models import field_error
from hallmark.poc.core.request_id import REQUEST_ID, REQUEST_ID_HEADER
from hallmark.server.http.request_log import log_request, request_id

__all__ = [
    "IS_HEAD",
    "STATUS_CODES",
    "BodyTooLargeError",
    "HallmarkRoute",
    "MethodError",
    "UnauthorizedError",
    "UnknownPathError",
    "error_response",
]

logger = logging.getLogger(__name__)

_NOT_READY_RETRY_AFTER = 5

IS_HEAD: Final = "hallmark.is_head"
"""In the scope of a request by HEAD, which routes see as GET; for those whose answer has no end."""

_CHANGING_NOTHING = frozenset({"validate"})
"""Names of the routes that are asked by POST and leave the state as it is."""


class UnauthorizedError(HallmarkError):
    """The request has no bearer token, or a wrong one."""


class UnknownPathError(HallmarkError):
    """Nothing is served at the path."""


class MethodError(HallmarkError):
    """The path is served, but not by this method.

    Attributes:
        allowed: The methods that it is served by.
    """

    def __init__(self, method: str, allowed: Collection[str]) -> None:
        self.allowed = tuple(sorted(allowed))
        super().__init__(f"this path takes {', '.join(self.allowed)}, not {method}")


class BodyTooLargeError(HallmarkError):
    """The request's body is longer than the server takes."""


STATUS_CODES: Final[dict[type[HallmarkError], int]] = {
    FieldError: 400,
    UnauthorizedError: 401,
    UnknownPathError: 404,
    UnknownRequestError: 404,
    MethodError: 405,
    StateError: 409,
    RoundCancelledError: 409,
    BodyTooLargeError: 413,
    QueueFullError: 429,
    NotReadyError: 503,
    EngineError: 503,
    OutboxError: 503,
}


def error_response(error: HallmarkError, identifier: str) -> JSONResponse:
    """Return the answer to an error.

    Its status and ``{"detail": <the message>, "request_id": <the request's id>}``.

    Raises:
        HallmarkError: The error itself, where it is not one that clients are answered with.
    """
    status = STATUS_CODES.get(type(error))
    if status is None:
        raise error
    headers = {}
    if isinstance(error, QueueFullError):
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    elif isinstance(error, MethodError):
        headers["Allow"] = ", ".join(error.allowed)
    elif status == 503:
        headers["Retry-After"] = str(_NOT_READY_RETRY_AFTER)
    elif status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _answer(str(error), status, identifier, headers)


class HallmarkRoute(APIRoute):
    """A route that answers Hallmark's errors itself.

    The app around it is vLLM's, whose own handlers give errors another form (a `ValueError` anywhere is a 400
    of OpenAI's shape), so none may get out of here. HEAD is GET, of which the server sends the head.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether the path is this one, and the method one of its own."""
        return super().matches(self._without_head(scope))

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of the path, by whatever method."""
        allowed = (self.methods or set()) | self._head
        if scope["method"] in allowed:
            await super().handle(self._without_head(scope), receive, send)
            return
        request = Request(scope)
        error, identifier = MethodError(request.method, allowed), request_id(request)
        response = error_response(error, identifier)
        log_request(request, identifier, response.status_code, str(error))
        await response(scope, receive, send)

    @property
    def _head(self) -> set[str]:
        # Not among the methods themselves: each of those is an operation of the OpenAPI document.
        return {"HEAD"} if "GET" in (self.methods or ()) else set()

    def _without_head(self, scope: Scope) -> Scope:
        return {**scope, "method": "GET", IS_HEAD: True} if scope.get("method") in self._head else scope

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that FastAPI calls."""
        handle = super().get_route_handler()

        async def handle_and_answer_errors(request: Request) -> Response:
            identifier = request_id(request)
            REQUEST_ID.set(identifier)
            detail: str | None
            try:
                response, detail = await handle(request), None
            except ClientDisconnect:
                response, detail = Response(status_code=400), "the client left in mid-request"
            except Exception as exc:  # noqa: BLE001  # what was not foreseen is logged with its traceback
                response, detail = _answered(exc, identifier)
            response.headers[REQUEST_ID_HEADER] = identifier
            changes = request.method == "POST" and self.name not in _CHANGING_NOTHING
            if detail is not None or changes:
                log_request(request, identifier, response.status_code, detail)
            return response

        return handle_and_answer_errors


def _answered(error: Exception, identifier: str) -> tuple[Response, str]:
    """Return the answer to any error, and what it says."""
    if isinstance(error, RequestValidationError):
        # The location begins with the part of the request.
        details: list[Any] = [{**each, "loc": each["loc"][1:]} for each in error.errors()]
        error = field_error(details)
    if isinstance(error, HallmarkError) and type(error) in STATUS_CODES:
        return error_response(error, identifier), str(error)
    logger.error("Request %s failed", identifier, exc_info=error)
    detail = "an error of the server itself; its log has more under this request id"
    return _answer(detail, 500, identifier, {}), detail


def _answer(detail: str, status: int, identifier: str, headers: dict[str, str]) -> JSONResponse:
    # A name in the request may have lone surrogates, which have no UTF-8 form.
    writable = detail.encode("utf-8", "backslashreplace").decode("utf-8")
    body = {"detail": writable, "request_id": identifier}
    return JSONResponse(body, status, {**headers, REQUEST_ID_HEADER: identifier})
