"""The numbers of nonces as the wire has them: base64 of IEEE halves, little-endian, k of each nonce."""

import base64
import binascii
import math
from collections.abc import Sequence
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field
from typing_extensions import TypedDict

from hallmark.poc.core.checks import check_integer
from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.law import distance_std

__all__ = ["MAX_NUMBERS", "Encoding", "check_encoding", "check_vectors", "decode", "encode", "encoding_of"]

MAX_NUMBERS: Final = 2**16
"""More than any round's."""

_APART: Final = 0.005
"""How far a distance may be from that of its nonce's first number, in units of s; a half is 0.002 s off."""


class Encoding(TypedDict):
    """What a vector's bytes are: `k_dim` numbers of a `dtype`, by their `endian`."""

    dtype: Annotated[str, Field(description="`f16`: IEEE halves.")]
    k_dim: Annotated[int, Field(description="Numbers of a nonce.")]
    endian: Annotated[str, Field(description="`le`: little-endian.")]


def encoding_of(numbers: int) -> Encoding:
    """Return the encoding of vectors of so many numbers."""
    return {"dtype": "f16", "k_dim": numbers, "endian": "le"}


def encode(numbers: Sequence[Sequence[float]] | npt.NDArray[np.float64]) -> tuple[str, ...]:
    """Return the vectors of nonces, each number rounded once.

    Args:
        numbers: [n, k] finite ones.

    Raises:
        ValueError: One is not finite, as a half.
    """
    if not len(numbers):
        return ()
    halves = np.asarray(numbers, dtype=np.float64).astype("<f2")
    if not np.isfinite(halves).all():
        raise ValueError("numbers that are not finite have no vector")
    return tuple(base64.b64encode(row.tobytes()).decode("ascii") for row in halves)


def check_encoding(encoding: Encoding | None, *, has_vectors: bool) -> int:
    """Check what says how vectors are to be read.

    Returns:
        How many numbers each has; 0 where there is no encoding and no vector.

    Raises:
        FieldError: It is another one than ours, or one of the two is there without the other.
    """
    if encoding is None:
        if has_vectors:
            raise FieldError(
                "encoding", None, 'what the vectors are: {"dtype": "f16", "k_dim": k, "endian": "le"}'
            )
        return 0
    if not has_vectors:
        raise FieldError("vectors", None, "one for each nonce, or no encoding either")
    numbers = check_integer("encoding.k_dim", encoding["k_dim"], least=1, most=MAX_NUMBERS)
    if encoding["dtype"] != "f16":
        raise FieldError("encoding.dtype", encoding["dtype"], "'f16'")
    if encoding["endian"] != "le":
        raise FieldError("encoding.endian", encoding["endian"], "'le'")
    return numbers


def decode(vectors: Sequence[str], numbers: int) -> npt.NDArray[np.float64]:
    """Return the numbers of vectors, [n, k].

    Args:
        vectors: One for each of n nonces.
        numbers: k.

    Raises:
        FieldError: A vector is not base64, of another length, or has a number that is not finite.
    """
    joined = bytearray()
    for index, vector in enumerate(vectors):
        try:
            packed = base64.b64decode(vector, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise FieldError(f"vectors[{index}]", vector, "base64") from exc
        if len(packed) != 2 * numbers:
            raise FieldError(
                f"vectors[{index}]",
                f"{len(packed)} bytes",
                f"base64 of {2 * numbers} bytes, {numbers} halves, by encoding.k_dim",
            )
        joined += packed
    found = np.frombuffer(bytes(joined), dtype="<f2").astype(np.float64).reshape(-1, numbers)
    _refuse(~np.isfinite(found), found, "a finite number")
    return found


def check_vectors(numbers: npt.NDArray[np.float64], distances: Sequence[float], hidden_size: int) -> None:
    """Refuse numbers that no nonce has, or of which the first is not that of its distance.

    Args:
        numbers: [n, k], as decoded.
        distances: Of the n nonces.
        hidden_size: D.

    Raises:
        FieldError: A number is beyond ±√D, or a distance more than 0.005 s from that of its nonce's first
            number.
    """
    most = math.sqrt(hidden_size)
    _refuse(np.abs(numbers) > most, numbers, f"a number from -{most:g} to {most:g}, the width's root")
    ours = np.sqrt(2.0 - 2.0 * numbers[:, 0] / most)
    apart = np.abs(np.asarray(distances, dtype=np.float64) - ours)
    far = np.flatnonzero(apart > _APART * distance_std(hidden_size))
    if far.size:
        index = int(far[0])
        raise FieldError(
            f"dist[{index}]",
            distances[index],
            f"the distance of its vector's first number, {ours[index]:.6f}, within {_APART} s",
        )


def _refuse(bad: npt.NDArray[np.bool_], numbers: npt.NDArray[np.float64], allowed: str) -> None:
    places = np.argwhere(bad)
    if len(places):
        index, place = (int(value) for value in places[0])
        raise FieldError(f"vectors[{index}][{place}]", float(numbers[index, place]), allowed)
