"""Who may use the control routes."""

import hashlib
import hmac
import ipaddress

from fastapi import Request

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.settings.settings import API_KEY_VARIABLE, Settings
from hallmark.server.http.errors import UnauthorizedError

__all__ = ["authenticate", "check_exposure"]


def authenticate(request: Request, settings: Settings) -> None:
    """Refuse a request without the bearer token; every request passes where no token is configured.

    Raises:
        UnauthorizedError: There is no token, or a wrong one.
    """
    if settings.api_key is None:
        return
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    # Digests have one length: a comparison of them tells nothing about the key's, in time or otherwise.
    given = hashlib.sha256(token.strip().encode("latin-1")).digest()  # as the bytes came
    expected = hashlib.sha256(settings.api_key.get_secret_value().encode("utf-8")).digest()
    if scheme.lower() != "bearer" or not token.strip():
        raise UnauthorizedError("this route needs the header `Authorization: Bearer <API key>`")
    if not hmac.compare_digest(given, expected):
        raise UnauthorizedError("the bearer token is wrong")


def check_exposure(settings: Settings, host: str | None, unix_socket: str | None = None) -> None:
    """Refuse to serve the control routes to a network without a token.

    Args:
        settings: The server's settings.
        host: The address the server binds; None is every address.
        unix_socket: The socket it listens on instead.

    Raises:
        UnsupportedError: Anyone who reaches the host could start a round, which takes the node's chat away.
    """
    if settings.api_key is not None or settings.allow_unauthenticated or unix_socket or _is_loopback(host):
        return
    raise UnsupportedError(
        f"without an API key the control routes must not be served on {host or 'every address'}: set "
        f"{API_KEY_VARIABLE}, bind --host 127.0.0.1, or set allow_unauthenticated"
    )


def _is_loopback(host: str | None) -> bool:
    if not host:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
