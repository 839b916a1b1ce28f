"""Streams: from a purpose and its fields to 128 bits that name a sequence of random numbers.

``digest = SHA-256("hallmark/2" || LP(purpose) || LP(field 1) || ...)``, where LP prefixes a text's UTF-8
bytes with their number as four big-endian bytes. Its first 16 bytes are four little-endian u32: Philox's
key (k0, k1) and the upper half of its counter (c2, c3).
"""

import hashlib
import struct
from collections.abc import Iterable
from typing import Literal, NamedTuple, Self

from hallmark.poc.core.checks import check_integer, check_text
from hallmark.poc.protocol.nonces import NonceKey

__all__ = [
    "PROTOCOL",
    "NoncePurpose",
    "Stream",
    "embeds_stream",
    "length_prefixed",
    "nonce_streams",
    "post_stream",
    "pre_stream",
    "stream_digest",
    "target_stream",
]

PROTOCOL = "hallmark/2"
"""The protocol's name and version; every stream's digest starts with it."""


NoncePurpose = Literal["tokens", "embeds", "rows", "target"]
"""What a nonce's streams are for: its tokens or normal inputs, the groups of its rows, its targets."""


class Stream(NamedTuple):
    """The name of a stream: four integers below 2**32."""

    key0: int
    key1: int
    c2: int
    c3: int

    @classmethod
    def from_digest(cls, digest: bytes) -> Self:
        """Return the stream that a digest of at least 16 bytes names."""
        return cls(*struct.unpack("<4I", digest[:16]))


def length_prefixed(*fields: str | int) -> bytes:
    """Join fields so that no two different lists of fields give the same bytes.

    Args:
        fields: Texts, taken as they are, and integers below 2**63, written as unsigned decimals.

    Raises:
        FieldError: A text has no UTF-8 form, or an integer is negative, too large or a boolean.
    """
    joined = bytearray()
    for place, field in enumerate(fields, start=1):
        name = f"stream field {place}"
        text = field if isinstance(field, str) else str(check_integer(name, field))
        encoded = check_text(name, text, empty=True).encode("utf-8")
        joined += struct.pack(">I", len(encoded)) + encoded
    return bytes(joined)


def stream_digest(purpose: str, *fields: str | int) -> bytes:
    """Return the 32 bytes that name the stream for `purpose` and `fields`.

    Raises:
        FieldError: As for `length_prefixed`.
    """
    return hashlib.sha256(PROTOCOL.encode("ascii") + length_prefixed(purpose, *fields)).digest()


def _stream(purpose: str, *fields: str | int) -> Stream:
    return Stream.from_digest(stream_digest(purpose, *fields))


def nonce_streams(
    purpose: NoncePurpose, round_digest: str, block_hash: str, keys: Iterable[NonceKey]
) -> list[Stream]:
    """Name the streams of one round's nonces for one purpose.

    What they have in common is hashed once: the device waits for these at the start of a batch.
    """
    common = hashlib.sha256(PROTOCOL.encode("ascii") + length_prefixed(purpose, round_digest, block_hash))
    streams = []
    for key, nonce in keys:
        digest = common.copy()
        digest.update(length_prefixed(key, nonce))
        streams.append(Stream.from_digest(digest.digest()))
    return streams


def embeds_stream(round_digest: str, block_hash: str, public_key: str, nonce: int) -> Stream:
    """Return the stream of one nonce's model input."""
    return nonce_streams("embeds", round_digest, block_hash, [(public_key, nonce)])[0]


def target_stream(round_digest: str, block_hash: str, public_key: str, nonce: int) -> Stream:
    """Return the stream of one nonce's target."""
    return nonce_streams("target", round_digest, block_hash, [(public_key, nonce)])[0]


def pre_stream(block_hash: str) -> Stream:
    """Return the stream of the block's projection before the model."""
    return _stream("pre", block_hash)


def post_stream(block_hash: str) -> Stream:
    """Return the stream of the block's projection after the model's final norm."""
    return _stream("post", block_hash)
