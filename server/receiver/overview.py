"""What the page of a receiver shows: read from its store as more comes, and bounded."""

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final

from hallmark.poc.protocol.config import DEFAULT_THRESHOLD
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


class Overview:
    """The latest batches, blocks and provers, and what came in each minute of the last three hours.

    Of a file with many batches the latest 2,000 are read. Safe to call from several threads, one at a time.

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
        self._nonces: OrderedDict[int, Counter[str]] = OrderedDict()
        self._verdicts: OrderedDict[int, Counter[str]] = OrderedDict()

    def read(self) -> dict[str, Any]:
        """Read what has come since the last time, and return what the page shows.

        Raises:
            DatabaseError: The file cannot be read.
        """
        with self._lock:
            self._read_on()
            now = self._now()
            minutes = [int(now // _MINUTE) - _MINUTES + 1 + place for place in range(_MINUTES)]
            return {
                "now": now,
                "totals": {
                    kind: {"batches": batches, "nonces": nonces}
                    for kind, (batches, nonces) in self._totals.items()
                },
                "batches": [*reversed(self._latest)][:_SHOWN_BATCHES],
                "blocks": self._blocks(),
                "provers": self._provers(),
                "minutes": [minute * _MINUTE for minute in minutes],
                "verdicts": {
                    name: [self._verdicts.get(minute, Counter())[name] for minute in minutes]
                    for name in ("honest", "fraud")
                },
                "rates": self._rates(minutes),
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
                if outline["id"] > self._counted:
                    total = self._totals[outline["kind"]]
                    total[0] += 1
                    total[1] += outline["n_nonces"]
                self._show(outline)
            self._last = page[-1]["id"]
        self._forget()

    def _show(self, outline: dict[str, Any]) -> None:
        outline["fraud_detected"] = (
            None if outline["fraud_detected"] is None else bool(outline["fraud_detected"])
        )
        self._latest.append(outline)
        minute = int(outline["received_at"] // _MINUTE)
        if outline["kind"] == "generated":
            provers = self._nonces.setdefault(minute, Counter())
            if outline["public_key"] in provers or len(provers) < _PROVERS_A_MINUTE:
                provers[outline["public_key"]] += outline["n_nonces"]
        else:
            name = "fraud" if outline["fraud_detected"] else "honest"
            self._verdicts.setdefault(minute, Counter())[name] += 1

    def _forget(self) -> None:
        oldest = int(self._now() // _MINUTE) - _MINUTES
        for kept in (self._nonces, self._verdicts):
            for minute in [minute for minute in kept if minute < oldest]:
                del kept[minute]

    def _blocks(self) -> list[dict[str, Any]]:
        """The blocks of the latest batches, the one that was heard of last first."""
        blocks: dict[tuple[int, str], dict[str, Any]] = {}
        for outline in reversed(self._latest):
            key = (outline["block_height"], outline["block_hash"])
            block = blocks.setdefault(
                key,
                {
                    "block_height": key[0],
                    "block_hash": key[1],
                    "last_at": outline["received_at"],
                    "provers": set(),
                    "batches": 0,
                    "nonces": 0,
                    "verdicts": 0,
                    "fraud": 0,
                },
            )
            block["provers"].add(outline["public_key"])
            if outline["kind"] == "generated":
                block["batches"] += 1
                block["nonces"] += outline["n_nonces"]
            else:
                block["verdicts"] += 1
                block["fraud"] += outline["fraud_detected"]
        return [{**block, "provers": len(block["provers"])} for block in [*blocks.values()][:_SHOWN_BLOCKS]]

    def _provers(self) -> list[dict[str, Any]]:
        """The provers of the latest batches, the one that was heard of last first, with their records."""
        found: dict[str, dict[str, Any]] = {}
        for outline in reversed(self._latest):
            key = outline["public_key"]
            if key not in found and len(found) == _SHOWN_PROVERS:
                continue
            prover = found.setdefault(
                key,
                {
                    "public_key": key,
                    "last_at": outline["received_at"],
                    "generated": 0,
                    "verdicts": 0,
                    "fraud": 0,
                },
            )
            if outline["kind"] == "generated":
                prover["generated"] += outline["n_nonces"]
            else:
                prover["verdicts"] += 1
                prover["fraud"] += outline["fraud_detected"]
        for key, prover in found.items():
            records = self._store.provers(public_key=key, limit=1) if prover["verdicts"] else []
            prover["record"] = records[0].as_dict(DEFAULT_THRESHOLD) if records else None
        return [*found.values()]

    def _rates(self, minutes: list[int]) -> list[dict[str, Any]]:
        """Nonces a second by minute, of those who delivered most; the others as one."""
        totals: Counter[str] = Counter()
        for counted in self._nonces.values():
            totals.update(counted)
        charted = [key for key, _ in totals.most_common(_CHARTED_PROVERS)]
        series: list[dict[str, Any]] = [
            {"public_key": key, "rates": [self._rate(minute, [key]) for minute in minutes]} for key in charted
        ]
        others = [key for key in totals if key not in charted]
        if others:
            series.append({"public_key": None, "rates": [self._rate(minute, others) for minute in minutes]})
        return series

    def _rate(self, minute: int, keys: list[str]) -> float:
        of_minute = self._nonces.get(minute)
        return 0.0 if of_minute is None else round(sum(of_minute[key] for key in keys) / _MINUTE, 3)
