"""Arrays of numbers in results files: base64 of little-endian floats, and the shape."""

import base64
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

_TYPES = {"float16": "<f2", "float32": "<f4"}


def encode(values: npt.NDArray[np.floating[Any]], dtype: Literal["float16", "float32"]) -> dict[str, Any]:
    """Return values as JSON holds them, each rounded once."""
    data = base64.b64encode(values.astype(_TYPES[dtype]).tobytes()).decode()
    return {"shape": list(values.shape), dtype: data}


def decode(encoded: dict[str, Any]) -> npt.NDArray[np.floating[Any]]:
    """Return the values of what `encode` gave, in its dtype.

    Raises:
        ValueError: It does not hold as many as its shape says.
    """
    (dtype,) = encoded.keys() & _TYPES.keys()
    values: npt.NDArray[np.floating[Any]] = np.frombuffer(base64.b64decode(encoded[dtype]), _TYPES[dtype])
    return values.reshape(encoded["shape"])
