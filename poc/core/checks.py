"""Checks of single fields, shared by everything that comes in from outside.

Each returns the value in the type the program works with and raises `FieldError` otherwise. JSON's
`true` is not an integer here, although Python's `True` is.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from hallmark.poc.core.errors import FieldError

__all__ = [
    "INTEGER_LIMIT",
    "allowed_in_words",
    "check_bool",
    "check_float",
    "check_integer",
    "check_text",
    "is_integer",
]

INTEGER_LIMIT = 2**63
"""Integers of the protocol are below this."""

_MAX_TEXT = 4096

_ALLOWED_IN_WORDS = MappingProxyType(
    {
        "bool_type": "true or false",
        "bool_parsing": "true or false",
        "dict_type": "an object",
        "float_parsing": "a valid number",
        "int_from_float": "a valid integer",
        "int_parsing": "a valid integer",
        "int_parsing_size": "a valid integer",
        "list_type": "a list",
        "string_too_short": "text that is not empty",
        "string_type": "text",
        "too_short": "text that is not empty",
        "tuple_type": "a list",
    }
)
"""For pydantic's types of errors whose own text speaks of Python."""


def is_integer(value: object) -> bool:
    """Return whether `value` is an integer and not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_integer(field: str, value: object, *, least: int = 0, most: int = INTEGER_LIMIT - 1) -> int:
    """Return an integer from `least` to `most`, both included."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise FieldError(field, value, f"an integer from {least} to {most}")
    return value


def check_float(field: str, value: object, *, least: float, most: float, allowed: str) -> float:
    """Return a finite number from `least` to `most`, both included; `allowed` is the range in words."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(field, value, allowed)
    try:
        number = float(value)
    except OverflowError as exc:
        # An integer of many digits, which JSON may have.
        raise FieldError(field, value, allowed) from exc
    # Python compares int with float exactly.
    if not least <= value <= most or not math.isfinite(number):
        raise FieldError(field, value, allowed)
    return number


def check_bool(field: str, value: object) -> bool:
    """Return a boolean."""
    if not isinstance(value, bool):
        raise FieldError(field, value, "true or false")
    return value


def check_text(field: str, value: object, *, empty: bool = False) -> str:
    """Return text that has a UTF-8 form, used as it is; `empty` says whether it may be empty."""
    allowed = f"text of {0 if empty else 1} to {_MAX_TEXT} characters without lone surrogates"
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not (value or empty):
        raise FieldError(field, value, allowed)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise FieldError(field, value, allowed) from exc
    return value


def allowed_in_words(error: Mapping[str, Any]) -> str:
    """Return what would have been accepted, for `FieldError`, from one of pydantic's errors."""
    if error["type"] == "string_too_long":
        return f"text of at most {error['ctx']['max_length']} characters"
    return _ALLOWED_IN_WORDS.get(error["type"]) or str(error["msg"]).removeprefix("Input should be ")
