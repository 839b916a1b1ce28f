"""Simulated walks of a prover, judged by the product: what it convicts, for which reason, after how many.

Computed distances follow the law; a rule, which is the cheater's way to cheat, makes reports of them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from _judging import judge_distances

from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.judge import ValidatedBatch

Floats = npt.NDArray[np.float64]
Rule = Callable[[Floats, np.random.Generator], Floats]
"""From the distances that an honest prover would report, in its own noise, to those that a cheater reports.

NaN is a nonce that is not reported, though it is walked.
"""


@dataclass(frozen=True, slots=True)
class Conviction:
    """How much a prover has to send until it is convicted with the wanted power.

    Attributes:
        walked: For each threshold the least number of walked nonces on the grid with which enough batches are
            convicted; None: the grid ends before.
        spoke: The test whose p-value was least most often at the last size that was tried.
    """

    walked: Mapping[float, int | None]
    spoke: str


def from_law(round_: Round, count: int, draw: np.random.Generator) -> Floats:
    """Distances by the law, [count]."""
    shape = (round_.hidden_size - 1) / 2
    return np.asarray(2 * np.sqrt(draw.beta(shape, shape, count)))


def noisy(distances: Floats, round_: Round, sigma: float, draw: np.random.Generator) -> Floats:
    """Distances as another platform finds them; σ in units of s."""
    return distances + sigma * round_.distance_std * draw.standard_normal(len(distances))


def judged_walk(
    round_: Round, rule: Rule, walked: int, sigma: float, draw: np.random.Generator, *, tells_coverage: bool
) -> ValidatedBatch | None:
    """Return the verdict on one batch of a walk; None where nothing is reported.

    Args:
        round_: The round.
        rule: How the prover reports.
        walked: Nonces of the walk, 0 to walked − 1.
        sigma: Honest noise between the two platforms, in units of s.
        draw: Where randomness comes from.
        tells_coverage: Whether the batch says what it covers, without which there is no test of density.
    """
    computed = from_law(round_, walked, draw)
    reported = rule(noisy(computed, round_, sigma, draw), draw)
    claimed = np.flatnonzero(
        np.isfinite(reported) & ((reported < round_.r_target) | round_.every_nonce_counts)
    )
    if not len(claimed):
        return None
    more: dict[str, Any] = {"covered": (0, walked - 1)} if tells_coverage else {}
    received = np.clip(reported[claimed], 0.0, 2.0)
    return judge_distances(round_, claimed.tolist(), received, dict(enumerate(computed)), **more)


def conviction(
    round_: Round,
    rule: Rule,
    thresholds: Sequence[float],
    sigma: float,
    *,
    tells_coverage: bool = True,
    sizes: Sequence[int],
    batches: int,
    power: float = 0.9,
) -> Conviction:
    """Find with how many walked nonces a rule is convicted, batch by batch, none of them pooled.

    Args:
        round_: The round; its own threshold does not matter.
        rule: How the prover reports.
        thresholds: For the combined p-value.
        sigma: Honest noise in units of s.
        tells_coverage: As in `judged_walk`.
        sizes: The grid, increasing.
        batches: How many of each size are judged.
        power: The share of them to be convicted.
    """
    walked: dict[float, int | None] = dict.fromkeys(thresholds)
    spoke: Counter[str] = Counter()
    for size in sizes:
        draw = np.random.default_rng(size)
        judged = [
            judged_walk(round_, rule, size, sigma, draw, tells_coverage=tells_coverage)
            for _ in range(batches)
        ]
        verdicts = [one for one in judged if one is not None]
        spoke = Counter(min(one.tests, key=one.tests.__getitem__) for one in verdicts)
        for threshold in thresholds:
            convicted = sum(one.probability_honest < threshold for one in verdicts)
            if walked[threshold] is None and convicted >= power * batches:
                walked[threshold] = size
        if None not in walked.values():
            break
    return Conviction(walked, spoke.most_common(1)[0][0] if spoke else "")


def shaved(by: float, round_: Round) -> Rule:
    """Report every distance lower by so much, in units of s."""
    return lambda honest, _: honest - by * round_.distance_std


def shaved_where_it_pays(by: float, round_: Round) -> Rule:
    """Lower only the distances that do not count and so come to count, by at most so much, in units of s.

    They are put just below r_target, spread over a twentieth of s, since equal claims would be seen.
    """

    def rule(honest: Floats, draw: np.random.Generator) -> Floats:
        spread = 0.05 * round_.distance_std * draw.random(len(honest)) + 1e-12
        above = honest - round_.r_target
        pays = (above >= 0) & (above + spread < by * round_.distance_std)
        return np.where(pays, round_.r_target - spread, honest)

    return rule


def forged(share: float) -> Rule:
    """Report √2, the likeliest distance, for a share of the nonces that were never computed."""
    return lambda honest, draw: np.where(draw.random(len(honest)) < share, np.sqrt(2.0), honest)


def noisier(error: float, round_: Round) -> Rule:
    """Report what a model reports that is off by a normal error, in units of s."""
    return lambda honest, draw: noisy(honest, round_, error, draw)


def doubling(first: int, most: int) -> Iterator[int]:
    """Yield first, 2·first, 4·first and so on, up to `most`."""
    n = first
    while n <= most:
        yield n
        n *= 2
