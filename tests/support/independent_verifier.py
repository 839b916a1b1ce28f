"""The protocol's random numbers once more, from Python's standard library alone.

Written from docs/protocol.md and sharing no line with the package: integers, SHA-256 and an inverse normal
distribution function. Slow, and meant to be read beside the document.
"""

import hashlib
import struct
from decimal import Decimal
from statistics import NormalDist

WORD = 2**32


def length_prefixed(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return len(encoded).to_bytes(4, "big") + encoded


def digest(purpose: str, *fields: str) -> bytes:
    return hashlib.sha256(b"hallmark/1" + b"".join(map(length_prefixed, (purpose, *fields)))).digest()


def stream(purpose: str, *fields: str) -> tuple[int, int, int, int]:
    """(k0, k1, c2, c3)"""
    first = digest(purpose, *fields)
    k0, k1, c2, c3 = (int.from_bytes(first[i : i + 4], "little") for i in (0, 4, 8, 12))
    return k0, k1, c2, c3


def round_digest(
    hidden_size: int, seq_len: int, exponent: int, projection: str, projection_scale: float, model: str
) -> str:
    decimal = format(Decimal(repr(projection_scale)), "f")
    if "." in decimal:
        decimal = decimal.rstrip("0").rstrip(".")
    fields = (str(hidden_size), str(seq_len), str(exponent), projection, decimal, model)
    return hashlib.sha256(b"".join(map(length_prefixed, fields))).hexdigest()


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(c0 * 0xD2511F53, WORD)
        high1, low1 = divmod(c2 * 0xCD9E8D57, WORD)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % WORD, (k1 + 0xBB67AE85) % WORD
    return c0, c1, c2, c3


def to_bf16(value: float) -> int:
    """The bit pattern of the bf16 number nearest to a double, ties to even; for bf16's normal range."""
    bits = int.from_bytes(struct.pack(">d", value), "big")
    sign, exponent, fraction = bits >> 63, bits >> 52 & 0x7FF, bits & (2**52 - 1)
    kept, dropped = fraction >> 45, fraction & (2**45 - 1)
    if dropped > 2**44 or (dropped == 2**44 and kept % 2 == 1):
        kept += 1  # a carry out of the fraction raises the exponent below, as it should
    return (sign << 15) + ((exponent - 1023 + 127) << 7) + kept


def from_bf16(bits: int) -> float:
    (value,) = struct.unpack(">f", struct.pack(">I", bits << 16))
    return float(value)


def to_fp32(value: float) -> float:
    (rounded,) = struct.unpack(">f", struct.pack(">f", value))
    return float(rounded)


def table() -> list[int]:
    """The 2,048 bit patterns of T."""
    return [to_bf16(NormalDist().inv_cdf(0.5 + (i + 0.5) / 4096)) for i in range(2048)]


def normals(name: tuple[int, int, int, int], count: int, entries: list[int]) -> list[float]:
    """The first elements z of a stream."""
    k0, k1, c2, c3 = name
    values: list[float] = []
    for call in range(-(-count // 8)):
        for word in philox((call, 0, c2, c3), (k0, k1)):
            for half in (word & 0xFFFF, word >> 16):
                sign = -1.0 if half & 0x8000 else 1.0
                values.append(sign * from_bf16(entries[half & 0x7FF]))
    return values[:count]


def scaled(values: list[float], scale: float) -> list[int]:
    """bf16(fp32(scale)·z) as bit patterns; the product is exact in a double."""
    return [to_bf16(to_fp32(scale) * value) for value in values]
