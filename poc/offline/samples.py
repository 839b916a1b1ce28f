"""Which nonces are recomputed so that a stated cheat is convicted with a stated probability."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from hallmark.poc.core.errors import FieldError
from hallmark.poc.offline.cases import JudgedCase, apart
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.cheat import Allowance, Cheat
from hallmark.poc.verdict.clearing import check_power
from hallmark.poc.verdict.power import MAX_NONCES, nonces_needed
from hallmark.poc.verdict.sampling import draw_sample, drawing_order

__all__ = ["ProverSample", "Search", "drawn", "sampled_for_power"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is looked for, and how surely.

    Attributes:
        cheat: The cheat.
        power: The probability with which a prover that cheats like that is convicted, or is not cleared.
        seed: What the order of nonces depends on, nothing that provers could know.

    Raises:
        FieldError: The power is out of its range.
    """

    cheat: Cheat
    power: float
    seed: str

    def __post_init__(self) -> None:
        check_power(self.power)

    def as_dict(self) -> dict[str, Any]:
        """Return what is looked for, as JSON has it."""
        return {
            "seed": self.seed,
            "cheat": self.cheat.error,
            "cheat_share": self.cheat.share,
            "power": self.power,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ProverSample:
    """How many nonces of a prover and round were drawn.

    Attributes:
        public_key: The prover's.
        block_hash: The round's.
        needed: As many convict the cheat with the stated probability.
        drawn: As many were drawn: at least one of each batch, and all where there are too few. Where only
            some batches have vectors, at least as many of these as they need by themselves.
        claimed: Distinct nonces that the prover claims.
    """

    public_key: str
    block_hash: str
    needed: int
    drawn: int
    claimed: int

    @property
    def is_enough(self) -> bool:
        """Whether the stated probability is reached."""
        return self.drawn >= self.needed

    def as_dict(self) -> dict[str, Any]:
        """Return the sample as JSON has it."""
        return {**asdict(self), "power_reached": self.is_enough}


def drawn(
    cases: Iterable[JudgedCase], seed: str, *, count: int | None = None, search: Search | None = None
) -> tuple[list[JudgedCase], dict[str, Any] | None]:
    """Draw the nonces that are recomputed: as many as find a cheat, so many of each batch, or all.

    Args:
        cases: Batches, each with its round, or with the reason why it is not judged.
        seed: What the draw depends on, nothing that provers could know.
        count: How many of each batch.
        search: What is looked for; its seed is the same.

    Returns:
        The batches with the nonces that were drawn, and what is said of the draw; None: all were.
    """
    if search is not None:
        found, samples = sampled_for_power(cases, search)
        return found, {**search.as_dict(), "provers": [sample.as_dict() for sample in samples]}
    if count is None:
        return [*cases], None
    found = [replace(case, nonces=draw_sample(case.proof, count, seed)) for case in cases]
    return found, {"nonces": count, "seed": seed}


def sampled_for_power(
    cases: Iterable[JudgedCase], search: Search
) -> tuple[list[JudgedCase], list[ProverSample]]:
    """Draw so many nonces of each prover and round that its batches together have the stated power.

    They are the nonces with the smallest hashes over all batches of the prover and round, and the one with
    the smallest of each batch, so that each has a verdict; that one is not in the sample of all together,
    which would else have more of small batches than of large ones.

    Where some batches have no vectors all are judged together by number 0, and those with vectors by
    themselves as well: there are as many as the first takes, and of those with vectors as many as the second
    does. Where number 0 does not find the cheat, below rate 1 never, batches without vectors are refused, and
    the others judged as if there were no more: a forger would else send one such batch.

    Args:
        cases: Batches, each with its round, or with the reason why it is not judged.
        search: What is looked for.

    Returns:
        The batches with the nonces that were drawn, or refused where the cheat cannot be found in their
        round; and how many were drawn.
    """
    found = [*cases]
    groups: defaultdict[Round, list[int]] = defaultdict(list)
    for place, case in enumerate(found):
        if case.round is not None:
            groups[case.round].append(place)

    @cache
    def needed_of(allowance: Allowance) -> int | None:
        return nonces_needed(search.cheat, allowance, power=search.power)

    samples = []
    for round_, places in groups.items():
        new, sample = _of_prover(round_, [found[place] for place in places], search, needed_of)
        if sample is not None:
            samples.append(sample)
        for place, case in zip(places, new, strict=True):
            found[place] = case
    return found, samples


def _of_prover(
    round_: Round, group: Sequence[JudgedCase], search: Search, needed_of: Callable[[Allowance], int | None]
) -> tuple[list[JudgedCase], ProverSample | None]:
    """Return the batches of a prover with the nonces that are drawn, or refused."""
    brought, without = apart(group)
    is_mixed = bool(without) and any(case.proof.nonces for case in brought)
    of_brought = 0
    try:
        needed = _checked(needed_of(Allowance.of_round(round_, has_vectors=not without)), search)
        if is_mixed:
            of_brought = needed_of(Allowance.of_round(round_)) or 0
    except FieldError as exc:
        if not is_mixed:
            return [replace(case, round=None, error=exc) for case in group], None
        drawn, sample = _of_prover(round_, brought, search, needed_of)
        of_case = dict(zip(map(id, brought), drawn, strict=True))
        return [of_case.get(id(case)) or replace(case, round=None, error=exc) for case in group], sample
    return _sampled(round_, group, needed, brought, of_brought, search.seed)


def _sampled(
    round_: Round,
    group: Sequence[JudgedCase],
    needed: int,
    brought: Sequence[JudgedCase],
    of_brought: int,
    seed: str,
) -> tuple[list[JudgedCase], ProverSample]:
    """Draw as many nonces of all batches, as many of those that brought vectors, and one of each."""
    block_hash, public_key = round_.config.block_hash, round_.config.public_key

    def order(cases: Iterable[JudgedCase]) -> Sequence[int]:
        return drawing_order((n for case in cases for n in case.nonces), seed, block_hash, public_key)

    claimed = order(group)
    together = set(claimed[:needed])
    chosen = together.union(order(brought)[:of_brought])
    for case in group:
        chosen.update(draw_sample(case.proof, 1, seed))
    drawn = [
        replace(
            case,
            nonces=tuple(nonce for nonce in case.nonces if nonce in chosen),
            not_together=frozenset(chosen.intersection(case.nonces) - together),
        )
        for case in group
    ]
    sample = ProverSample(
        public_key=public_key,
        block_hash=block_hash,
        needed=needed,
        drawn=len(chosen),
        claimed=len(claimed),
    )
    return drawn, sample


def _checked(needed: int | None, search: Search) -> int:
    """Refuse a cheat that no number of nonces finds."""
    if needed is None:
        raise FieldError(
            "cheat",
            search.cheat.error,
            f"a cheat that {MAX_NONCES:,} nonces convict with a probability of {search.power:g}; with a "
            f"share of {search.cheat.share:g} they do not convict this one; calibrate a smaller sigma",
        )
    return needed
