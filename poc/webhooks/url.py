"""Where callbacks may go, and the exact request target they go to."""

import ipaddress
import re
import socket
from collections.abc import Collection
from typing import Literal, get_args

import httpx

from hallmark.poc.core.errors import FieldError

__all__ = [
    "CallbackKind",
    "IPAddress",
    "canonical_host",
    "check_callback_host",
    "check_callback_url",
    "is_forbidden",
    "literal_address",
    "request_target",
    "without_secrets",
]

CallbackKind = Literal["generated", "validated"]

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_ALLOWED = (
    "an http or https URL in printable ASCII, without credentials, query and fragment; "
    "/generated and /validated are appended to it"
)
# No percent escapes in the host: what they stand for is another host to each program that reads them.
_URL = re.compile(
    r"https?://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d+)?(?P<path>(?:/[^?#\\\s]*)?)",
    re.ASCII | re.IGNORECASE,
)
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*)(?:\.[a-z0-9_-]+)*\.?", re.ASCII)

# Where no receiver lives, and where clouds keep the machine's own credentials: that answers whoever asks
# from this machine. Loopback and private networks are allowed, since receivers do live there.
_FORBIDDEN = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this host, whatever it is
        "169.254.0.0/16",  # link-local: the metadata of most clouds, and of ECS and EKS
        "100.100.100.200/32",  # Alibaba
        "168.63.129.16/32",  # Azure
        "192.0.0.192/32",  # Oracle
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "::/128",
        "fe80::/10",  # link-local
        "fd00:ec2::23/128",  # EKS
        "fd00:ec2::254/128",  # AWS
        "fd20:ce::254/128",  # Google
        "ff00::/8",  # multicast
    )
)

# The names of the same services. What they resolve to is refused too, but later; one is a public address.
_FORBIDDEN_NAMES = frozenset(
    {
        "instance-data",  # AWS
        "instance-data.ec2.internal",
        "metadata",  # of Google's search domain, the next one
        "metadata.google.internal",
        "metadata.goog",
        "metadata.azure.internal",
        "metadata.azure.com",
        "metadata.oraclecloud.com",
        "metadata.tencentyun.com",
        "metadata.packet.net",  # Equinix
        "metadata.platformequinix.com",
        "api.metadata.cloud.ibm.com",
        "rancher-metadata",
    }
)

# An IPv4 address stands in the last 32 bits of these.
_WITH_IPV4_AT_THE_END = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "::/96",  # compatible
        "::ffff:0:0/96",  # mapped
        "::ffff:0:0:0/96",  # translated
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64 of a local network, with the longest of its prefixes
    )
)
_LOOPBACK = ipaddress.IPv6Address("::1")


def check_callback_url(url: str, allowed_hosts: Collection[str] | None = None) -> None:
    """Refuse a URL that callbacks must not go to, or that is no base of the URLs they go to.

    What a name resolves to is not looked at here but when a connection is made, by `CallbackTransport`.

    Args:
        url: The base that `/generated` and `/validated` are appended to.
        allowed_hosts: The only hosts allowed, without ports, in any case; None allows every host.

    Raises:
        FieldError: The URL or its host is not allowed. Credentials in it are not repeated.
    """
    check_callback_host(url, allowed_hosts)
    bare = url.rstrip("/")
    for kind in get_args(CallbackKind):
        if bare.endswith(f"/{kind}"):
            base = bare.removesuffix(f"/{kind}")
            raise FieldError(
                "callback_url", url, f"{base}, the base that /generated and /validated are appended to"
            )


