"""Asking all nodes of a fleet at once: none waits for another, and each has its own time."""

import asyncio
import sys
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Annotated, Any, Final, Self

import httpx
import typer

from hallmark.poc.core.errors import HallmarkError
from hallmark.server.cli.client import PREFIX, UnreachableError, authorization, no_answer, read_answer
from hallmark.server.cli.consoles import is_terminal, notes
from hallmark.server.cli.fleet.answers import Answer
from hallmark.server.cli.fleet.inventory import FleetNode
from hallmark.server.cli.words import counted

__all__ = ["FleetClient", "Timeout", "ask_all"]

Timeout = Annotated[
    float, typer.Option(min=0.1, metavar="SECONDS", help="The longest to wait for a node's answer.")
]

_ANY: Final = httpx.Limits(max_connections=None, max_keepalive_connections=None)


class FleetClient:
    """Connections to the nodes of a fleet.

    Args:
        timeout: The longest to wait for an answer, in seconds, from the look-up of a name to its last byte.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        # One limit for the whole of a request is kept below.
        self._http = httpx.AsyncClient(timeout=None, limits=_ANY)  # noqa: S113

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def ask(
        self, node: FleetNode, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> Answer:
        """Ask a node for a path below the prefix; an error is its answer too."""
        try:
            return Answer.read(node, await self._request(node, method, path, body))
        except HallmarkError as exc:
            return Answer(node, error=exc)

    async def _request(
        self, node: FleetNode, method: str, path: str, body: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        token = None if node.token is None else node.token.get_secret_value()
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._http.request(
                    method, node.url + PREFIX + path, json=body, headers=authorization(token)
                )
        except TimeoutError as exc:
            raise UnreachableError(f"no answer from {node.url} within {self._timeout:g} s") from exc
        except (httpx.TransportError, httpx.InvalidURL) as exc:
            raise no_answer(node.url, exc) from exc
        return read_answer(node.url, response)


def ask_all(
    nodes: Collection[FleetNode],
    timeout: float,
    method: str,
    path: str,
    body: Callable[[FleetNode], Mapping[str, Any]] | None = None,
) -> list[Answer]:
    """Ask all nodes at once for a path below the prefix, and wait for each as long as it may take.

    Args:
        nodes: Of the fleet.
        timeout: The longest to wait, in seconds.
        method: Of the request.
        path: Below the prefix.
        body: Makes what is sent to a node.

    Returns:
        The answers, in the order of the nodes.
    """

    async def answers() -> list[Answer]:
        async with FleetClient(timeout) as client:
            asked = [client.ask(node, method, path, None if body is None else body(node)) for node in nodes]
            return await asyncio.gather(*asked)

    if not is_terminal(sys.stderr):
        return asyncio.run(answers())
    with notes().status(f"waiting for {counted(len(nodes), 'node')}, {timeout:g} s at most"):
        return asyncio.run(answers())
