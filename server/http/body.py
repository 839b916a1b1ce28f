"""Reading a request's body as a JSON object, whatever its Content-Type says."""

import json
import math
from collections.abc import Iterator
from typing import Any

from fastapi import Request

from hallmark.poc.core.errors import FieldError
from hallmark.server.http.errors import BodyTooLargeError

__all__ = ["read_body", "read_json_object"]


async def read_json_object(request: Request, max_bytes: int) -> dict[str, Any]:
    """The body of a request, parsed.

    One client of ours sends no Content-Type at all, and FastAPI's own reading would refuse that.

    Raises:
        BodyTooLargeError: It is longer than `max_bytes`; noticed while it comes in, not after.
        FieldError: It is not a JSON object in UTF-8, names a member of an object twice, or has a number that
            JSON has not.
    """
    body = await read_body(request, max_bytes)
    try:
        parsed = _parse(body.decode("utf-8-sig"))
    except FieldError:
        raise
    except (ValueError, RecursionError) as exc:
        raise FieldError("body", _beginning(body), f"a JSON object in UTF-8 ({exc})") from exc
    if not isinstance(parsed, dict):
        raise FieldError("body", _beginning(body), "a JSON object")
    return parsed


async def read_body(request: Request, max_bytes: int) -> bytearray:
    """The body of a request, to its end.

    A route that needs no body reads it nevertheless before it does anything: what the HTTP parser gives up on
    in the middle has been answered with 400 by then, and must not have an effect.

    Raises:
        BodyTooLargeError: It is longer than `max_bytes`; noticed while it comes in, not after.
        ClientDisconnect: It does not come to its end.
    """
    too_large = BodyTooLargeError(f"the body is longer than max_body_bytes, {max_bytes}")
    declared = request.headers.get("Content-Length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > max_bytes):
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return body


def _parse(text: str) -> object:
    """Parse JSON as strictly as other parsers do, so that nobody on the way has read another request."""
    constants: list[str] = []

    def constant(name: str) -> float:
        constants.append(name)
        return float(name)

    parsed = json.loads(text, object_pairs_hook=_object, parse_constant=constant)
    if constants:
        # Named by its place, not just refused: it is most often a result that came out wrong.
        field, value = _first_not_finite(parsed)
        raise FieldError(field, value, "a finite number, since JSON has no others")
    return parsed


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for name, value in members:
        if name in parsed:
            raise FieldError(name, "several values", "one value")
        parsed[name] = value
    return parsed


def _first_not_finite(parsed: object) -> tuple[str, float]:
    """Where it stands, by the names and places that lead there."""
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


def _beginning(body: bytearray) -> str:
    return bytes(body[:100]).decode("utf-8", "replace")
