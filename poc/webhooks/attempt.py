"""One attempt to deliver a callback, and how it ended."""

import asyncio
import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from hallmark.poc.core.request_id import REQUEST_ID_HEADER
from hallmark.poc.webhooks.signature import signature
from hallmark.poc.webhooks.url import CallbackKind, request_target, without_secrets

__all__ = ["Failure", "attempt", "describe"]

logger = logging.getLogger(__name__)

_MAX_RETRY_AFTER = 600.0
_TRANSIENT_CLIENT_ERRORS = frozenset({408, 425, 429})
_MAX_ERROR = 200
_MAX_READ = 2**16
_READ_SECONDS = 1.0

# What an error says that has no text of its own; the first that fits.
_WITHOUT_TEXT: Final = (
    (httpx.ConnectTimeout, "no connection in time"),
    (httpx.ConnectError, "no connection"),
    (httpx.TimeoutException, "no answer in time"),
    (httpx.WriteError, "the connection broke while the request was sent"),
    (httpx.ReadError, "the connection broke before the answer had come"),
    (httpx.RemoteProtocolError, "the answer is no HTTP, or was cut off"),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a callback was not delivered.

    Attributes:
        reason: For people.
        is_permanent: Whether it is of no use to try again.
        retry_after: Seconds that the receiver wants to be left alone.
    """

    reason: str
    is_permanent: bool = False
    retry_after: float = 0.0


async def attempt(
    client: httpx.AsyncClient,
    url: str,
    kind: CallbackKind,
    body: bytes,
    *,
    webhook_id: str,
    timestamp: int,
    secrets: Sequence[bytes],
    request_id: str | None = None,
    timeout: float,  # noqa: ASYNC109  # of the attempt alone, and a failure like another
) -> Failure | None:
    """Make one HTTP request; None where it was answered with 2xx.

    Args:
        client: The HTTP client.
        url: The receiver's base URL.
        kind: What is appended to it.
        body: The body, JSON.
        webhook_id: The idempotency key.
        timestamp: The present time, in seconds since the epoch.
        secrets: The keys to sign with; none to send unsigned.
        request_id: Of the HTTP request that the callback comes of, sent along where it is known.
        timeout: Seconds from connecting to the answer's headers.
    """
    headers = {
        "Content-Type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
    }
    if request_id is not None:
        headers[REQUEST_ID_HEADER] = request_id
    if secrets:
        headers["webhook-signature"] = signature(secrets, webhook_id, timestamp, body)
    try:
        target = {"target": request_target(url, kind)}
        request = client.build_request("POST", url, content=body, headers=headers, extensions=target)
        async with asyncio.timeout(timeout):
            response = await client.send(request, stream=True)
    except TimeoutError:
        return Failure(f"no answer within {timeout:g} s")
    except httpx.HTTPError as exc:
        return Failure(describe(exc))
    except Exception as exc:
        # Not foreseen, and yet no reason to keep what is queued behind it from being delivered.
        logger.exception("Callback %s/%s failed unexpectedly", url, kind)
        return Failure(describe(exc))
    with suppress(httpx.HTTPError):
        try:
            await _read_a_little(response)
        finally:
            await response.aclose()
    status = response.status_code
    if 200 <= status < 300:
        return None
    is_permanent = 400 <= status < 500 and status not in _TRANSIENT_CLIENT_ERRORS
    reason = _redirection(response) if 300 <= status < 400 else f"HTTP {status}"
    return Failure(reason, is_permanent, _retry_after(response.headers, timestamp))


def describe(error: Exception) -> str:
    """Say in one line what went wrong with a request; there is always something after the error's name.

    Many errors of connections have no text, and some of those have a cause that has one.
    """
    each: BaseException | None = error
    while each is not None:
        if text := " ".join(str(each).split()):
            break
        each = each.__cause__
    else:
        text = next((meant for kind, meant in _WITHOUT_TEXT if isinstance(error, kind)), "it gives no reason")
    return _bounded(f"{type(error).__name__}: {text}")


def _redirection(response: httpx.Response) -> str:
    """Say that a redirect is not followed, and to where it led: what the operator may enter instead."""
    location = response.headers.get("Location", "").strip()
    # A fragment may hold a token as well as a query may.
    shown = without_secrets(location).partition("#")[0]
    named = f": {shown}" if shown else ""
    return _bounded(f"HTTP {response.status_code}: redirects are not followed{named}")


def _bounded(text: str) -> str:
    """Return a text as logs and tables may show it: without what moves a terminal's cursor, and not long."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= _MAX_ERROR else f"{printable[: _MAX_ERROR - 1]}…"


async def _read_a_little(response: httpx.Response) -> None:
    """Read a short answer to its end, so that its connection serves again.

    Only the status matters: what comes late, is long or is cut off is left, and the connection closed.
    """
    if response.is_stream_consumed:  # by a transport that reads answers itself
        return
    read = 0
    with suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(_READ_SECONDS):
            async for chunk in response.aiter_raw():
                read += len(chunk)
                if read > _MAX_READ:
                    return


def _retry_after(headers: httpx.Headers, now: float) -> float:
    """Return a `Retry-After` header, a number of seconds or a date, as seconds from now.

    0 where it is neither.

    A date is one of the receiver's clock, and the answer's `Date` says what that shows.
    """
    text: str = headers.get("Retry-After", "")
    if re.fullmatch("[0-9]+", text):
        seconds = float(text)
    else:
        until, answered_at = _date(text), _date(headers.get("Date", ""))
        if until is None:
            return 0.0
        seconds = until - (now if answered_at is None else answered_at)
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)


def _date(text: str) -> float | None:
    """Return a date of HTTP's, of any of its three forms, in seconds since the epoch.

    None where it is none.
    """
    try:
        parsed = parsedate_to_datetime(text)
        # The oldest form names no time zone; it is UTC.
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
