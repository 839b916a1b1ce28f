"""A network of provers in steps of time: deliveries, receivers, databases, verification, verdicts.

**Nodes.** Each merges a batch every interval of the round, a little late at random, and delivers its batches
in order, one at a time. A delivery that fails, or has no answer in time, is made again after the wait of the
server's own `backoff`. All nodes begin the round within a few seconds, since a block begins it.

**Receivers** stand behind one address and share one line of requests. One that ends takes its share of the
line with it; what it has stored last is stored, but not acknowledged. Whoever gave up waiting stays in the
line: a receiver does not know. **Databases** have a share of the provers each. A batch costs both of them
time, so much for itself and so much for each nonce.

**Verification** draws a sample of a prover once its round is delivered, and packs samples of all provers into
batches. **Verdicts** go to the receivers, ahead of deliveries, and cost as a batch of the sample does.

The steps are as long as one exchange of a node with a receiver: what takes less is not told apart.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from _network_bodies import FORWARD, BodySizes

from hallmark.poc.settings.settings import Settings

__all__ = ["Cost", "Network", "Outage", "Part", "Ran", "simulate"]

_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]
_SETTINGS: Final = Settings()
_LONGEST_LAG: Final = 100_000


@dataclass(frozen=True, slots=True)
class Cost:
    """What a batch costs one receiver or one database: ``batch + nonce·n`` seconds with n nonces.

    Attributes:
        batch: Seconds of the batch itself.
        nonce: Seconds of each of its nonces.
    """

    batch: float
    nonce: float

    def of(self, n_nonces: float) -> float:
        """Return seconds of a batch of so many nonces."""
        return self.batch + self.nonce * n_nonces


@dataclass(frozen=True, slots=True)
class Part:
    """Receivers, or databases.

    Attributes:
        count: How many.
        cost: Of a batch, for one of them.
    """

    count: int
    cost: Cost


@dataclass(frozen=True, slots=True)
class Outage:
    """Receivers that are away.

    Attributes:
        begin: When they end, in seconds.
        seconds: For how long.
        receivers: How many.
    """

    begin: float
    seconds: float
    receivers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network and what serves it.

    Attributes:
        nodes: How many provers, of one node each.
        nonces_per_second: That each computes.
        valid_rate: The share of them that counts and is delivered.
        interval: Seconds between two deliveries of a node.
        bodies: How long a delivery is.
        verdicts: How long a verdict is.
        receivers: Behind the one address.
        databases: Each with its share of the provers.
        sample: Nonces that are recomputed of a prover and round.
        of_each_batch: Whether at least one of each batch is, as `hallmark verify --power` does.
        one_round_of: Of so many rounds one is verified, drawn after the last of them.
        verifiers: How many.
        verifier_rate: Nonces a second that each recomputes; as many as a node computes, on the same GPU.
        drops_bodies: Whether bodies of a round that has its verdict are deleted.
        round_seconds: Length of a round; the next one follows at once.
        rounds: How many there are.
        start_spread: Seconds within which nodes begin a round.
        jitter: Share of the interval by which a batch may be late.
        exchange: Seconds that a node takes for one delivery at least; the length of a step.
        timeout: Seconds after which a node gives an attempt up.
        outages: Of receivers.
        drain: For so many seconds what is left is worked off after the last round.
        seed: Of all that is drawn.
    """

    nodes: int
    bodies: BodySizes
    verdicts: BodySizes
    receivers: Part
    databases: Part
    sample: int
    verifiers: int
    nonces_per_second: float = 1_000.0
    valid_rate: float = 1.0
    interval: float = _SETTINGS.callback_interval
    of_each_batch: bool = True
    one_round_of: int = 1
    verifier_rate: float = 1_000.0
    drops_bodies: bool = False
    round_seconds: float = 300.0
    rounds: int = 2
    start_spread: float = 2.0
    jitter: float = 0.02
    exchange: float = 0.05
    timeout: float = _SETTINGS.callback_timeout
    outages: tuple[Outage, ...] = ()
    drain: float = 300.0
    seed: int = 0

    @property
    def batches_of_round(self) -> int:
        """Deliveries of a node in a round."""
        return max(1, round(self.round_seconds / self.interval))

    @property
    def batch(self) -> float:
        """Nonces of a delivery."""
        return self.claimed / self.batches_of_round

    @property
    def claimed(self) -> float:
        """Nonces that a node delivers in a round."""
        return self.nonces_per_second * self.valid_rate * self.round_seconds

    @property
    def drawn(self) -> int:
        """Nonces that are recomputed of a prover whose round is verified.

        The smallest hashes of all, and of each batch that none of them is in one more.
        """
        needed = min(self.sample, math.floor(self.claimed))
        if not self.of_each_batch:
            return needed
        missed = self.batches_of_round * (1.0 - 1.0 / self.batches_of_round) ** needed
        return min(needed + round(missed), math.floor(self.claimed))

    @property
    def rows_of_round(self) -> int:
        """Rows that a database has more after a round: batches, verdicts, and each judged nonce once."""
        of_verdicts = self.nodes / self.one_round_of * (2 + self.drawn)
        return round(self.nodes * self.batches_of_round + of_verdicts)

    @property
    def loads(self) -> dict[str, float]:
        """Seconds of work that the network makes for each part, in each second, over those it has."""
        seconds = self.round_seconds
        batches = self.nodes * self.batches_of_round / seconds
        verdicts = self.nodes / self.one_round_of / seconds
        return {
            **{
                name: (batches * part.cost.of(self.batch) + verdicts * part.cost.of(self.drawn)) / part.count
                for name, part in (("receivers", self.receivers), ("databases", self.databases))
            },
            "verifiers": verdicts * self.drawn / (self.verifier_rate * self.verifiers),
        }


