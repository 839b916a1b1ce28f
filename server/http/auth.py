"""Who may use the control routes."""

import hashlib
import hmac
import ipaddress

from fastapi import Request
from pydantic import SecretStr

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.settings.settings import API_KEY_VARIABLE, Settings
from hallmark.server.http.errors import UnauthorizedError

__all__ = ["authenticate", "check_exposure", "is_token"]


def authenticate(request: Request, settings: Settings) -> None:
    """Refuse a request without the bearer token; every request passes where no token is configured.

    Raises:
        UnauthorizedError: There is no token, or a wrong one.
    """
    if settings.api_key is None:
        return
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise UnauthorizedError("this route needs the header `Authorization: Bearer <API key>`")
    if not is_token(token.strip().encode("latin-1"), settings.api_key):  # as the bytes came
        raise UnauthorizedError("the bearer token is wrong")


def is_token(given: bytes, expected: SecretStr) -> bool:
    """Return whether a token, in UTF-8, is the expected one."""
    # Digests have one length: a comparison of them tells nothing about the key's, in time or otherwise.
    digests = (hashlib.sha256(each).digest() for each in (given, expected.get_secret_value().encode("utf-8")))
    return hmac.compare_digest(*digests)


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
