"""The inference gate: what is refused while proofs are generated, and how much is being served."""

from typing import Final

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hallmark.poc.rounds.inference_activity import InferenceConnection
from hallmark.poc.rounds.manager import PoCManager
from hallmark.server.http.routing import is_routed, route_path

__all__ = ["PAGE_PATH", "RETRY_AFTER", "InferenceGate", "stays_open"]

PAGE_PATH: Final = "/poc"
"""Where the live page is; what belongs to it is below."""

_OUR_PREFIXES: Final = ("/api/v1/pow/", f"{PAGE_PATH}/")
_OUR_PATHS: Final = frozenset({"/api/v1/state", "/api/v1/stop", PAGE_PATH})
RETRY_AFTER: Final = 5
"""Seconds after which to ask again while the gate is closed."""

_TRY_AGAIN_LATER: Final = 1013  # RFC 6455's registry of close codes

# What is not listed is closed: a route that a later vLLM adds may reach the engine.
_OPEN_PATHS: Final = frozenset(
    {
        "/v1/models",
        "/health",
        "/ready",
        "/ping",
        "/load",
        "/version",
        "/metrics",
        "/metrics/",
        "/docs",
        "/docs/oauth2-redirect",
        "/redoc",
        "/openapi.json",
    }
)


def stays_open(scope: Scope) -> bool:
    """Return whether a request is served in every state.

    It does not reach the engine, or it is for Hallmark.
    """
    path = route_path(scope)
    if path.startswith(_OUR_PREFIXES) or path in _OUR_PATHS:
        return True
    # SageMaker asks for health by POST.
    return path in _OPEN_PATHS and (scope.get("method") in ("GET", "HEAD") or path == "/ping")


class InferenceGate:
    """ASGI middleware that refuses what would reach the engine while the gate is closed, else counts it.

    Whether it is closed is asked of the manager for each request, and nothing is remembered. Requests that
    have begun are not touched, and count until their answer is at its end, streams too. What no route of the
    app would serve reaches nothing: the app answers it in every state alike, mostly with 404 or 405.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one connection."""
        if scope["type"] in ("http", "websocket"):
            manager: PoCManager | None = getattr(scope["app"].state, "hallmark", None)
            if manager is not None and not stays_open(scope):
                if manager.gate_closed:
                    answer = _refuse if is_routed(scope) else self._app
                    await answer(scope, receive, send)
                    return
                with manager.activity.connection() as connection:
                    await self._app(scope, *_watched(receive, send, connection))
                return
        await self._app(scope, receive, send)


def _watched(receive: Receive, send: Send, connection: InferenceConnection) -> tuple[Receive, Send]:
    """Let a connection know of what comes and goes on it."""

    async def watched_receive() -> Message:
        message = await receive()
        connection.note_movement()
        return message

    async def watched_send(message: Message) -> None:
        await send(message)
        connection.note_movement()

    return watched_receive, watched_send


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    message = "PoC generation is active: this server computes proofs and takes inference again afterwards"
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": message})
        return
    error = {"message": message, "type": "ServiceUnavailableError", "param": None, "code": 503}
    response = JSONResponse({"error": error}, 503, {"Retry-After": str(RETRY_AFTER)})
    await response(scope, receive, send)