@dataclass(kw_only=True)
class Ran:
    """What became of a network.

    Attributes:
        made: Batches that nodes have merged.
        stored: Batches that are stored, each once.
        acknowledged: Batches whose nodes know it.
        repeated: Deliveries of what was stored already.
        failed: Attempts that were refused, or had no answer in time.
        rounds_delivered: Rounds of nodes that are stored as a whole.
        samples: Rounds of nodes that were drawn to be verified.
        verdicts: Of them, those whose verdict is stored.
        recomputed: Nonces that verifiers have recomputed, those that fill up a last batch included.
        judged: Nonces of samples.
        bytes_stored: Of bodies.
        bytes_kept: Of bodies that are there at the end.
        most_bytes_kept: The most of it.
        waiting: Batches that are not stored, at the end of each round.
        unverified: Samples without a verdict, at the end of each round.
        most_waiting: The most batches that were not stored.
        most_in_outbox: The most of one node.
        busy: Seconds that all receivers, all databases and all verifiers have worked.
        seconds: Length of all rounds.
        ended: When nothing was left; None where something is.
        lags: How many batches were stored so many steps after they were merged.
        verdict_lags: Seconds from a round's end to verdicts of it.
        step: Length of a step, in seconds.
    """

    made: int = 0
    stored: int = 0
    acknowledged: int = 0
    repeated: int = 0
    failed: int = 0
    rounds_delivered: int = 0
    samples: int = 0
    verdicts: int = 0
    recomputed: int = 0
    judged: int = 0
    bytes_stored: float = 0.0
    bytes_kept: float = 0.0
    most_bytes_kept: float = 0.0
    waiting: list[int] = field(default_factory=list)
    unverified: list[int] = field(default_factory=list)
    most_waiting: int = 0
    most_in_outbox: int = 0
    busy: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("receivers", "databases", "verifiers"), 0.0)
    )
    seconds: float = 0.0
    ended: float | None = None
    lags: _Integers = field(default_factory=lambda: np.zeros(_LONGEST_LAG, np.int64))
    verdict_lags: list[float] = field(default_factory=list)
    step: float = 0.05

    def lag(self, share: float) -> float | None:
        """Return seconds from a batch's merge until it is stored, which a share of those stored keeps."""
        total = int(self.lags.sum())
        if not total:
            return None
        return round(float(np.searchsorted(np.cumsum(self.lags), share * total)) * self.step, 2)

    def as_row(self) -> Mapping[str, Any]:
        """Return what a results file has of it."""
        return {
            "batches made": self.made,
            "batches stored": self.stored,
            "repeated deliveries": self.repeated,
            "failed attempts": self.failed,
            "verdicts": self.verdicts,
            "samples": self.samples,
            "judged": self.judged,
            "recomputed": self.recomputed,
            "bytes stored": round(self.bytes_stored),
            "most bytes kept": round(self.most_bytes_kept),
            "bytes kept": round(self.bytes_kept),
            "waiting at each round's end": self.waiting,
            "unverified at each round's end": self.unverified,
            "most waiting": self.most_waiting,
            "most in an outbox": self.most_in_outbox,
            **{f"{name}' seconds": round(seconds, 3) for name, seconds in self.busy.items()},
            "lag, median s": self.lag(0.5),
            "lag, 99 % s": self.lag(0.99),
            "verdict after round, 99 % s": (
                round(float(np.quantile(self.verdict_lags, 0.99)), 2) if self.verdict_lags else None
            ),
            "ended after last round, s": None if self.ended is None else round(self.ended - self.seconds, 2),
        }


