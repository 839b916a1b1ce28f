"""Where callbacks may go, and the exact request target they go to."""

import ipaddress
import re
import socket
from collections.abc import Collection
from typing import Literal

import httpx

from hallmark.poc.errors import FieldError

__all__ = ["CallbackKind", "check_callback_url", "request_target"]

CallbackKind = Literal["generated", "validated"]

_ALLOWED = (
    "an http or https URL in printable ASCII, without credentials, query and fragment; "
    "/generated and /validated are appended to it"
)
_URL = re.compile(r"https?://[^/?#@\\\s]+(?P<path>(?:/[^?#\\\s]*)?)", re.ASCII | re.IGNORECASE)


# Where clouds keep the machine's own credentials; it answers whoever asks from this machine.
_FORBIDDEN = tuple(
    ipaddress.ip_network(network) for network in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128")
)


def check_callback_url(url: str, allowed_hosts: Collection[str] | None = None) -> None:
    """Refuse a URL that callbacks must not go to.

    A literal link-local or metadata address is refused in every spelling that a resolver takes for one; what
    a name resolves to is not looked at.

    Args:
        url: The base that `/generated` and `/validated` are appended to.
        allowed_hosts: The only hosts allowed, without ports, in any case; None allows every host.

    Raises:
        FieldError: The URL or its host is not allowed. Credentials in it are not repeated.
    """
    shown = re.sub(r"//.*@", "//…@", url)
    if not url.isascii() or not url.isprintable() or _URL.fullmatch(url) is None:
        raise FieldError("callback_url", shown, _ALLOWED)
    try:
        parsed = httpx.URL(url)
        host, port = parsed.host, parsed.port
    except (httpx.InvalidURL, ValueError) as exc:  # ValueError: a host that is not IDNA
        raise FieldError("callback_url", shown, _ALLOWED) from exc
    if not host or (port is not None and not 0 < port < 2**16):
        raise FieldError("callback_url", shown, _ALLOWED)
    address = _literal_address(host)
    if address is not None and any(address in network for network in _FORBIDDEN):
        raise FieldError("callback_url", shown, "a host that is no link-local or metadata address")
    if allowed_hosts is not None and host.lower() not in {allowed.lower() for allowed in allowed_hosts}:
        raise FieldError("callback_url", shown, f"the hosts {', '.join(allowed_hosts)}")


def _literal_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host is; None where it is a name."""
    if ":" in host:
        try:
            address = ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError:
            return None
        return address.ipv4_mapped or address
    try:
        # The older spellings too, which resolvers take: 2852039166, 0xa9.0xfe.0xa9.0xfe, 169.254.43518.
        return ipaddress.IPv4Address(socket.inet_aton(host.rstrip(".")))
    except OSError:
        return None


def request_target(url: str, kind: CallbackKind) -> bytes:
    """The path to POST to, byte for byte as the URL has it.

    HTTP clients normalise URLs (dot segments, percent escapes), and receivers' paths may hold a doubly
    escaped model name. Slashes at the end of the base are dropped.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise FieldError("callback_url", url, _ALLOWED)
    return f"{match['path'].rstrip('/')}/{kind}".encode("ascii")
