"""What the control routes share: who may use them, the manager behind them, and how they are documented."""

import logging
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from pydantic import Field

# pydantic reads the types of typing from Python 3.12 on only.
from typing_extensions import TypedDict

from hallmark.poc.core.errors import NotReadyError
from hallmark.poc.core.models import unknown_names
from hallmark.poc.core.request_id import REQUEST_ID_HEADER
from hallmark.poc.protocol.status import CallbackReach, RoundStatus
from hallmark.poc.rounds.manager import PoCManager
from hallmark.server.http.auth import authenticate
from hallmark.server.http.body import read_body
from hallmark.server.http.request_log import request_id

__all__ = [
    "ERRORS",
    "PREFIX",
    "Manager",
    "ManagerOfWholeRequest",
    "NewRoundAnswer",
    "RoundAnswer",
    "answers",
    "ignored",
    "json_body",
]

logger = logging.getLogger(__name__)

PREFIX: Final = "/api/v1/pow"

_HEADERS: Final = {
    REQUEST_ID_HEADER: {
        "description": "Names the request in the server's log: the client's own id where it sent one in this "
        "header, of 1 to 64 letters, digits, dots, dashes and underscores; a new one otherwise.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
    }
}

ERRORS: Final = MappingProxyType(
    {
        400: "a field is wrong or missing",
        401: "no token, or a wrong one",
        404: "an unknown request id",
        405: "another method",
        409: "the state, the round or the model does not allow it",
        413: "the body is too long",
        429: "the queue is full; see `Retry-After`",
        503: "the engine is not ready, or failed; see `Retry-After`",
    }
)
"""What a route answers where it does not do what it was asked."""

_ERRORS: Final = {
    "description": " ".join(f"{status}: {what}." for status, what in ERRORS.items()),
    "headers": _HEADERS,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "detail": {"type": "string", "description": "What is wrong, as a sentence."},
                    "request_id": {"type": "string", "description": f"The same as in {REQUEST_ID_HEADER}."},
                },
                "required": ["detail", "request_id"],
                "additionalProperties": False,
            },
            "example": {
                "detail": "valid_rate: 2 is not allowed; allowed: a number above 0, at most 1",
                "request_id": "0d1c1ab4f6c04a5f9c0f4c5d4d6a3b1e",
            },
        }
    },
}


# For the document only, so that /docs asks for the token: `authenticate` reads the header by itself, and
# whether there is a token at all is not known yet when the routes are made.
_BEARER: Final = HTTPBearer(
    scheme_name="API key of proof of compute",
    description="What HALLMARK_API_KEY or the setting api_key_file gave the server; a server without takes "
    "any. vLLM's own --api-key is another one.",
    auto_error=False,
)


async def _manager(request: Request, _: Annotated[object, Security(_BEARER)]) -> PoCManager:
    manager: PoCManager | None = getattr(request.app.state, "hallmark", None)
    if manager is None:
        raise NotReadyError("the engine is not ready yet")
    authenticate(request, manager.settings)
    return manager


Manager = Annotated[PoCManager, Depends(_manager)]
"""The manager, for a request that may use it. It comes before the body is read."""


async def _manager_after_the_body(request: Request, manager: Manager) -> PoCManager:
    await read_body(request, manager.settings.max_body_bytes)
    return manager


ManagerOfWholeRequest = Annotated[PoCManager, Depends(_manager_after_the_body)]
"""The same for routes that take no body: it comes once the request has come to its end."""


def answers(successes: dict[int, tuple[str, Any, Any]]) -> dict[int | str, dict[str, Any]]:
    """Return a route's `responses` for OpenAPI: those of its successes, and the errors.

    Args:
        successes: Description, type and example of each, by its status.
    """
    documented: dict[int | str, dict[str, Any]] = {
        status: {
            "description": description,
            "model": model,
            "headers": _HEADERS,
            "content": {"application/json": {"example": example}},
        }
        for status, (description, model, example) in successes.items()
    }
    return {**documented, "default": _ERRORS}


class RoundAnswer(TypedDict):
    """The status after a request that changed it."""

    status: Annotated[str, Field(description="`OK`.")]
    pow_status: Annotated[RoundStatus, Field(description="The status afterwards.")]


class NewRoundAnswer(RoundAnswer):
    """The status after a request that set a round."""

    ignored_fields: Annotated[
        list[str], Field(description="The request's fields that nothing knows, of which nothing was read.")
    ]
    callback: Annotated[
        CallbackReach | None,
        Field(
            description="Whether the receiver of callbacks answered when the round was set, asked once and "
            "without a proof; null without a callback URL."
        ),
    ]
    warnings: Annotated[list[str], Field(description="What is to be said of the request, a sentence each.")]


def ignored(request: Request, body: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """Return the members of a body that nothing knows, which clients of other generations send; log them."""
    names = unknown_names(body, known)
    if names:
        logger.info("Request %s: fields that are not known are ignored: %s", request_id(request), names)
    return names


def json_body(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    """Return a route's `openapi_extra`, for a body that the route reads itself."""
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}
