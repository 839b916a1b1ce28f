"""What a network of ten thousand provers asks of receivers, databases and verifiers, by a simulation.

Bodies are made by a server's own code and measured. What they cost a receiver and a database is read from the
results of `bench/receiver.py`, or stated. A verifier recomputes as many nonces a second as a node computes:
both have the same GPU. Sample sizes are those of `hallmark power` at 10⁻⁷. `_network.py` says what is
simulated.

Run by `python -P bench/network.py`; it takes four minutes on one core.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _network import Cost, Network, Outage, Part, Ran, simulate
from _network_bodies import FORWARD, MAX_BODY_BYTES, sizes
from _report import RESULTS, print_table, write_results

from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.settings.settings import Settings
from hallmark.poc.verdict.cheat import Allowance, Cheat
from hallmark.poc.verdict.power import nonces_needed, stops_of_honest

NODES: Final = 10_000
THRESHOLD: Final = 1e-7
SIGMA: Final = 0.05
CHEAT: Final = Cheat(0.072)
"""INT8 weights in the place of bf16 ones: docs/soundness/other-weights.md."""

POWER: Final = 0.99
AT_WORK: Final = 0.7
"""The share of time that parts are planned to be at work."""

OVER: Final = 1.2
"""How much more than the part in question can take a remedy is tried with."""

_OUTBOX_BYTES: Final = Settings().outbox_max_bytes

INTERVALS: Final = {32: 0.032, 1_000: 1.0, 5_000: 5.0, 13_636: 300 / 22}
"""Seconds between deliveries, by the nonces of each at 1,000 a second: the last fit a server's body."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What batches cost.

    Attributes:
        receiver: A receiver, which uses one core at most.
        database: A core of the database.
        source: The results file that says so, or `stated`.
    """

    receiver: Cost
    database: Cost
    source: str

    @classmethod
    def measured(cls, path: Path) -> "Costs":
        """Read them from results of `bench/receiver.py`: two receivers on PostgreSQL, no verdicts."""
        results = json.loads(path.read_text(encoding="utf-8"))
        few, many = (
            next(
                row
                for row in results["rows"]
                if (row["database"], row["receivers"], row["validated"], row["nonces"])
                == ("PostgreSQL", 2, 0.0, nonces)
            )
            for nonces in (32, 1_000)
        )

        def cost(name: str) -> Cost:
            nonce = (many[name] - few[name]) / (many["nonces"] - few["nonces"])
            return Cost(few[name] - few["nonces"] * nonce, nonce)

        receiver, database = (cost(f"{whose} core seconds a batch") for whose in ("receivers'", "database's"))
        return cls(receiver, database, path.name)


@cache
def sample(numbers: int = 16, valid_rate: float = 1.0) -> int:
    """Return how many nonces convict the cheat.

    Args:
        numbers: Of a nonce; 1 without vectors.
        valid_rate: The round's.
    """
    found = nonces_needed(CHEAT, _allowance(numbers, valid_rate), power=POWER)
    assert found is not None
    return found


@cache
def until_cleared() -> int:
    """After how many nonces half of honest provers are cleared, with as much noise as is allowed."""
    found = stops_of_honest(CHEAT, _allowance(16, 1.0), SIGMA, power=POWER).median
    assert found is not None
    return found


@cache
def simulated(made: Network) -> Ran:
    """Simulate a network, once."""
    return simulate(made)


def _allowance(numbers: int, valid_rate: float) -> Allowance:
    config = PoCConfig(
        block_hash="any", block_height=0, public_key="any", honest_sigma=SIGMA, fraud_threshold=THRESHOLD
    )
    return Allowance.of_config(config, numbers, valid_rate)


def network(
    costs: Costs,
    nodes: int = NODES,
    *,
    interval: float = INTERVALS[5_000],
    valid_rate: float = 1.0,
    has_vectors: bool = True,
    **more: Any,
) -> Network:
    """Return a network in which each part has twice what it needs, where `more` does not say otherwise."""
    made = Network(
        nodes=nodes,
        bodies=sizes("generated", has_vectors=has_vectors, valid_rate=valid_rate),
        verdicts=sizes("validated"),
        receivers=Part(1, costs.receiver),
        databases=Part(1, costs.database),
        verifiers=1,
        interval=interval,
        valid_rate=valid_rate,
        sample=sample(16 if has_vectors else 1, valid_rate),
    )
    loads = made.loads
    ample = {name: math.ceil(2 * load) for name, load in loads.items()}
    made = replace(
        made,
        receivers=Part(ample["receivers"], costs.receiver),
        databases=Part(ample["databases"], costs.database),
        verifiers=ample["verifiers"],
    )
    return replace(made, **more)


def bodies() -> Iterator[dict[str, Any]]:
    """Say how long bodies are."""
    for kind, has_vectors, rate in (
        ("generated", True, 1.0),
        ("generated", False, 1.0),
        ("generated", True, 0.01),
        ("validated", True, 1.0),
        ("validated, one nonce recomputed", True, 1.0),
    ):
        found = sizes(kind, has_vectors=has_vectors, valid_rate=rate)
        yield {
            "what": "body",
            "kind": kind,
            "vectors": has_vectors,
            "rate": rate,
            "fixed": round(found.fixed),
            "each": round(found.each, 2),
            **{f"bytes of {n}": round(found.of(n)) for n in (FORWARD, 109, 1_000, 5_000)},
            "most nonces": found.most(MAX_BODY_BYTES),
        }


def asked(costs: Costs) -> Iterator[dict[str, Any]]:
    """Simulate a round of the whole network with ample parts, for several ways to deliver."""
    for interval, rate, has_vectors in (
        *((interval, 1.0, True) for interval in INTERVALS.values()),
        (5.0, 1.0, False),
        (5.0, 0.1, True),
        (5.0, 0.01, True),
        (60.0, 0.01, True),
    ):
        # A node delivers one batch at a time: small ones leave it little time for each.
        exchange = 0.02 if interval < 0.1 else 0.05
        made = network(
            costs,
            interval=interval,
            valid_rate=rate,
            has_vectors=has_vectors,
            rounds=1,
            exchange=exchange,
            # What is asked once: repetitions are a matter of what there is to serve it.
            timeout=math.inf,
        )
        ran = simulated(made)
        assert ran.ended is not None
        assert not ran.repeated
        seconds = made.round_seconds
        yield {
            "what": "asked",
            "nodes": made.nodes,
            "rate": rate,
            "vectors": has_vectors,
            "interval": round(interval, 3),
            "nonces of a delivery": round(made.batch),
            "deliveries/s": round(ran.stored / seconds),
            "bytes/s": round(ran.bytes_stored / seconds),
            "bytes a day": round(ran.bytes_stored / seconds * 86_400),
            "rows a round": made.rows_of_round,
            "outbox holds, h": round(_OUTBOX_BYTES * made.nodes * seconds / ran.bytes_stored / 3600, 1),
            "receivers": round(ran.busy["receivers"] / seconds, 2),
            "database cores": round(ran.busy["databases"] / seconds, 2),
            "sample": made.sample,
            "drawn": made.drawn,
            "verifier-seconds a round": round(ran.busy["verifiers"]),
            "verifiers": round(ran.busy["verifiers"] / seconds, 2),
            "share of the network": ran.busy["verifiers"] / seconds / made.nodes,
            **ran.as_row(),
        }


def saturations(costs: Costs) -> Iterator[dict[str, Any]]:
    """Say from how many nodes on one of each part is too little, and simulate loads of the first of them."""
    one = network(costs, receivers=Part(1, costs.receiver), databases=Part(1, costs.database), verifiers=1)
    nodes = {name: NODES / load for name, load in one.loads.items()}
    for name, most in sorted(nodes.items(), key=lambda item: item[1]):
        yield {"what": "saturation", "part": name, "nodes": math.floor(most)}
    first = min(nodes.values())
    for share in (0.9, OVER, 3.0):
        made = replace(one, nodes=round(first * share))
        yield {"what": "load", "of what it takes": share, "nodes": made.nodes, **simulated(made).as_row()}


Measure = tuple[str, Callable[[Ran], float]]

WAITING: Final[Measure] = ("batches waiting", lambda ran: ran.waiting[-1])
"""At the end of the last round."""

UNVERIFIED: Final[Measure] = ("provers without a verdict", lambda ran: ran.samples - ran.verdicts)
"""When they have had as much time as the rounds took."""

MOST_WAITING: Final[Measure] = ("most batches waiting", lambda ran: ran.most_waiting)
MOST_KEPT: Final[Measure] = ("most GB kept", lambda ran: ran.most_bytes_kept / 1e9)


@dataclass(frozen=True, slots=True)
class Remedy:
    """What is done about a part that has too much to do.

    Attributes:
        part: Which.
        change: What is done.
        measure: By what it is told.
        before: The network as it is.
        after: With the change.
    """

    part: str
    change: str
    measure: Measure
    before: Network
    after: Network

    def rows(self) -> Iterator[dict[str, Any]]:
        """Simulate it before and after, and say both in short."""
        name, measure = self.measure
        found = {"before": self.before, "after": self.after}
        ran = {when: simulated(made) for when, made in found.items()}
        for when, made in found.items():
            yield {
                "what": "remedy",
                "part": self.part,
                "change": self.change,
                "when": when,
                "nodes": made.nodes,
                **{f"load of {part}": round(load, 4) for part, load in made.loads.items()},
                **ran[when].as_row(),
            }
        yield {
            "what": "in short",
            "part": self.part,
            "change": self.change,
            "nodes": self.before.nodes,
            **{f"load {when}": found[when].loads.get(self.part) for when in found},
            "measure": name,
            **{when: round(measure(ran[when]), 2) for when in found},
            **{f"lag {when}": ran[when].lag(0.99) for when in found},
        }


def remedies(costs: Costs) -> Iterator[Remedy]:
    """Networks in which one part has more to do than it can, before and after something is done about it."""

    def too_large(part: str, over: float = OVER, **settings: Any) -> Network:
        """As many nodes as are too many for one of a part, and ample others."""
        made = network(costs, **settings, **_one_of(part, costs))
        return network(costs, round(over * made.nodes / made.loads[part]), **settings, **_one_of(part, costs))

    two_receivers = Part(2, costs.receiver)
    of_forward, of_second, of_body = (INTERVALS[nonces] for nonces in (32, 1_000, 13_636))
    fewer: dict[str, Any] = {
        "valid_rate": 0.1,
        "bodies": sizes("generated", valid_rate=0.1),
        "sample": sample(16, 0.1),
    }

    sender = network(costs, 100, interval=of_forward)
    yield Remedy("nodes", "1,000 nonces a delivery, not 32", WAITING, sender, replace(sender, interval=1.0))

    small = too_large("receivers", interval=of_forward, exchange=0.02)
    for interval, words in ((of_second, "1,000 nonces a delivery, not 32"), (5.0, "5,000, not 32")):
        yield Remedy("receivers", words, WAITING, small, replace(small, interval=interval))
    full = too_large("receivers")
    for words, after in (
        ("13,636, not 5,000", replace(full, interval=of_body)),
        ("two receivers", replace(full, receivers=two_receivers)),
        ("a valid rate of 0.1", replace(full, **fewer)),
    ):
        yield Remedy("receivers", words, WAITING, full, after)
    away = replace(too_large("receivers", 0.6), outages=(Outage(60.0, 60.0, 1),))
    yield Remedy(
        "receivers",
        "two, when one is away for a minute",
        MOST_WAITING,
        away,
        replace(away, receivers=two_receivers),
    )
    storm = too_large("receivers", 3.0)
    together = too_large("receivers", 0.6, interval=60.0, valid_rate=0.01)
    patient = "`callback_timeout` of 60 s, not 10"
    yield Remedy("receivers", f"{patient}, at three times", WAITING, storm, replace(storm, timeout=60.0))
    for words, after in (
        (f"{patient}, all deliver at once", replace(together, timeout=60.0)),
        ("nodes that begin within 60 s, not 2", replace(together, start_spread=60.0)),
    ):
        yield Remedy("receivers", words, WAITING, together, after)

    database = too_large("databases")
    for words, after in (
        ("two cores", replace(database, databases=Part(2, costs.database))),
        ("a valid rate of 0.1", replace(database, **fewer)),
    ):
        yield Remedy("databases", words, WAITING, database, after)
    kept = network(costs, 100)
    yield Remedy(
        "disk", "bodies dropped after the verdict", MOST_KEPT, kept, replace(kept, drops_bodies=True)
    )

    of_each = too_large("verifiers", interval=of_forward, exchange=0.02)
    yield Remedy(
        "verifiers", "5,000 nonces a delivery, not 32", UNVERIFIED, of_each, replace(of_each, interval=5.0)
    )
    sampled = too_large("verifiers")
    pooled = replace(sampled, of_each_batch=False)
    for words, after in (
        ("a sample of the round, not of each batch", pooled),
        ("one nonce after the other", replace(pooled, sample=until_cleared())),
        ("one round of two", replace(sampled, one_round_of=2, drain=600.0)),
        ("two verifiers", replace(sampled, verifiers=2)),
    ):
        yield Remedy("verifiers", words, UNVERIFIED, sampled, after)


def _one_of(part: str, costs: Costs) -> dict[str, Any]:
    one: dict[str, dict[str, Any]] = {
        "receivers": {"receivers": Part(1, costs.receiver)},
        "databases": {"databases": Part(1, costs.database)},
        "verifiers": {"verifiers": 1},
    }
    return one[part]


def plans(costs: Costs) -> Iterator[dict[str, Any]]:
    """Simulate the whole network on parts at work for 70 % of the time; one receiver is away for a minute."""
    few: dict[str, Any] = {"valid_rate": 0.01}
    rare: dict[str, Any] = {**few, "interval": 60.0}
    ways: tuple[tuple[str, dict[str, Any]], ...] = (
        ("every nonce, 5 s", {}),
        ("a hundredth, 5 s", few),
        ("a hundredth, 60 s", rare),
        ("that, `callback_timeout` 60 s", {**rare, "timeout": 60.0}),
        (
            "that, one round of four verified",
            {**rare, "timeout": 60.0, "one_round_of": 4, "rounds": 4, "drain": 1_200.0},
        ),
    )
    for words, settings in ways:
        made = network(costs, **settings)
        needed = {
            "receivers": max(2, math.ceil(made.loads["receivers"] * made.receivers.count / AT_WORK)),
            "databases": math.ceil(made.loads["databases"] * made.databases.count / AT_WORK),
            "verifiers": math.ceil(made.loads["verifiers"] * made.verifiers / AT_WORK),
        }
        made = replace(
            made,
            receivers=Part(needed["receivers"], costs.receiver),
            databases=Part(needed["databases"], costs.database),
            verifiers=needed["verifiers"],
            outages=(Outage(60.0, 60.0, 1),),
        )
        ran = simulated(made)
        yield {
            "what": "plan",
            "settings": words,
            "nodes": made.nodes,
            "receivers": needed["receivers"],
            "database cores": needed["databases"],
            "verifiers": needed["verifiers"],
            "bytes/s": round(ran.bytes_stored / ran.seconds),
            "waiting": ran.waiting[-1],
            "without a verdict": ran.samples - ran.verdicts,
            **ran.as_row(),
        }


def stated_or_measured(arguments: argparse.Namespace) -> Costs:
    """Return the costs that options state, else those of the newest results.

    Raises:
        SystemExit: Neither is there.
    """
    stated = arguments.receiver_cost, arguments.database_cost
    if all(stated):
        receiver, database = (Cost(*(milliseconds / 1e3 for milliseconds in pair)) for pair in stated)
        return Costs(receiver, database, "stated")
    found = sorted(RESULTS.glob("receiver-*.json"), key=lambda path: path.stem[-10:])
    if any(stated) or not found:
        raise SystemExit("state --receiver-cost and --database-cost, or run bench/receiver.py first")
    return Costs.measured(found[-1])


def main() -> None:
    """Simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    for part in ("receiver", "database"):
        parser.add_argument(
            f"--{part}-cost",
            nargs=2,
            type=float,
            metavar=("BATCH", "NONCE"),
            help=f"milliseconds of a {part}'s core for a batch, and for each nonce; by default as measured",
        )
    parser.add_argument("--no-results", action="store_true", help="write no file")
    arguments = parser.parse_args()
    costs = stated_or_measured(arguments)
    parts = [
        [*rows]
        for rows in (
            bodies(),
            asked(costs),
            saturations(costs),
            (row for remedy in remedies(costs) for row in remedy.rows()),
            plans(costs),
        )
    ]
    for rows in parts:
        print_table([_short(row) for row in rows])
        print()
    if arguments.no_results:
        return
    write_results(
        "network",
        "cpu",
        about=(
            f"A simulated network of {NODES:,} nodes that compute 1,000 nonces/s each, in rounds of 300 s: "
            "bodies, what is asked of receivers, database and verifiers, when one of each is too little, and "
            f"what remedies do at {OVER:g} times what a part can take. The sample convicts a cheat of "
            f"{CHEAT.error:g} s at sigma {SIGMA:g} s and {THRESHOLD:g} with a power of {POWER:.0%}. Times: s."
        ),
        rows=[row for rows in parts for row in rows],
        packages=("numpy", "scipy", "hallmark-poc"),
        costs=asdict(costs),
    )


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "what"}


if __name__ == "__main__":
    main()
