"""One attempt to deliver a callback, and how it ended."""

import asyncio
import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpx

from hallmark.poc.webhooks.signature import signature
from hallmark.poc.webhooks.url import CallbackKind, request_target

__all__ = ["Failure", "attempt"]

logger = logging.getLogger(__name__)

_MAX_RETRY_AFTER = 600.0
_TRANSIENT_CLIENT_ERRORS = frozenset({408, 425, 429})
_MAX_ERROR = 200
_MAX_READ = 2**16
_READ_SECONDS = 1.0


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
        timeout: Seconds from connecting to the answer's headers.
    """
    headers = {
        "Content-Type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
    }
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
        return Failure(f"{type(exc).__name__}: {exc}"[:_MAX_ERROR])
    except Exception as exc:
        # Not foreseen, and yet no reason to keep what is queued behind it from being delivered.
        logger.exception("Callback %s/%s failed unexpectedly", url, kind)
        return Failure(f"{type(exc).__name__}: {exc}"[:_MAX_ERROR])
    with suppress(httpx.HTTPError):
        try:
            await _read_a_little(response)
        finally:
            await response.aclose()
    status = response.status_code
    if 200 <= status < 300:
        return None
    is_permanent = 400 <= status < 500 and status not in _TRANSIENT_CLIENT_ERRORS
    return Failure(f"HTTP {status}", is_permanent, _retry_after(response.headers, timestamp))


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
    """A `Retry-After` header, a number of seconds or a date, as seconds from now; 0 where it is neither.

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
    """A date of HTTP's, of any of its three forms, in seconds since the epoch; None where it is none."""
    try:
        parsed = parsedate_to_datetime(text)
        # The oldest form names no time zone; it is UTC.
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
