"""What the page of a receiver shows: read from its store as more comes, and bounded."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from hallmark.poc.protocol.config import DEFAULT_THRESHOLD
from hallmark.server.receiver.node_table import NodeTable
from hallmark.server.receiver.store import BatchStore

__all__ = ["Overview"]

_READ_BATCHES: Final = 2_000
_SHOWN_BATCHES: Final = 25
_SHOWN_BLOCKS: Final = 20
_SHOWN_PROVERS: Final = 50
_CHARTED_PROVERS: Final = 6
_MINUTE: Final = 60
_MINUTES: Final = 180
_PROVERS_A_MINUTE: Final = 100
_PAGE: Final = 100

_LONGEST: Final = 200
"""Characters of a key or a hash that are kept for charts and shown; theirs are fewer, but nothing says so."""

_OTHERS: Final = ""
"""In the place of a key, for those whose keys are not kept in a minute; no prover has an empty one."""


class Overview:
    """The latest batches, blocks, provers and nodes, and what came in each minute of the last three hours.

    Of a file with many batches the latest 2,000 are read. Safe to call from several threads.

    Args:
        store: The receiver's.
        now: Seconds since the epoch.
    """

    def __init__(self, store: BatchStore, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now
        self._lock = threading.Lock()
        self._last: int | None = None
        self._counted = 0
        self._totals: dict[str, list[int]] = {"generated": [0, 0], "validated": [0, 0]}
        self._latest: deque[dict[str, Any]] = deque(maxlen=_READ_BATCHES)
        self._nonces: dict[int, Counter[str]] = {}
        self._verdicts: dict[int, Counter[str]] = {}
        self._nodes = NodeTable(_LONGEST)

    def read(self) -> dict[str, Any]:
        """Read what has come since the last time, and return what the page shows.

        Raises:
            DatabaseError: The file cannot be read.
        """
        with self._lock:
            now = self._now()
            self._read_on()
            self._forget(int(now // _MINUTE) - _MINUTES)
            minutes = [int(now // _MINUTE) - _MINUTES + 1 + place for place in range(_MINUTES)]
            return {
                "now": now,
                "totals": {
                    kind: {"batches": batches, "nonces": nonces}
                    for kind, (batches, nonces) in self._totals.items()
                },
                "batches": [_shown(outline) for outline in [*reversed(self._latest)][:_SHOWN_BATCHES]],
                "blocks": self._blocks(),
                "provers": self._provers(),
                "fleet": self._nodes.fleet(now),
                "nodes": self._nodes.nodes(now),
                "minutes": [minute * _MINUTE for minute in minutes],
                "verdicts": {
                    name: [self._verdicts.get(minute, Counter())[name] for minute in minutes]
                    for name in ("honest", "fraud")
                },
                "rates": self._rates(minutes, now),
            }

    def _read_on(self) -> None:
        if self._last is None:
            self._counted, totals = self._store.totals()
            for kind, (batches, nonces) in totals.items():
                self._totals[kind] = [batches, nonces]
            self._last = max(0, self._counted - _READ_BATCHES)
        # A few at a time: batches that come meanwhile wait for the file.
        while page := self._store.outlines(after=self._last, limit=_PAGE):
            for outline in page:
                self._take(outline)
            self._last = page[-1]["id"]

    def _take(self, outline: dict[str, Any]) -> None:
        if outline["id"] > self._counted:
            total = self._totals[outline["kind"]]
            total[0] += 1
            total[1] += outline["n_nonces"]
        self._latest.append(outline)
        self._nodes.take(outline)
        minute = int(outline["received_at"] // _MINUTE)
        if outline["kind"] == "generated":
            provers = self._nonces.setdefault(minute, Counter())
            key = outline["public_key"][:_LONGEST]
            is_kept = key in provers or len(provers) < _PROVERS_A_MINUTE
            provers[key if is_kept else _OTHERS] += outline["n_nonces"]
        elif outline["fraud_detected"] is not None:
            name = "fraud" if outline["fraud_detected"] else "honest"
            self._verdicts.setdefault(minute, Counter())[name] += 1

    def _forget(self, newest: int) -> None:
        """Let go of minutes up to one."""
        for kept in (self._nonces, self._verdicts):
            for minute in [minute for minute in kept if minute <= newest]:
                del kept[minute]

    def _blocks(self) -> list[dict[str, Any]]:
        """Return the blocks of the latest batches, the one that was heard of last first."""
        blocks: dict[tuple[int, str], dict[str, Any]] = {}
        for outline in reversed(self._latest):
            key = (outline["block_height"], outline["block_hash"])
            nothing = {"provers": set(), "batches": 0, "nonces": 0, "verdicts": 0, "fraud": 0}
            block = blocks.setdefault(key, {**_shown(outline), **nothing})
            block["provers"].add(outline["public_key"])
            if outline["kind"] == "generated":
                block["batches"] += 1
                block["nonces"] += outline["n_nonces"]
            else:
                block["verdicts"] += 1
                block["fraud"] += bool(outline["fraud_detected"])
        latest = [*blocks.values()][:_SHOWN_BLOCKS]
        return [{**block, "provers": len(block["provers"])} for block in latest]

    def _provers(self) -> list[dict[str, Any]]:
        """Return the provers of the latest batches with their records, the one heard of last first."""
        found: dict[str, dict[str, Any]] = {}
        for outline in reversed(self._latest):
            key = outline["public_key"]
            if key not in found and len(found) == _SHOWN_PROVERS:
                continue
            nothing = {"generated": 0, "verdicts": 0, "fraud": 0, "record": None}
            prover = found.setdefault(key, {**_shown(outline), **nothing})
            if outline["kind"] == "generated":
                prover["generated"] += outline["n_nonces"]
            else:
                prover["verdicts"] += 1
                prover["fraud"] += bool(outline["fraud_detected"])
        for record in self._store.provers_of(found):
            found[record.public_key]["record"] = record.as_dict(DEFAULT_THRESHOLD)
        return [*found.values()]

    def _rates(self, minutes: list[int], now: float) -> list[dict[str, Any]]:
        """Return nonces a second by minute, of those who delivered most; all others as one."""
        totals: Counter[str] = Counter()
        for counted in self._nonces.values():
            totals.update(counted)
        charted = [key for key, _ in totals.most_common(_CHARTED_PROVERS + 1) if key != _OTHERS]
        charted = charted[:_CHARTED_PROVERS]
        by_minute = [self._nonces.get(minute, Counter()) for minute in minutes]
        # The last minute is not over.
        lengths = [min(float(_MINUTE), max(1.0, now - minute * _MINUTE)) for minute in minutes]

        def rates(nonces: list[int]) -> list[float]:
            return [round(count / length, 3) for count, length in zip(nonces, lengths, strict=True)]

        series: list[dict[str, Any]] = [
            {"public_key": key, "rates": rates([counted[key] for counted in by_minute])} for key in charted
        ]
        others = [counted.total() - sum(counted[key] for key in charted) for counted in by_minute]
        return [*series, {"public_key": None, "rates": rates(others)}] if any(others) else series


def _shown(outline: dict[str, Any]) -> dict[str, Any]:
    """Return what is shown of a batch, whole numbers as text: they may be too large for a browser."""
    fraud = outline["fraud_detected"]
    return {
        "id": outline["id"],
        "kind": outline["kind"],
        "received_at": outline["received_at"],
        "public_key": outline["public_key"][:_LONGEST],
        "block_hash": outline["block_hash"][:_LONGEST],
        "block_height": str(outline["block_height"]),
        "node_id": str(outline["node_id"]),
        "n_nonces": outline["n_nonces"],
        "n_invalid": outline["n_invalid"],
        "fraud_detected": None if fraud is None else bool(fraud),
        "probability_honest": outline["probability_honest"],
    }