def check_callback_host(url: str, allowed_hosts: Collection[str] | None = None) -> None:
    """Refuse a URL that callbacks must not go to; it may be one that an older Hallmark has taken.

    Args:
        url: The base that `/generated` and `/validated` are appended to.
        allowed_hosts: As for `check_callback_url`.

    Raises:
        FieldError: The URL or its host is not allowed. Credentials in it are not repeated.
    """
    shown = without_secrets(url)
    if not url.isascii() or not url.isprintable() or (match := _URL.fullmatch(url)) is None:
        raise FieldError("callback_url", shown, _ALLOWED)
    try:
        parsed = httpx.URL(url)
        host, port = parsed.host, parsed.port
    except (httpx.InvalidURL, ValueError) as exc:  # ValueError: a host that is not IDNA
        raise FieldError("callback_url", shown, _ALLOWED) from exc
    if not host or (port is not None and not 0 < port < 2**16):
        raise FieldError("callback_url", shown, _ALLOWED)
    written = match["host"].strip("[]").lower()
    address = literal_address(written)
    is_forbidden_host = (
        written.removesuffix(".") in _FORBIDDEN_NAMES if address is None else is_forbidden(address)
    )
    if is_forbidden_host:
        raise FieldError(
            "callback_url", shown, "a host that is no link-local or metadata address, nor a reserved one"
        )
    if isinstance(address, ipaddress.IPv4Address) and ":" not in written and written != str(address):
        raise FieldError("callback_url", shown, f"the address as it is usually written, {address}")
    try:
        canonical = canonical_host(written)
    except ValueError as exc:
        raise FieldError("callback_url", shown, _ALLOWED) from exc
    if allowed_hosts is not None and canonical not in {canonical_host(allowed) for allowed in allowed_hosts}:
        raise FieldError("callback_url", shown, f"the hosts {', '.join(allowed_hosts)}")


def is_forbidden(address: IPAddress) -> bool:
    """Return whether callbacks must not go to an address, or to one that is embedded in it.

    Forbidden are link-local and metadata addresses, unspecified, multicast and reserved ones.
    """
    return any(each in network for each in _meant_by(address) for network in _FORBIDDEN)


def literal_address(host: str) -> IPAddress | None:
    """Return the address that a host is, a mapped IPv4 address being that; None where it is a name.

    The older spellings of IPv4 are read too, since resolvers do: 2852039166, 0xa9.0xfe.0xa9.0xfe,
    169.254.43518.
    """
    if ":" in host:
        try:
            address = ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError:
            return None
        return address.ipv4_mapped or address
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host.rstrip(".")))
    except (OSError, UnicodeError):
        return None


def canonical_host(host: str) -> str:
    """Return the one spelling by which hosts are compared: lower case, IDNA's ASCII form, no dot at the end.

    Args:
        host: A name or an address; IPv6 with or without brackets.

    Raises:
        ValueError: It is neither.
    """
    bare = host[1:-1] if re.fullmatch(r"\[.*:.*\]", host) else host
    address = literal_address(bare)
    if address is not None:
        return str(address)
    try:
        ascii_form = httpx.URL(scheme="http", host=bare).raw_host.decode("ascii").lower()
    except (httpx.InvalidURL, ValueError) as exc:
        raise ValueError(f"{host!r} is no host name") from exc
    if _HOST.fullmatch(ascii_form) is None:
        raise ValueError(f"{host!r} is no host name")
    return ascii_form.removesuffix(".")


def without_secrets(url: str) -> str:
    """Return a URL as errors and logs may show it: without what stands before an `@` and after a `?`."""
    shown = url if "@" not in url else f"…{url[url.rindex('@') :]}"
    return shown if "?" not in shown else f"{shown.partition('?')[0]}?…"


def request_target(url: str, kind: CallbackKind) -> bytes:
    """Return the path to POST to, byte for byte as the URL has it.

    HTTP clients normalise URLs (dot segments, percent escapes), and receivers' paths may hold a doubly
    escaped model name. Slashes at the end of the base are dropped.

    Raises:
        FieldError: It is no URL that callbacks may go to.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise FieldError("callback_url", without_secrets(url), _ALLOWED)
    return f"{match['path'].rstrip('/')}/{kind}".encode("ascii")


def _meant_by(address: IPAddress) -> list[IPAddress]:
    """Return the address, and the IPv4 addresses that a network may make of it."""
    meant = [address]
    if isinstance(address, ipaddress.IPv6Address):
        if address != _LOOPBACK and any(address in network for network in _WITH_IPV4_AT_THE_END):
            meant.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
        if address.sixtofour is not None:
            meant.append(address.sixtofour)
        if address.teredo is not None:
            meant += address.teredo
    return meant