class _Line:
    """Requests that receivers have still to answer, first come, first served."""

    def __init__(self) -> None:
        self._nodes = np.empty(0, np.int64)
        self._sent = np.empty(0)
        self._numbers = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, nodes: _Integers, numbers: _Integers, now: float) -> None:
        """Put requests at the end."""
        self._nodes = np.concatenate([self._nodes, nodes])
        self._numbers = np.concatenate([self._numbers, numbers])
        self._sent = np.concatenate([self._sent, np.full(len(nodes), now)])

    def take(self, count: int) -> tuple[_Integers, _Integers, _Floats]:
        """Take so many from the front: node, number of its batch, when it was sent."""
        taken = self._nodes[:count], self._numbers[:count], self._sent[:count]
        self._nodes, self._numbers, self._sent = (
            self._nodes[count:],
            self._numbers[count:],
            self._sent[count:],
        )
        return taken

    def lose(self, is_lost: npt.NDArray[np.bool_]) -> tuple[_Integers, _Floats]:
        """Take those out that are lost: node, when it was sent."""
        lost = self._nodes[is_lost], self._sent[is_lost]
        kept = ~is_lost
        self._nodes, self._numbers, self._sent = self._nodes[kept], self._numbers[kept], self._sent[kept]
        return lost


class _Nodes:
    """What nodes have merged, sent and know to be delivered."""

    def __init__(self, network: Network, rng: np.random.Generator) -> None:
        count = network.nodes
        self._network = network
        self._rng = rng
        self.starts = rng.uniform(0.0, network.start_spread, count)
        self.made = np.zeros(count, np.int64)
        self.acknowledged = np.zeros(count, np.int64)
        self.sent_at = np.full(count, -1.0)
        self._is_waiting = np.zeros(count, np.bool_)
        self._attempts = np.zeros(count, np.int64)
        self._retry_at = np.zeros(count)
        self._most = network.batches_of_round * network.rounds
        self._next = self._due(np.arange(count))

    def due(self, nodes: _Integers, numbers: _Integers) -> _Floats:
        """When batches are merged, if none is late."""
        network = self._network
        rounds, places = np.divmod(numbers, network.batches_of_round)
        into = (places + 1) * (network.round_seconds / network.batches_of_round)
        return np.asarray(self.starts[nodes] + rounds * network.round_seconds + into)

    def _due(self, nodes: _Integers) -> _Floats:
        late = self._rng.uniform(0.0, self._network.jitter * self._network.interval, len(nodes))
        return self.due(nodes, self.made[nodes]) + late

    def merge(self, now: float) -> int:
        """Merge what is due; return how many batches."""
        merged = 0
        while True:
            [ready] = np.nonzero((self._next <= now) & (self.made < self._most))
            if not ready.size:
                return merged
            merged += ready.size
            self.made[ready] += 1
            self._next[ready] = self._due(ready)

    def send(self, now: float) -> _Integers:
        """Send the oldest of each node that may: its nodes, in no order."""
        [free] = np.nonzero(~self._is_waiting & (self.made > self.acknowledged) & (self._retry_at <= now))
        self._is_waiting[free] = True
        self.sent_at[free] = now
        return self._rng.permutation(free)

    def answer(self, nodes: _Integers, sent: _Floats) -> int:
        """Tell nodes that wait for it that a batch is stored; return how many did."""
        waited = nodes[self._waits(nodes, sent)]
        self.acknowledged[waited] += 1
        self._is_waiting[waited] = False
        self._attempts[waited] = 0
        return len(waited)

    def fail(self, nodes: _Integers, sent: _Floats, now: float) -> int:
        """Tell nodes that wait for it that an attempt failed; return how many did."""
        waited = nodes[self._waits(nodes, sent)]
        self._is_waiting[waited] = False
        self._attempts[waited] += 1
        base, cap = _SETTINGS.callback_backoff_base, _SETTINGS.callback_backoff_cap
        longest = np.minimum(cap, base * 2.0 ** np.minimum(self._attempts[waited], 64))
        self._retry_at[waited] = now + self._rng.uniform(base, longest)
        return len(waited)

    def give_up(self, now: float) -> int:
        """Let attempts fail that have had no answer in time; return how many."""
        [late] = np.nonzero(self._is_waiting & (now - self.sent_at > self._network.timeout))
        return self.fail(late, self.sent_at[late], now)

    def _waits(self, nodes: _Integers, sent: _Floats) -> npt.NDArray[np.bool_]:
        return np.asarray(self._is_waiting[nodes] & (self.sent_at[nodes] == sent))


