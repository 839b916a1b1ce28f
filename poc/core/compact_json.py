"""JSON as it goes over the wire: in ASCII, without white space."""

import json

__all__ = ["compact_json"]


def compact_json(value: object) -> bytes:
    """A value as JSON.

    Raises:
        ValueError: It has numbers that JSON does not have.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
