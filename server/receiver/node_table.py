"""The nodes that a receiver hears of: what each has delivered lately, and what was judged of it; bounded."""

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["NodeTable"]

_MINUTE: Final = 60
_LATELY_MINUTES: Final = 5
_KEPT_NODES: Final = 1_000
_SHOWN_NODES: Final = 100

_Key = tuple[str, int]
"""A prover's key and a node's number: a batch names nothing else of the node that it comes from."""


class NodeTable:
    """The nodes of the latest batches: those of a fleet are of one key, and have a number each.

    The 1,000 that were heard of last are kept. Rates are of the present minute and the five before it.

    Args:
        longest: Characters of a key that are kept.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._nodes: OrderedDict[_Key, _Node] = OrderedDict()
        self._nonces: Counter[int] = Counter()

    def take(self, outline: dict[str, Any]) -> None:
        """Count a batch.

        Args:
            outline: Of the store.
        """
        key = outline["public_key"][: self._longest], outline["node_id"]
        node = self._nodes.setdefault(key, _Node())
        self._nodes.move_to_end(key)
        if len(self._nodes) > _KEPT_NODES:
            self._nodes.popitem(last=False)
        if outline["kind"] == "generated":
            minute = int(outline["received_at"] // _MINUTE)
            node.received_at = outline["received_at"]
            for nonces in (node.nonces, self._nonces):
                nonces[minute] += outline["n_nonces"]
                _forget(nonces, minute)
        elif outline["fraud_detected"] is not None:
            node.verdicts["fraud" if outline["fraud_detected"] else "honest"] += 1

    def fleet(self, now: float) -> dict[str, Any]:
        """Return the rate of all nodes together, and how many there are.

        Args:
            now: Seconds since the epoch.
        """
        nodes = self._nodes.values()
        return {
            "rate": _rate(self._nonces, now),
            "minutes": _LATELY_MINUTES,
            "nodes": len(nodes),
            "nodes_lately": sum(_rate(node.nonces, now) > 0 for node in nodes),
        }

    def nodes(self, now: float) -> list[dict[str, Any]]:
        """Return the nodes that were heard of last, by key and number.

        Args:
            now: Seconds since the epoch.
        """
        latest = sorted([*self._nodes.items()][-_SHOWN_NODES:], key=lambda item: item[0])
        return [
            {
                "public_key": public_key,
                # It may be too large for a browser.
                "node_id": str(node_id),
                "received_at": node.received_at,
                "rate": _rate(node.nonces, now),
                "honest": node.verdicts["honest"],
                "fraud": node.verdicts["fraud"],
            }
            for (public_key, node_id), node in latest
        ]


@dataclass(slots=True)
class _Node:
    """What came of a node.

    Attributes:
        received_at: When its latest proofs came; None where only verdicts about it have.
        nonces: Its nonces by minute, of the latest minutes.
        verdicts: How many there were about it.
    """

    received_at: float | None = None
    nonces: Counter[int] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)


def _forget(nonces: Counter[int], minute: int) -> None:
    """Let go of minutes that count no longer once something has come in another one."""
    for old in [each for each in nonces if each < minute - _LATELY_MINUTES]:
        del nonces[old]


def _rate(nonces: Counter[int], now: float) -> float:
    """Return nonces a second since the first of the latest minutes in which any came."""
    first = int(now // _MINUTE) - _LATELY_MINUTES
    lately = {minute: count for minute, count in nonces.items() if minute >= first}
    if not lately:
        return 0.0
    return round(sum(lately.values()) / max(1.0, now - min(lately) * _MINUTE), 3)
