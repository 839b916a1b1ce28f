"""Signatures of callbacks, as Standard Webhooks defines them: HMAC-SHA256 of `id.timestamp.body`.

The specification is https://github.com/standard-webhooks/standard-webhooks, version 1.0.0, of which this is
the symmetric scheme, `v1`. A secret is replaced without a gap: the sender signs with the old one and the new
one, and a receiver accepts what fits any secret it knows.
"""

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Mapping, Sequence
from secrets import token_bytes

from hallmark.poc.core.errors import FieldError, SignatureError

__all__ = ["SECRET_PREFIX", "generate_secret", "parse_secret", "signature", "verify"]

SECRET_PREFIX = "whsec_"  # noqa: S105  # what a secret begins with
"""What the text of a secret begins with."""

_SECRET_BYTES = range(24, 65)
_NEW_SECRET_BYTES = 32
_SECRET_ALLOWED = f"{SECRET_PREFIX} and the base64 of {_SECRET_BYTES[0]} to {_SECRET_BYTES[-1]} bytes"
_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
_VERSION = "v1"

_SECRET = re.compile(
    SECRET_PREFIX + r"((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}(?:==)?|[A-Za-z0-9+/]{3}=?)?)"
)
# Without a full stop, which is what separates the id from the timestamp in what is signed.
_ID = re.compile(r"[!-\-/-~]{1,256}")
_TIMESTAMP = re.compile(r"[0-9]{1,15}")


def generate_secret() -> str:
    """Return a new secret in its text form, of 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(token_bytes(_NEW_SECRET_BYTES)).decode("ascii")


def parse_secret(text: str) -> bytes:
    """Return the key that the text of a secret stands for.

    `whsec_` and base64, whose padding may be left out.

    Raises:
        FieldError: It is something else. Neither the message nor what caused it repeats the text.
    """
    match = _SECRET.fullmatch(text)
    key = base64.b64decode(match[1] + "=" * (-len(match[1]) % 4)) if match else b""
    if len(key) not in _SECRET_BYTES:
        raise FieldError("webhook secret", "(not shown)", _SECRET_ALLOWED)
    return key


def signature(secrets: Sequence[bytes], webhook_id: str, timestamp: int, body: bytes) -> str:
    """Return what the header `webhook-signature` says of a delivery.

    Args:
        secrets: The keys to sign with; two while one replaces the other.
        webhook_id: The header `webhook-id`.
        timestamp: The header `webhook-timestamp`: when the attempt is made, in seconds since the epoch.
        body: The body as it is sent.

    Returns:
        `v1,` and the base64 of the HMAC, once for each secret, in their order, separated by spaces.

    Raises:
        ValueError: There is no secret.
    """
    if not secrets:
        raise ValueError("a signature needs at least one secret")
    return " ".join(f"{_VERSION},{_mac(secret, webhook_id, str(timestamp), body)}" for secret in secrets)


def verify(
    secrets: Sequence[bytes],
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float | None = None,
    tolerance: float = 300.0,
) -> None:
    """Check that who sent a delivery knows a secret and signed these headers and this body just now.

    Signatures of other versions are passed over.

    Args:
        secrets: The receiver's keys, of which any will do.
        headers: The request's headers, names in upper or lower case.
        body: The body as it came, not parsed and written again.
        now: Seconds since the epoch; None asks the clock.
        tolerance: Seconds that the timestamp may lie before or after `now`.

    Raises:
        SignatureError: A header is missing, repeated or not what it should be, the timestamp is too old or in
            the future, or no signature fits any secret.
    """
    webhook_id, timestamp, signatures = (_only(headers, name) for name in _HEADERS)
    if not _ID.fullmatch(webhook_id):
        raise SignatureError(
            "the header webhook-id is not up to 256 visible ASCII characters without a full stop"
        )
    if not _TIMESTAMP.fullmatch(timestamp):
        raise SignatureError("the header webhook-timestamp is not a number of seconds since the epoch")
    age = (time.time() if now is None else now) - int(timestamp)
    if age > tolerance:
        raise SignatureError(
            f"the delivery is too old: it was signed {age:.0f} s ago, allowed: {tolerance:g} s"
        )
    if age < -tolerance:
        raise SignatureError(
            f"the delivery was signed {-age:.0f} s in the future, allowed: {tolerance:g} s; are both clocks"
            " right?"
        )
    given = [
        # What is not ASCII fits nothing, and the comparison takes bytes only.
        text.encode("ascii", "replace")
        for version, _, text in (entry.partition(",") for entry in signatures.split(" "))
        if version == _VERSION
    ]
    matches = 0
    for secret in secrets:
        expected = _mac(secret, webhook_id, timestamp, body).encode("ascii")
        # All are compared, each in constant time: how long it takes tells nothing of which was nearly right.
        matches += sum(hmac.compare_digest(expected, text) for text in given)
    if not matches:
        raise SignatureError(
            "the header webhook-signature has no signature that fits the body and a known secret"
        )


def _mac(secret: bytes, webhook_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode("ascii")


def _only(headers: Mapping[str, str], name: str) -> str:
    """Return the value of a header that has to be there once."""
    values = [value for key, value in headers.items() if key.lower() == name]
    if len(values) > 1:
        # Which of them counts must not depend on who reads them.
        raise SignatureError(f"the header {name} is there {len(values)} times")
    if not values or not values[0]:
        raise SignatureError(f"the header {name} is missing")
    return values[0]
