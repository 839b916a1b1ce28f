"""The one boundary where Hallmark's errors become HTTP answers.

Two more errors exist on this side only::

    HallmarkError
    ├── UnauthorizedError   401  no token, or a wrong one
    └── BodyTooLargeError   413  the body is longer than `max_body_bytes`
"""

import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from hallmark.poc.checks import allowed_in_words
from hallmark.poc.errors import (
    EngineError,
    FieldError,
    HallmarkError,
    NotReadyError,
    QueueFullError,
    RoundCancelledError,
    StateError,
    UnknownRequestError,
)

__all__ = ["STATUS_CODES", "BodyTooLargeError", "HallmarkRoute", "UnauthorizedError", "error_response"]

logger = logging.getLogger(__name__)

_NOT_READY_RETRY_AFTER = 5


class UnauthorizedError(HallmarkError):
    """The request has no bearer token, or a wrong one."""


class BodyTooLargeError(HallmarkError):
    """The request's body is longer than the server takes."""


STATUS_CODES: Final[dict[type[HallmarkError], int]] = {
    FieldError: 400,
    UnauthorizedError: 401,
    UnknownRequestError: 404,
    StateError: 409,
    RoundCancelledError: 409,
    BodyTooLargeError: 413,
    QueueFullError: 429,
    NotReadyError: 503,
    EngineError: 503,
}


def error_response(error: HallmarkError) -> JSONResponse:
    """The answer to an error: its status and ``{"detail": <the message>}``.

    Raises:
        HallmarkError: The error itself, where it is not one that clients are answered with.
    """
    status = STATUS_CODES.get(type(error))
    if status is None:
        raise error
    headers = {}
    if isinstance(error, QueueFullError):
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    elif status == 503:
        headers["Retry-After"] = str(_NOT_READY_RETRY_AFTER)
    elif status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"detail": str(error)}, status, headers)


class HallmarkRoute(APIRoute):
    """A route that answers Hallmark's errors itself.

    The app around it is vLLM's, whose own handlers give errors another form (a `ValueError` anywhere is a 400
    of OpenAI's shape), so none may get out of here.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler that FastAPI calls."""
        handle = super().get_route_handler()

        async def handle_and_answer_errors(request: Request) -> Response:
            try:
                return await handle(request)
            except HallmarkError as exc:
                return error_response(exc)
            except RequestValidationError as exc:
                return error_response(_field_error(exc))
            except ClientDisconnect:
                logger.info("The client of %s %s left in mid-request", request.method, self.path)
                return Response(status_code=400)

        return handle_and_answer_errors


def _field_error(error: RequestValidationError) -> FieldError:
    first = error.errors()[0]
    return FieldError(
        ".".join(str(part) for part in first["loc"][1:]), first["input"], allowed_in_words(first)
    )
