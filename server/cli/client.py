"""A client of the PoC API: errors become sentences."""

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Annotated, Any, Self

import httpx
import typer

from hallmark.poc.core.errors import FieldError, HallmarkError
from hallmark.poc.settings.settings import API_KEY_VARIABLE

__all__ = [
    "PREFIX",
    "ApiKey",
    "PoCClient",
    "ServerError",
    "ServerUrl",
    "UnreachableError",
    "authorization",
    "explain",
    "no_answer",
    "read_answer",
    "server_url",
]

PREFIX = "/api/v1/pow"
_MAX_PORT = 65_535

ServerUrl = Annotated[str, typer.Argument(metavar="URL", help="Where the server is: http://HOST:PORT.")]
ApiKey = Annotated[
    str | None,
    typer.Option(metavar="TOKEN", envvar=API_KEY_VARIABLE, show_envvar=True, help="The server's PoC token."),
]


class ServerError(HallmarkError):
    """The server answered with an error.

    Attributes:
        status: The HTTP status.
        detail: What the server says about it, as a sentence.
        request_id: What the request is called in the server's log; None where the server does not say.
    """

    def __init__(self, request: str, status: int, detail: str, request_id: str | None = None) -> None:
        self.status = status
        self.detail = detail
        self.request_id = request_id
        # A server's words are one sentence, whatever lines they came in.
        super().__init__(f"{request}: {status}: {' '.join(detail.split())}")
        if status == httpx.codes.UNAUTHORIZED:
            self.add_note(f"set {API_KEY_VARIABLE} or --api-key")
        elif status == httpx.codes.NOT_FOUND and "/validate/" not in request:
            self.add_note("is this the URL of a server that was started by hallmark serve?")
        elif request_id is not None and status >= httpx.codes.INTERNAL_SERVER_ERROR:
            self.add_note(f"the server's log may say more about request {request_id}")


class UnreachableError(HallmarkError):
    """No answer came from the server, or none that is JSON."""


class PoCClient:
    """A connection to one server."""

    def __init__(
        self, url: str, api_key: str | None = None, *, timeout: float = 30.0, use_proxies: bool = True
    ) -> None:
        """Prepare the connection; nothing is sent yet.

        Args:
            url: The server's base URL; `http://` may be left out.
            api_key: The token of its control routes.
            timeout: The longest to wait for an answer, in seconds.
            use_proxies: Whether to go through the proxies that the environment names.
        """
        self.url = server_url(url)
        self.http = httpx.Client(
            base_url=self.url, headers=authorization(api_key), timeout=timeout, trust_env=use_proxies
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.http.close()

    def get(self, path: str) -> Any:
        """GET a path under the prefix and return the parsed answer.

        Raises:
            ServerError: The server refuses.
            UnreachableError: There is no answer.
        """
        return self._request("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """POST JSON, or nothing, to a path under the prefix and return the parsed answer.

        Raises:
            ServerError: The server refuses.
            UnreachableError: There is no answer.
        """
        return self._request("POST", path, body)

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        try:
            response = self.http.request(method, PREFIX + path, json=body)
        except (httpx.TransportError, httpx.InvalidURL) as exc:
            raise no_answer(self.url, exc) from exc
        return read_answer(self.url, response)


def server_url(url: str) -> str:
    """Return the base URL of a server as somebody writes it: `http://` may be left out.

    Raises:
        UnreachableError: It is not a URL.
        FieldError: Its port cannot be.
    """
    base = (url if "://" in url else f"http://{url}").rstrip("/").removesuffix(PREFIX)
    try:
        port = httpx.URL(base).port
    except httpx.InvalidURL as exc:
        raise UnreachableError(f"{url} is not a URL: {exc}") from exc
    if port is not None and not 0 < port <= _MAX_PORT:
        # Libraries take it modulo 65536, and would show the token to another server.
        raise FieldError("URL", url, f"http://HOST:PORT with a port from 1 to {_MAX_PORT}")
    return base


def authorization(api_key: str | None) -> dict[bytes, bytes]:
    """Return the header that shows a server its token; none without one."""
    return {} if api_key is None else {b"Authorization": f"Bearer {api_key}".encode()}


def no_answer(url: str, exc: Exception) -> UnreachableError:
    """Return the error that says why a server gave no answer."""
    error = UnreachableError(f"no answer from {url}: {exc or type(exc).__name__}")
    if isinstance(exc, httpx.ConnectError):
        error.add_note("start a server with hallmark serve MODEL, or give the URL of one that runs")
    return error


def read_answer(url: str, response: httpx.Response) -> dict[str, Any]:
    """Return what a server answered.

    Args:
        url: Of the server.
        response: Read to its end.

    Raises:
        ServerError: The server refuses.
        UnreachableError: It is no object of JSON.
    """
    request = f"{response.request.method} {response.request.url.path}"
    if not response.is_success:
        raise ServerError(
            request, response.status_code, explain(response), response.headers.get("X-Request-Id")
        )
    try:
        answer = response.json()
    except json.JSONDecodeError as exc:
        raise UnreachableError(f"{url} answers {request} without JSON") from exc
    if not isinstance(answer, dict):
        raise UnreachableError(f"{url} answers {request} without a JSON object")
    return answer


def explain(response: httpx.Response) -> str:
    """Return what an error response says, as a sentence; a page for browsers says nothing."""
    if "html" in response.headers.get("Content-Type", ""):
        return response.reason_phrase
    try:
        body = response.json()
    except ValueError:
        return response.text.strip()[:500] or response.reason_phrase
    match body:
        case {"detail": str(detail)} | {"error": {"message": str(detail)}} | {"error": str(detail)}:
            return detail
        case {"detail": detail}:
            return json.dumps(detail)
    return json.dumps(body)[:500]
