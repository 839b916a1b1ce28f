"""What the control routes share: who may use them, the manager behind them, and how they are documented."""

from typing import Annotated, Any, Final

from fastapi import Depends, Request

from hallmark.poc.errors import NotReadyError
from hallmark.poc.manager import PoCManager
from hallmark.server.auth import authenticate

__all__ = ["PREFIX", "Manager", "answers", "json_body"]

PREFIX: Final = "/api/v1/pow"

_ERRORS: Final = {
    "description": "400: a field is wrong or missing. 401: no token, or a wrong one. 404: an unknown request "
    "id. 409: the state, the round or the model does not allow it. 413: the body is too long. 429: the queue "
    "is full; see `Retry-After`. 503: the engine is not ready, or failed.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"detail": {"type": "string"}},
                "required": ["detail"],
            },
            "example": {
                "detail": "valid_rate: 2 is not allowed; allowed: a number above 0, at most 1",
            },
        }
    },
}


async def _manager(request: Request) -> PoCManager:
    manager: PoCManager | None = getattr(request.app.state, "hallmark", None)
    if manager is None:
        raise NotReadyError("the engine is not ready yet")
    authenticate(request, manager.settings)
    return manager


Manager = Annotated[PoCManager, Depends(_manager)]
"""The manager, for a request that may use it. It comes before the body is read."""


def answers(examples: dict[int, tuple[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """A route's `responses` for OpenAPI: (description, example) for each success, and the errors."""
    documented: dict[int | str, dict[str, Any]] = {
        status: {"description": description, "content": {"application/json": {"example": example}}}
        for status, (description, example) in examples.items()
    }
    return {**documented, "default": _ERRORS}


def json_body(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    """A route's `openapi_extra`, for a body that the route reads itself."""
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}
