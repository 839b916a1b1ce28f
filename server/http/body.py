"""Reading a request's body as a JSON object, whatever its Content-Type says."""

from typing import Any, Final

from fastapi import Request

from hallmark.poc.core.errors import FieldError
from hallmark.poc.core.strict_json import parse_json
from hallmark.poc.rounds.manager import PoCManager
from hallmark.server.http.errors import BodyTooLargeError

__all__ = ["read_body", "read_json_object"]

_BYTES_PER_NONCE: Final = 64


async def read_json_object(request: Request, manager: PoCManager) -> dict[str, Any]:
    """Return the body of a request, parsed; beside the event loop where it is large.

    One client of ours sends no Content-Type at all, and FastAPI's own reading would refuse that.

    Raises:
        BodyTooLargeError: It is longer than `max_body_bytes`; noticed while it comes in, not after.
        FieldError: It is not a JSON object in UTF-8, names a member of an object twice, or has a number that
            JSON has not.
    """
    body = await read_body(request, manager.settings.max_body_bytes)
    return await manager.offload.run(len(body) // _BYTES_PER_NONCE, lambda: _parse(body))


def _parse(body: bytearray) -> dict[str, Any]:
    try:
        parsed = parse_json(body.decode("utf-8-sig"))
    except FieldError:
        raise
    except (ValueError, RecursionError) as exc:
        raise FieldError("body", _beginning(body), f"a JSON object in UTF-8 ({exc})") from exc
    if not isinstance(parsed, dict):
        raise FieldError("body", _beginning(body), "a JSON object")
    return parsed


async def read_body(request: Request, max_bytes: int) -> bytearray:
    """Return the body of a request, to its end.

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


def _beginning(body: bytearray) -> str:
    return bytes(body[:100]).decode("utf-8", "replace")
