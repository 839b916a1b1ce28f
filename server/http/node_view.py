"""What the page of a node shows of it at one moment."""

import time
from functools import cache
from typing import Any, Final

import numpy as np

from hallmark.poc.protocol.law import distance_cdf, distance_of, number_of
from hallmark.poc.protocol.streams import PROTOCOL
from hallmark.poc.rounds.active_round import ActiveRound
from hallmark.poc.rounds.manager import PoCManager
from hallmark.poc.rounds.number_histogram import BIN_WIDTH, BINS, FIRST_EDGE
from hallmark.poc.rounds.validation_job import SettledJob
from hallmark.server.http.status import snapshot
from hallmark.server.http.versions import versions_at_work

__all__ = ["view"]

_SHOWN_VERDICTS: Final = 20


def view(manager: PoCManager) -> dict[str, Any]:
    """Return the status without its lists, how the round's numbers are spread, verdicts and the node."""
    status: dict[str, Any] = {**snapshot(manager)}
    del status["valid_nonces"], status["valid_distances"]
    if status["config"] is not None:
        # As text: it may be larger than the numbers of a browser are exact.
        status["config"] = {**status["config"], "block_height": str(status["config"]["block_height"])}
    model = manager.engine.model
    return {
        "now": time.time(),
        "status": status,
        "gate_closed": manager.gate_closed,
        "histogram": None if manager.active is None else _histogram(manager.active),
        "verdicts": [_verdict(job) for job in manager.queue.recent(_SHOWN_VERDICTS)],
        "node": {
            **versions_at_work(manager),
            "protocol": PROTOCOL,
            "models": list(model.served_names),
            "hidden_size": model.hidden_size,
            "dtype": model.dtype,
            "max_stall_ms": manager.settings.max_stall_ms,
        },
    }


def _histogram(active: ActiveRound) -> dict[str, Any]:
    """Return the counts, what the law expects of as many, and the number above which a nonce counts."""
    counts = active.statistics.first_numbers.counts
    total = sum(counts)
    round_ = active.round
    return {
        "first_edge": FIRST_EDGE,
        "bin_width": BIN_WIDTH,
        "counts": list(counts),
        "expected": [round(total * share, 2) for share in _shares(round_.hidden_size)],
        "r_target": round_.r_target,
        "target": None if round_.every_nonce_counts else number_of(round_.r_target, round_.hidden_size),
    }


@cache
def _shares(hidden_size: int) -> tuple[float, ...]:
    """Return the share of numbers that the law has in each bin, those beyond them in the outermost ones."""
    edges = [FIRST_EDGE + BIN_WIDTH * place for place in range(1, BINS)]
    # Distances fall as numbers rise.
    above = distance_cdf([distance_of(edge, hidden_size) for edge in edges], hidden_size)
    shares: list[float] = (-np.diff([1.0, *above, 0.0])).tolist()
    return tuple(shares)


def _verdict(job: SettledJob) -> dict[str, Any]:
    shown = ("verdict", "probability_honest", "tests", "rejected_by")
    verdict = (
        None if job.verdict is None else {name: value for name, value in job.verdict.items() if name in shown}
    )
    return {
        "at": job.settled_at,
        "public_key": job.public_key,
        "block_hash": job.block_hash,
        "n_claims": job.n_claims,
        "error": job.error,
        "verdict": verdict,
    }
