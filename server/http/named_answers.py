"""The request's id on what is answered below our prefix by somebody else than our routes."""

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hallmark.poc.core.request_id import REQUEST_ID_HEADER
from hallmark.server.http.control import PREFIX
from hallmark.server.http.errors import UnknownPathError, error_response
from hallmark.server.http.request_log import log_request, request_id
from hallmark.server.http.routing import is_known, route_path

__all__ = ["NamedAnswers"]


class NamedAnswers:
    """ASGI middleware by which every answer below our prefix names its request.

    Paths that nobody serves are answered in our form; to the app's other answers the header is added.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or not f"{route_path(scope)}/".startswith(f"{PREFIX}/"):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        identifier = request_id(request)
        if not is_known(scope):
            error = UnknownPathError("nothing is served at this path; the server's /docs lists what is")
            response = error_response(error, identifier)
            log_request(request, identifier, response.status_code, str(error))
            await response(scope, receive, send)
            return

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault(REQUEST_ID_HEADER, identifier)
            await send(message)

        await self._app(scope, receive, send_named)