class _Verification:
    """Samples that are still to be recomputed, and verdicts that are still to be stored."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._ends = np.empty(0, np.int64)
        self._rounds = np.empty(0, np.int64)
        self._expected: dict[int, int] = {}
        self._position = 0
        self._drawn = 0
        self._budget = 0.0
        self.to_store: list[int] = []

    @property
    def left(self) -> int:
        """Samples without a verdict."""
        return len(self._ends) + len(self.to_store)

    def draw(self, rounds: _Integers) -> int:
        """Draw samples of provers whose rounds are delivered; return how many."""
        drawn = self._network.drawn
        ends = self._drawn + drawn * np.arange(1, len(rounds) + 1)
        self._drawn += drawn * len(rounds)
        self._ends = np.concatenate([self._ends, ends])
        self._rounds = np.concatenate([self._rounds, rounds])
        return len(rounds)

    def recompute(self, seconds: float, *, is_last: bool) -> tuple[int, float]:
        """Let verifiers work.

        Args:
            seconds: For so long.
            is_last: Whether nothing more comes that a batch could wait for.

        Returns:
            Nonces that were recomputed, and seconds of one verifier that they took.
        """
        network = self._network
        self._budget += seconds * network.verifiers * network.verifier_rate
        left = self._drawn - self._position
        batches = min(int(self._budget) // FORWARD, left // FORWARD)
        done = batches * FORWARD
        if is_last and left - done and self._budget - done >= FORWARD:
            batches += 1
        self._position = min(self._position + batches * FORWARD, self._drawn)
        self._budget -= batches * FORWARD
        if self._drawn - self._position < FORWARD:
            # Time in which there was nothing to do is gone.
            self._budget = min(self._budget, float(FORWARD))
        finished = int(np.searchsorted(self._ends, self._position, side="right"))
        self.to_store.extend(self._rounds[:finished].tolist())
        self._ends, self._rounds = self._ends[finished:], self._rounds[finished:]
        return batches * FORWARD, batches * FORWARD / network.verifier_rate


def simulate(network: Network) -> Ran:
    """Let a network run for its rounds, and then until nothing is left or for as long as it may.

    Args:
        network: The network.
    """
    rng = np.random.default_rng(network.seed)
    return _Simulation(network, rng).run()


class _Simulation:
    """One run of a network."""

    def __init__(self, network: Network, rng: np.random.Generator) -> None:
        self._network = network
        self._rng = rng
        self._nodes = _Nodes(network, rng)
        self._line = _Line()
        self._verification = _Verification(network)
        self._stored = np.zeros(network.nodes, np.int64)
        self._receiver_budget = self._database_budget = 0.0
        self._up = network.receivers.count
        self._is_killed = False
        self._begins = dict.fromkeys(network.outages, False)
        self.ran = Ran(step=network.exchange, seconds=network.rounds * network.round_seconds)

    def run(self) -> Ran:
        """Run it."""
        network, ran = self._network, self.ran
        steps = math.ceil((ran.seconds + network.drain) / network.exchange)
        round_ends = {
            math.ceil(n * network.round_seconds / network.exchange) for n in _from_1(network.rounds)
        }
        for step in range(steps):
            now = step * network.exchange
            self._step(now)
            waiting = ran.made - ran.stored
            ran.most_waiting = max(ran.most_waiting, waiting)
            if step in round_ends:
                ran.waiting.append(waiting)
                ran.unverified.append(ran.samples - ran.verdicts)
            if step % 50 == 0:
                ran.most_in_outbox = max(
                    ran.most_in_outbox, int((self._nodes.made - self._nodes.acknowledged).max())
                )
            if now > ran.seconds and self._is_over():
                ran.ended = now
                break
        return ran

    def _is_over(self) -> bool:
        network, ran = self._network, self.ran
        everything = network.nodes * network.batches_of_round * network.rounds
        return ran.acknowledged == everything and not self._verification.left

    def _step(self, now: float) -> None:
        ran = self.ran
        self._note_outages(now)
        ran.made += self._nodes.merge(now)
        self._send(now)
        self._spend(now)
        ran.failed += self._nodes.give_up(now)
        everything = self._network.nodes * self._network.batches_of_round * self._network.rounds
        recomputed, seconds = self._verification.recompute(
            self._network.exchange, is_last=ran.stored == everything or not self._is_generating(now)
        )
        ran.recomputed += recomputed
        ran.busy["verifiers"] += seconds

    def _is_generating(self, now: float) -> bool:
        """Return whether more samples of this round may come soon: verifiers wait to fill a batch."""
        return now < self.ran.seconds + self._network.start_spread + 2 * self._network.interval

    def _note_outages(self, now: float) -> None:
        down = 0
        for outage, has_begun in self._begins.items():
            if outage.begin <= now < outage.begin + outage.seconds:
                down += outage.receivers
                if not has_begun:
                    self._begins[outage] = self._is_killed = True
                    share = outage.receivers / self._network.receivers.count
                    nodes, sent = self._line.lose(self._rng.random(len(self._line)) < share)
                    self.ran.failed += self._nodes.fail(nodes, sent, now)
        self._up = max(0, self._network.receivers.count - down)

    def _send(self, now: float) -> None:
        nodes = self._nodes.send(now)
        if not len(nodes):
            return
        if self._up:
            self._line.add(nodes, self._nodes.acknowledged[nodes], now)
        else:
            self.ran.failed += self._nodes.fail(nodes, self._nodes.sent_at[nodes], now)

    def _spend(self, now: float) -> None:
        """Let receivers and databases work for a step: verdicts first, then deliveries."""
        network, ran = self._network, self.ran
        self._receiver_budget += network.exchange * self._up
        self._database_budget += network.exchange * network.databases.count
        self._charge(network.drawn, self._store_verdicts(now))
        count = min(len(self._line), self._affordable(network.batch))
        if count:
            self._charge(network.batch, count)
            self._store(*self._line.take(count), now)
        if not len(self._line) and not self._verification.to_store:
            # Time in which there was nothing to do is gone.
            self._receiver_budget = min(self._receiver_budget, 0.0)
            self._database_budget = min(self._database_budget, 0.0)
        ran.most_bytes_kept = max(ran.most_bytes_kept, ran.bytes_kept)
        self._is_killed = False

    def _affordable(self, n_nonces: float) -> int:
        network = self._network
        return max(
            0,
            min(
                math.floor(self._receiver_budget / network.receivers.cost.of(n_nonces) + 1e-9),
                math.floor(self._database_budget / network.databases.cost.of(n_nonces) + 1e-9),
            ),
        )

    def _charge(self, n_nonces: float, count: int) -> None:
        network, busy = self._network, self.ran.busy
        of_receiver = count * network.receivers.cost.of(n_nonces)
        of_database = count * network.databases.cost.of(n_nonces)
        self._receiver_budget -= of_receiver
        self._database_budget -= of_database
        busy["receivers"] += of_receiver
        busy["databases"] += of_database

    def _store_verdicts(self, now: float) -> int:
        network, ran, verification = self._network, self.ran, self._verification
        count = min(len(verification.to_store), self._affordable(network.drawn))
        stored, verification.to_store = verification.to_store[:count], verification.to_store[count:]
        ran.verdicts += count
        ran.judged += count * network.drawn
        of_verdict = network.verdicts.of(network.drawn)
        ran.bytes_stored += count * of_verdict
        ran.bytes_kept += count * of_verdict
        if network.drops_bodies:
            of_round = network.batches_of_round * network.bodies.of(network.batch)
            ran.bytes_kept -= count * of_round * network.one_round_of
        ran.verdict_lags.extend(now - (number + 1) * network.round_seconds for number in stored)
        return count

    def _store(self, nodes: _Integers, numbers: _Integers, sent: _Floats, now: float) -> None:
        """Store what receivers were asked to, each batch once, and answer."""
        network, ran = self._network, self.ran
        _, first = np.unique(nodes, return_index=True)
        is_first = np.zeros(len(nodes), np.bool_)
        is_first[first] = True
        is_new = is_first & (numbers == self._stored[nodes])
        new = nodes[is_new]
        self._stored[new] += 1
        ran.stored += len(new)
        ran.repeated += len(nodes) - len(new)
        size = len(new) * network.bodies.of(network.batch)
        ran.bytes_stored += size
        ran.bytes_kept += size
        late = np.maximum(0.0, now - self._nodes.due(new, numbers[is_new])) / network.exchange
        places = np.minimum(late.astype(np.int64), _LONGEST_LAG - 1)
        counts = np.bincount(places)
        ran.lags[: len(counts)] += counts
        self._draw(new)
        unanswered = np.zeros(len(nodes), np.bool_)
        if self._is_killed:
            # Stored by one that ended before it could say so.
            unanswered = self._rng.random(len(nodes)) < 1.0 - self._up / network.receivers.count
            ran.failed += self._nodes.fail(nodes[unanswered], sent[unanswered], now)
        ran.acknowledged += self._nodes.answer(nodes[~unanswered], sent[~unanswered])

    def _draw(self, new: _Integers) -> None:
        """Draw samples of those whose round, or last round of several, is delivered now."""
        network, ran = self._network, self.ran
        rounds, left = np.divmod(self._stored[new], network.batches_of_round)
        is_whole = left == 0
        whole, numbers = new[is_whole], rounds[is_whole]
        ran.rounds_delivered += len(whole)
        is_last = numbers % network.one_round_of == 0
        # Lags are from the end of the last round: which of them is verified is drawn only then.
        ran.samples += self._verification.draw(numbers[is_last] - 1)


def _from_1(count: int) -> range:
    return range(1, count + 1)
