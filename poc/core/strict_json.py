"""JSON as strictly as the strictest parser takes it, so that nobody on the way has read something else."""

import json
import math
from collections.abc import Iterator
from typing import Any

from hallmark.poc.core.errors import FieldError

__all__ = ["parse_json"]


def parse_json(text: str) -> object:
    """Parse JSON, beside an event loop that goes on meanwhile.

    Raises:
        FieldError: A member of an object is named twice, or a number is not finite.
        ValueError: It is not JSON.
        RecursionError: It is nested too deep.
    """
    constants: list[str] = []

    def constant(name: str) -> float:
        constants.append(name)
        return float(name)

    parsed = json.loads(
        text, object_pairs_hook=_object, parse_constant=constant, parse_int=_integer, parse_float=_number
    )
    if constants:
        # Named by its place, not just refused: it is most often a result that came out wrong.
        field, value = _first_not_finite(parsed)
        raise FieldError(field, value, "a finite number, since JSON has no others")
    return parsed


# Python's scanner keeps all other threads from running until it returns, but for where it calls one of these:
# without them a body of 8 MB would be a hold of 60 ms.
def _integer(digits: str) -> int:
    return int(digits)


def _number(digits: str) -> float:
    return float(digits)


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for name, value in members:
        if name in parsed:
            raise FieldError(name, "several values", "one value")
        parsed[name] = value
    return parsed


def _first_not_finite(parsed: object) -> tuple[str, float]:
    """Return where it stands, by the names and places that lead there."""
    # Without recursion, however deep it stands; and a path is put together for the one that is found only.
    waiting: list[tuple[str, Iterator[tuple[str, object]]]] = [("", iter([("", parsed)]))]
    while waiting:
        for name, value in waiting[-1][1]:
            if isinstance(value, float) and not math.isfinite(value):
                path = "".join([*(above for above, _ in waiting), name])
                return path.removeprefix(".") or "body", value
            if isinstance(value, dict | list):
                waiting.append((name, _parts(value)))
                break
        else:
            waiting.pop()
    raise ValueError("every number is finite")


def _parts(value: dict[str, Any] | list[Any]) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        return ((f".{name}", item) for name, item in value.items())
    return ((f"[{place}]", item) for place, item in enumerate(value))
