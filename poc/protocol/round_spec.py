"""What a round is to those who compute it: its settings, their digest, and what a worker has to know."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self

import numpy as np

from hallmark.poc.protocol.streams import length_prefixed

__all__ = [
    "FIRST_ROW",
    "NO_FIRST",
    "RoundSpec",
    "default_projection_scale",
    "round_digest",
    "round_settings",
    "shortest_decimal",
]

FIRST_ROW = 8
"""The first row that groups read: attention sinks, which noise can move whole, sit in the rows before."""

NO_FIRST = -1
"""In the place of a token for row 0: it is drawn like the others."""


def shortest_decimal(value: float) -> str:
    """Return the shortest decimal that reads back as the same binary64 number, written without an exponent.

    No trailing zeros and no trailing point: `0.01`, `0.00001`, `0.125`, `1`.
    """
    return np.format_float_positional(value, unique=True, trim="-")


def default_projection_scale(hidden_size: int) -> float:
    """Return ``2^-e``, e the least integer with ``4^e ≥ 16 · hidden_size``.

    A projection then adds at most a sixteenth of a row's energy, at every width.
    """
    exponent = 0
    while 4**exponent < 16 * hidden_size:
        exponent += 1
    return 2.0**-exponent


def round_settings(
    *,
    hidden_size: int,
    seq_len: int,
    inputs: str,
    vocabulary: int,
    first: int,
    input_scale: float,
    projection: bool,
    projection_scale: float,
    readout: str,
    numbers: int,
    model: str,
) -> dict[str, str]:
    """Return the settings that a round's digest covers, as the texts that are hashed, in their order.

    Args:
        hidden_size: D.
        seq_len: Rows of a nonce's input.
        inputs: `tokens` or `normal`.
        vocabulary: Tokens are below it; 0 for `normal`.
        first: The token of row 0, or `NO_FIRST`.
        input_scale: A power of two; 1 for `tokens`.
        projection: Whether the projections are on.
        projection_scale: Standard deviation of their elements.
        readout: `rows` or `last`.
        numbers: k.
        model: The name that the round gives the model.
    """
    return {
        "hidden_size": str(hidden_size),
        "seq_len": str(seq_len),
        "inputs": inputs,
        "vocabulary": str(vocabulary),
        "first": "none" if first == NO_FIRST else str(first),
        "input_scale": str(math.frexp(input_scale)[1] - 1),  # the exponent of a power of two
        "projection": "on" if projection else "off",
        "projection_scale": shortest_decimal(projection_scale),
        "readout": readout,
        "numbers": str(numbers),
        "model": model,
    }


def round_digest(settings: Mapping[str, str]) -> str:
    """Hash the settings of a round: 64 hex digits, the first field of its per-nonce streams.

    It keeps one forward from serving two lengths or settings.

    Args:
        settings: As `round_settings` has them.
    """
    return hashlib.sha256(length_prefixed(*settings.values())).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSpec:
    """What a worker has to know to compute the round's numbers.

    Attributes:
        digest: The round's digest.
        block_hash: Seeds the projections and, with the digest, the nonces.
        hidden_size: D.
        seq_len: Rows of a nonce's input.
        batch_size: Nonces in one forward.
        inputs: `tokens` or `normal`.
        vocabulary: Tokens are below it; 0 for `normal`.
        first: The token of row 0, or `NO_FIRST`.
        input_scale: A power of two; 1 for `tokens`.
        projection: Whether the projections are on.
        projection_scale: Standard deviation of their elements.
        readout: `rows` or `last`.
        numbers: Numbers that a nonce gives, k.
    """

    digest: str
    block_hash: str
    hidden_size: int
    seq_len: int
    batch_size: int
    inputs: str
    vocabulary: int
    first: int
    input_scale: float
    projection: bool
    projection_scale: float
    readout: str
    numbers: int

    def to_wire(self) -> dict[str, str | int | float | bool]:
        """Return the specification as a flat dictionary of plain values."""
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: dict[str, str | int | float | bool]) -> Self:
        """Return the inverse of `to_wire`.

        Raises:
            ValueError: A key is missing, unknown, or of another type.
        """
        types = {field.name: field.type for field in fields(cls)}
        if wire.keys() != types.keys():
            raise ValueError(f"round specification: keys {sorted(wire)} instead of {sorted(types)}")
        for name, value in wire.items():
            if type(value) is not types[name]:
                raise ValueError(f"round specification: {name} is {value!r}, not {types[name]}")
        return cls(**wire)  # type: ignore[arg-type]  # the types have just been compared
