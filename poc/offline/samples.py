"""Which nonces are recomputed so that a stated cheat is convicted with a stated probability."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from hallmark.poc.core.errors import FieldError
from hallmark.poc.offline.cases import JudgedCase
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.cheat import Allowance, Cheat
from hallmark.poc.verdict.clearing import check_power
from hallmark.poc.verdict.power import MAX_NONCES, nonces_needed
from hallmark.poc.verdict.sampling import draw_sample, drawing_order

__all__ = ["ProverSample", "Search", "sampled_for_power"]


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
        """What is looked for, as JSON has it."""
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
        drawn: As many were drawn: at least one of each batch, and all where there are too few.
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
        """The sample as JSON has it."""
        return {**asdict(self), "power_reached": self.is_enough}


def sampled_for_power(
    cases: Iterable[JudgedCase], search: Search
) -> tuple[list[JudgedCase], list[ProverSample]]:
    """Draw so many nonces of each prover and round that its batches together have the stated power.

    They are the nonces with the smallest hashes over all batches of the prover and round, and the one with
    the smallest of each batch, so that each has a verdict.

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
        group = [found[place] for place in places]
        try:
            needed = _checked(needed_of(_allowance(round_, group)), search)
        except FieldError as exc:
            new = [replace(case, round=None, error=exc) for case in group]
        else:
            new, sample = _sampled(round_, group, needed, search.seed)
            samples.append(sample)
        for place, case in zip(places, new, strict=True):
            found[place] = case
    return found, samples


def _sampled(
    round_: Round, group: Sequence[JudgedCase], needed: int, seed: str
) -> tuple[list[JudgedCase], ProverSample]:
    block_hash, public_key = round_.config.block_hash, round_.config.public_key
    order = drawing_order((n for case in group for n in case.nonces), seed, block_hash, public_key)
    chosen = set(order[:needed])
    for case in group:
        chosen.update(draw_sample(case.proof, 1, seed))
    drawn = [replace(case, nonces=tuple(nonce for nonce in case.nonces if nonce in chosen)) for case in group]
    sample = ProverSample(
        public_key=public_key,
        block_hash=block_hash,
        needed=needed,
        drawn=len(chosen),
        claimed=len(order),
    )
    return drawn, sample


def _allowance(round_: Round, group: Sequence[JudgedCase]) -> Allowance:
    """What the batches together are judged by: a batch without vectors leaves them number 0."""
    claiming = (case.proof for case in group if case.proof.nonces)
    return Allowance.of_round(round_, has_vectors=all(proof.vectors is not None for proof in claiming))


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
