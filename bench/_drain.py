"""The end of a run with crashes: all is delivered, and accounted for."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from _account import Received, differing, lost, problems
from _crash import Victim
from _leftovers import ever_queued


def drain(victims: Sequence[Victim], database: Path) -> list[dict[str, Any]]:
    """Start every server for the last time, let all be delivered, and account for it: a row for each node."""
    with ExitStack() as stack:
        clients = [stack.enter_context(victim.start()) for victim in victims]
        for victim in victims:
            stack.enter_context(victim.process)
        with ThreadPoolExecutor() as pool:
            waits = [
                pool.submit(victim.finish, poc, partial(_n_arrived, database, victim.request["public_key"]))
                for victim, poc in zip(victims, clients, strict=True)
            ]
            for wait in waits:
                wait.result()
            # Each node's walk is computed again by the next one's server.
            others = [
                pool.submit(
                    differing, Received.of(database, victim.request["public_key"]), victim.request, poc
                )
                for victim, poc in zip(victims, clients[1:] + clients[:1], strict=True)
            ]
            wrong = [other.result() for other in others]
    rows = []
    for victim, differ in zip(victims, wrong, strict=True):
        received = Received.of(database, victim.request["public_key"])
        found = problems(received, victim.shown, victim.request, ever_queued(victim.outbox))
        for problem in found:
            print(f"{victim.request['public_key']}: {problem}")
        rows.append(
            {
                "node": victim.request["node_id"],
                "valid_rate": victim.request["valid_rate"],
                "starts": victim.starts,
                "nonces": received.n_covered,
                "proofs": len(received.distances),
                "shown": len(victim.shown.distances),
                "batches": len(received.bodies),
                "repeated_deliveries": received.repeated,
                "lost": len(lost(received, victim.shown)),
                "differing": differ,
                "problems": len(found),
            }
        )
    return rows


def _n_arrived(database: Path, public_key: str) -> int:
    return len(Received.of(database, public_key).distances)
