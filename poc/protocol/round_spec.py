"""What a round is to those who compute it: its settings, their digest, and what a worker has to know."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self

import numpy as np

from hallmark.poc.protocol.streams import length_prefixed

__all__ = ["RoundSpec", "round_digest", "round_settings", "shortest_decimal"]


def shortest_decimal(value: float) -> str:
    """The shortest decimal that reads back as the same binary64 number, written without an exponent.

    No trailing zeros and no trailing point: `0.01`, `0.00001`, `0.125`, `1`.
    """
    return np.format_float_positional(value, unique=True, trim="-")


def round_settings(
    *,
    hidden_size: int,
    seq_len: int,
    input_scale: float,
    projection: bool,
    projection_scale: float,
    model: str,
) -> dict[str, str]:
    """The settings that a round's digest covers, as the texts that are hashed, in their order."""
    return {
        "hidden_size": str(hidden_size),
        "seq_len": str(seq_len),
        "input_scale": str(math.frexp(input_scale)[1] - 1),  # the exponent of a power of two
        "projection": "on" if projection else "off",
        "projection_scale": shortest_decimal(projection_scale),
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
    """What a worker has to know to compute the round's distances.

    Attributes:
        digest: The round's digest.
        block_hash: Seeds the projections and, with the digest, the nonces.
        hidden_size: D.
        seq_len: Rows of a nonce's input.
        batch_size: Nonces in one forward.
        input_scale: A power of two.
        projection: Whether the projections are on.
        projection_scale: Standard deviation of their elements.
    """

    digest: str
    block_hash: str
    hidden_size: int
    seq_len: int
    batch_size: int
    input_scale: float
    projection: bool
    projection_scale: float

    def to_wire(self) -> dict[str, str | int | float | bool]:
        """The specification as a flat dictionary of plain values."""
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: dict[str, str | int | float | bool]) -> Self:
        """The inverse of `to_wire`.

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
