"""What a server sends to a receiver, as small as it may be."""

from typing import Any, Final

__all__ = ["BATCH"]

BATCH: Final[dict[str, Any]] = {
    "public_key": "a key",
    "block_hash": "a block",
    "block_height": 7,
    "node_id": 0,
    "nonces": [0, 1, 2],
    "dist": [1.41, 1.39, 1.4],
}
"""The body of a `/generated` callback."""
