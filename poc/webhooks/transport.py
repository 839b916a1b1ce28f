"""HTTP to receivers, connected only to addresses that have been checked.

A name may resolve to something else each time it is asked for. So the answer is checked that the connection
is then made to: the host is resolved here, and the request goes to the address itself.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, zip_longest
from typing import Final

import httpx

from hallmark.poc.webhooks.url import IPAddress, is_forbidden, literal_address

__all__ = ["CallbackTransport", "Resolver", "callback_client", "resolve"]

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Takes a host and a port, and gives addresses in the order of preference.

Raises:
    OSError: There are none.
"""

# For every address but the last one: a network that swallows what is sent to one must not cost all others.
_CONNECT_SECONDS: Final = 2.0

# Longer than the pauses between merged batches, so that one connection serves them all.
_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=4, keepalive_expiry=60.0)


async def resolve(host: str, port: int) -> list[str]:
    """Return what the system's resolver says, by the event loop.

    Raises:
        OSError: The host is not known.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def callback_client(
    *, resolver: Resolver = resolve, verify: ssl.SSLContext | None = None
) -> httpx.AsyncClient:
    """Return an HTTP client that goes where the URL says, where that may be: no redirects, no proxies.

    It has no timeout of its own; whoever sends limits the whole attempt.

    Args:
        resolver: Finds the addresses of a host.
        verify: How certificates are checked; None: by the usual authorities.
    """
    transport = CallbackTransport(resolver=resolver, verify=verify)
    return httpx.AsyncClient(
        transport=transport,
        follow_redirects=False,
        trust_env=False,
        timeout=None,  # noqa: S113
    )


@dataclass(slots=True)
class _Host:
    """The connections to one host by one name, which their certificates were checked for.

    Attributes:
        connections: The pool.
        address: The address that was connected to last.
    """

    connections: httpx.AsyncHTTPTransport
    address: IPAddress | None = None


class CallbackTransport(httpx.AsyncBaseTransport):
    """Sends each request to an address of its host that has just been resolved and checked.

    Where one of a host's addresses is forbidden, all are refused: nobody needs such a name. The Host header
    stays what it was, and TLS verifies the name.

    Args:
        resolver: Finds the addresses of a host.
        verify: How certificates are checked; None: by the usual authorities.
    """

    def __init__(self, *, resolver: Resolver = resolve, verify: ssl.SSLContext | None = None) -> None:
        self._resolve = resolver
        self._verify = verify or _usual_authorities()
        self._hosts: dict[str, _Host] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the first address that takes a connection.

        Raises:
            httpx.ConnectError: The host does not resolve, has an address that callbacks must not go to, or
                none of its addresses takes a connection.
            httpx.TransportError: What else can go wrong.
        """
        name = request.url.raw_host.decode("ascii")
        addresses = await self._addresses(name, request)
        host = self._hosts.get(name)
        if host is None:
            pool = httpx.AsyncHTTPTransport(verify=self._verify, trust_env=False, limits=_LIMITS)
            host = self._hosts[name] = _Host(pool)
        if host.address in addresses:
            # Where the connections are that can be used again.
            addresses.sort(key=lambda address: address != host.address)
        for address in addresses[:-1]:
            try:
                return await _send(host, request, name, address, longest_connect=_CONNECT_SECONDS)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await _send(host, request, name, addresses[-1], longest_connect=None)

    async def aclose(self) -> None:
        """Close the connections."""
        for host in self._hosts.values():
            await host.connections.aclose()
        self._hosts.clear()

    async def _addresses(self, name: str, request: httpx.Request) -> list[IPAddress]:
        literal = literal_address(name)
        if literal is not None:
            addresses = [literal]
        else:
            port = request.url.port or (443 if request.url.scheme == "https" else 80)
            try:
                found = await self._resolve(name, port)
            except (OSError, UnicodeError) as exc:  # UnicodeError: a label that is too long
                raise httpx.ConnectError(f"{name} does not resolve: {exc}", request=request) from exc
            addresses = [ipaddress.ip_address(address) for address in dict.fromkeys(found)]
        for address in addresses:
            if is_forbidden(address):
                told = "is" if literal is not None else "resolves to"
                raise httpx.ConnectError(
                    f"{name} {told} {address}, where callbacks must not go", request=request
                )
        if not addresses:
            raise httpx.ConnectError(f"{name} resolves to no address", request=request)
        return _interleaved(addresses)


async def _send(
    host: _Host, request: httpx.Request, name: str, address: IPAddress, *, longest_connect: float | None
) -> httpx.Response:
    extensions = {**request.extensions, "sni_hostname": name.removesuffix(".")}
    if longest_connect is not None:
        timeouts = dict(request.extensions.get("timeout", {}))
        given = timeouts.get("connect")
        timeouts["connect"] = longest_connect if given is None else min(given, longest_connect)
        extensions["timeout"] = timeouts
    checked = httpx.Request(
        request.method,
        request.url.copy_with(host=str(address)),
        headers=request.headers,  # the Host header among them
        stream=request.stream,
        extensions=extensions,
    )
    response = await host.connections.handle_async_request(checked)
    host.address = address
    return response


def _interleaved(addresses: Sequence[IPAddress]) -> list[IPAddress]:
    """Return the first one's family and the other one by turns: often all of a family lead nowhere."""
    first = [address for address in addresses if address.version == addresses[0].version]
    second = [address for address in addresses if address.version != addresses[0].version]
    by_turns = chain.from_iterable(zip_longest(first, second))
    return [address for address in by_turns if address is not None]


@cache
def _usual_authorities() -> ssl.SSLContext:
    """Read once: it takes as long as a connection."""
    return httpx.create_ssl_context(trust_env=False)
