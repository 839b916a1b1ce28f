"""What reached a receiver of a node's walk, held against what the node has shown and what is true."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _status_history import StatusHistory

from hallmark.poc.protocol.round import is_below_target
from hallmark.server.cli.client import PoCClient
from hallmark.server.receiver.store import BatchStore

_NONCES_PER_REQUEST = 400


@dataclass(frozen=True, slots=True)
class Received:
    """The batches that one node has generated, in the order they came.

    Attributes:
        bodies: What they say.
        deliveries: How often each was delivered.
    """

    bodies: Sequence[Mapping[str, Any]]
    deliveries: Sequence[int]

    @classmethod
    def of(cls, database: Path, public_key: str) -> "Received":
        """Read them from the receiver's file."""
        with closing(BatchStore(database)) as store:
            found: list[dict[str, Any]] = []
            while page := store.find(
                kind="generated", public_key=public_key, after=found[-1]["id"] if found else 0, limit=1000
            ):
                found += page
            bodies = [batch["body"] for entry in found if (batch := store.get(entry["id"])) is not None]
        return cls(bodies, [entry["deliveries"] for entry in found])

    @property
    def distances(self) -> dict[int, float]:
        """Of every nonce."""
        return {n: d for body in self.bodies for n, d in zip(body["nonces"], body["dist"], strict=True)}

    @property
    def n_covered(self) -> int:
        """Nonces of the walk that the batches cover."""
        return self.bodies[-1]["covered"][1] + 1 if self.bodies else 0

    @property
    def repeated(self) -> int:
        """Deliveries after the first of each batch."""
        return sum(self.deliveries) - len(self.deliveries)


def lost(received: Received, shown: StatusHistory) -> list[int]:
    """Return nonces that were shown as found and did not arrive."""
    return sorted(shown.distances.keys() - received.distances.keys())


def problems(received: Received, shown: StatusHistory, request: Mapping[str, Any], queued: int) -> list[str]:
    """Return what is not as it should be with what arrived; empty where all is.

    Args:
        received: What arrived.
        shown: What the node's status has shown.
        request: The node's round.
        queued: How many callbacks have ever been in its outbox.
    """
    found = [*shown.problems]
    if queued != len(received.bodies):
        found.append(f"{queued} callbacks were queued, {len(received.bodies)} different ones arrived")
    expected = 0
    for body in received.bodies:
        first, last = body["covered"]
        if first != expected:
            found.append(f"a batch covers {body['covered']}, the one before ended at {expected - 1}")
        expected = last + 1
        walk = range(request["node_id"] + first * request["node_count"], 2**63, request["node_count"])
        indices = [walk.index(nonce) if nonce in walk else -1 for nonce in body["nonces"]]
        if indices != sorted({i for i in indices if 0 <= i <= last - first}):
            found.append(f"the nonces of a batch that covers {body['covered']} are {body['nonces']}")
        if body["failed_nonces"]:
            found.append(f"a batch has failed nonces: {body['failed_nonces']}")
    times = Counter(nonce for body in received.bodies for nonce in body["nonces"])
    found += [f"nonce {nonce} stands in {count} batches" for nonce, count in times.items() if count > 1]
    distances = received.distances
    if missing := lost(received, shown):
        found.append(f"{len(missing)} nonces were shown and did not arrive: {missing[:10]}")
    found += [
        f"nonce {nonce} was shown with {distance!r} and arrived with {distances[nonce]!r}"
        for nonce, distance in shown.distances.items()
        if distances.get(nonce, distance) != distance
    ]
    found += _wrong_counts(received, shown, request)
    return found


def _wrong_counts(received: Received, shown: StatusHistory, request: Mapping[str, Any]) -> list[str]:
    """Counts of the status that are not those of what arrived, for as much of the walk."""
    at = {(nonce - request["node_id"]) // request["node_count"] for nonce in received.distances}
    valid_before = [0]
    for index in range(max((checked for checked, _ in shown.counts), default=0)):
        valid_before.append(valid_before[-1] + (index in at))
    return [
        f"{valid} of the first {checked} nonces were shown as valid, {valid_before[checked]} arrived"
        for checked, valid in shown.counts
        if valid_before[checked] != valid
    ]


def differing(received: Received, request: Mapping[str, Any], validator: PoCClient) -> int:
    """Return how many nonces of the covered walk another server computes otherwise than was reported.

    That is a distance with another bit, or one that counts and was not reported.
    """
    round_ = {key: value for key, value in request.items() if key != "callback_url"}
    validator.post("/init/validate", round_)
    r_target = validator.get("/status")["r_target"]
    reported = received.distances
    walk = range(request["node_id"], 2**63, request["node_count"])[: received.n_covered]
    wrong = 0
    for begin in range(0, len(walk), _NONCES_PER_REQUEST):
        nonces = walk[begin : begin + _NONCES_PER_REQUEST]
        # What was not reported is claimed to be as far off as can be.
        claims = [reported.get(nonce, 2.0) for nonce in nonces]
        batch = {key: request[key] for key in ("block_hash", "block_height", "public_key", "node_id")}
        verdict = validator.post("/validate?wait=true", {**batch, "nonces": [*nonces], "dist": claims})
        for nonce, distance in zip(nonces, verdict["computed_distances"], strict=True):
            if nonce in reported:
                wrong += distance != reported[nonce]
            else:
                wrong += is_below_target(distance, r_target)
    validator.post("/stop")
    return wrong
