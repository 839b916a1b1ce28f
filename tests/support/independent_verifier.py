"""The protocol around the model once more, from Python's standard library alone.

Written from docs/protocol/ and sharing no line with the package: integers, SHA-256, an inverse normal
distribution function and exact sums. Slow, and meant to be read beside the document.
"""

import base64
import hashlib
import math
import struct
from collections.abc import Sequence
from decimal import Decimal
from statistics import NormalDist

WORD = 2**32
FIRST_ROW = 8

Name = tuple[int, int, int, int]


def length_prefixed(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return len(encoded).to_bytes(4, "big") + encoded


def digest(purpose: str, *fields: str) -> bytes:
    return hashlib.sha256(b"hallmark/2" + b"".join(map(length_prefixed, (purpose, *fields)))).digest()


def stream(purpose: str, *fields: str) -> Name:
    """(k0, k1, c2, c3)"""
    first = digest(purpose, *fields)
    k0, k1, c2, c3 = (int.from_bytes(first[i : i + 4], "little") for i in (0, 4, 8, 12))
    return k0, k1, c2, c3


def decimal(value: float) -> str:
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def projection_scale(hidden_size: int) -> float:
    """What a round that states none has."""
    return 2.0 ** -min(e for e in range(64) if 4**e >= 16 * hidden_size)


def default_numbers(seq_len: int) -> int:
    return max(1, min(16, (seq_len - FIRST_ROW) // 4))


def settings(
    hidden_size: int,
    seq_len: int,
    *,
    inputs: str = "tokens",
    vocabulary: int = 4096,
    first: int | None = None,
    exponent: int = 0,
    projection: bool = True,
    scale: float | None = None,
    readout: str = "rows",
    numbers: int | None = None,
    model: str = "",
) -> list[str]:
    """The texts of a round, in their order; what is left out is what a round has by default."""
    k = 1 if readout == "last" else default_numbers(seq_len) if numbers is None else numbers
    return [
        str(hidden_size),
        str(seq_len),
        inputs,
        str(vocabulary) if inputs == "tokens" else "0",
        "none" if first is None or inputs == "normal" else str(first),
        str(exponent),
        "on" if projection else "off",
        decimal(projection_scale(hidden_size) if scale is None else scale),
        readout,
        str(k),
        model,
    ]


def round_digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(b"".join(map(length_prefixed, texts))).hexdigest()


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
    """The bit pattern of the bf16 number nearest to a double, ties to even; for zero and the normal range."""
    if value == 0:
        return 0x8000 if math.copysign(1, value) < 0 else 0
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


def words(name: Name, count: int) -> list[int]:
    """The first words of a stream."""
    k0, k1, c2, c3 = name
    return [word for call in range(-(-count // 4)) for word in philox((call, 0, c2, c3), (k0, k1))][:count]


def normals(name: Name, count: int, entries: list[int]) -> list[float]:
    """The first elements z of a stream."""
    values: list[float] = []
    for word in words(name, -(-count // 2)):
        for half in (word & 0xFFFF, word >> 16):
            sign = -1.0 if half & 0x8000 else 1.0
            values.append(sign * from_bf16(entries[half & 0x7FF]))
    return values[:count]


def scaled(values: list[float], scale: float) -> list[int]:
    """bf16(fp32(scale)·z) as bit patterns; the product is exact in a double."""
    return [to_bf16(to_fp32(scale) * value) for value in values]


def tokens(name: Name, seq_len: int, vocabulary: int, first: int | None) -> list[int]:
    """A nonce's tokens, from its stream of the purpose `tokens`."""
    drawn = [word * vocabulary // WORD for word in words(name, seq_len)]
    return drawn if first is None else [first, *drawn[1:]]


def groups(name: Name, seq_len: int, numbers: int) -> list[tuple[int, int]]:
    """(group, sign) of each row from 8 on, from the nonce's stream of the purpose `rows`."""
    keys = words(name, seq_len - FIRST_ROW)
    found = [(0, 0)] * len(keys)
    for rank, (_, place) in enumerate(sorted((key, place) for place, key in enumerate(keys))):
        found[place] = (rank // 2 % numbers, -1 if rank % 2 else 1)
    return found


def signed_sums(
    rows: Sequence[Sequence[float]], signs: Sequence[tuple[int, int]], numbers: int
) -> list[list[float]]:
    """S of each group, exact; `rows` are all rows of H."""
    sums = []
    for group in range(numbers):
        members = [(sign, row) for (j, sign), row in zip(signs, rows[FIRST_ROW:], strict=True) if j == group]
        sums.append(
            [math.fsum(sign * row[column] for sign, row in members) for column in range(len(rows[0]))]
        )
    return sums


def projected(row: Sequence[float], p: Sequence[Sequence[float]]) -> list[float]:
    """row + row·P, exact but for the last rounding."""
    return [
        math.fsum((value, *(x * line[column] for x, line in zip(row, p, strict=True))))
        for column, value in enumerate(row)
    ]


def number(h: Sequence[float], z: Sequence[float]) -> float:
    """c, from H' and its target."""
    dot = math.fsum(a * b for a, b in zip(h, z, strict=True))
    return math.sqrt(len(h)) * dot / (math.hypot(*h) * math.hypot(*z))


def distance(c: float, hidden_size: int) -> float:
    return math.sqrt(max(0.0, 2 - 2 * c / math.sqrt(hidden_size)))


def f16(numbers: Sequence[float]) -> str:
    """The wire's text of a nonce's numbers."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}e", *numbers)).decode("ascii")


def from_f16(text: str) -> list[float]:
    raw = base64.b64decode(text, validate=True)
    return list(struct.unpack(f"<{len(raw) // 2}e", raw))
