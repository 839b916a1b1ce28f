"""Recomputing a prover's nonces one after the other until it is convicted or cleared.

Pure logic: what to recompute next, and when to stop. All batches of a prover in a round are one case. Its
nonces are drawn in an order that a seed gives, which the prover could not know when it delivered.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any, Protocol

from hallmark.poc.core.errors import FieldError
from hallmark.poc.offline.cases import JudgedCase, apart, together
from hallmark.poc.offline.samples import Search
from hallmark.poc.protocol.proof import Numerics
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.round_spec import RoundSpec
from hallmark.poc.verdict.cheat import Allowance
from hallmark.poc.verdict.clearing import Clearing
from hallmark.poc.verdict.decision import Claims, Decision, decided
from hallmark.poc.verdict.judge import asks_density, judge
from hallmark.poc.verdict.sampling import drawing_order

__all__ = ["SequentialCases"]


class _Recomputes(Protocol):
    """What recomputes numbers, a `Recomputation`."""

    def want(self, round_: Round, nonces: Iterable[int]) -> None: ...
    def run(self) -> Iterator[int]: ...
    def numbers(self, round_: Round, nonces: Iterable[int]) -> Mapping[int, Sequence[float]]: ...


class _Prover:
    """All batches of one prover in one round; below rate 1 all that have vectors.

    At rate 1 the clearing test asks nothing of how many numbers a nonce is judged by: batches without vectors
    are judged beside the others, by their distances.

    Raises:
        FieldError: The round cannot be judged like this, or the cheat be told from honest noise in it.
    """

    def __init__(self, round_: Round, cases: Sequence[JudgedCase], search: Search) -> None:
        self.round = round_
        self.spec = round_.spec()
        claiming = [case.proof for case in cases if case.proof.nonces]
        has_vectors = all(proof.vectors is not None for proof in claiming)
        clearing = Clearing.of(search.cheat, Allowance.of_round(round_, has_vectors=has_vectors))
        self._claims = Claims(claiming, round_, clearing.largest)
        self._order = drawing_order(
            self._claims.nonces, search.seed, round_.config.block_hash, round_.config.public_key
        )
        case = cases[0] if len(cases) == 1 else together(round_, cases)
        self._case = replace(case, n_claimed_before=sum(each.n_claimed_before for each in cases))
        # As `decided` combines them.
        n_tests = 1 + asks_density(self._case.proof, round_, self._case.n_walked)
        self.decision = Decision(
            n_claimed=len(self._order),
            clearing=clearing,
            power=search.power,
            level=round_.config.fraud_threshold / n_tests,
        )

    def next(self, after: int) -> int | None:
        """Return the nonce that is drawn when so many others of this step have been.

        None where none is left.
        """
        place = self.decision.n_drawn + after
        return self._order[place] if place < len(self._order) else None

    def take(self, nonces: Sequence[int], computed: Mapping[int, Sequence[float]]) -> None:
        """Count further nonces, which have been recomputed."""
        self.decision = self.decision.after(nonces, self._claims.scores(nonces, computed))

    def judged(self, recomputation: _Recomputes, numerics: Numerics) -> JudgedCase:
        """Return the case with its verdict."""
        shape: Numerics = {"batch_size": self.round.batch_size, "seq_len": self.round.config.seq_len}
        drawn = set(self.decision.nonces)
        judged = judge(
            self._case.proof,
            recomputation.numbers(self.round, drawn),
            self.round,
            {**numerics, **shape},
            # A batch of failed nonces alone has no sample, and no verdict.
            sampled=drawn or None,
            n_walked=self._case.n_walked,
        )
        nonces = tuple(nonce for nonce in self._case.nonces if nonce in drawn)
        verdict = decided(judged, self.decision)
        return replace(self._case, nonces=nonces, verdict=verdict, decision=self.decision)


class SequentialCases:
    """Provers of rounds, each until it is decided; those that cannot be are refused.

    Args:
        cases: Batches, each with its round, or with the reason why it is not judged.
        search: What is looked for.
        at_once: How many batches of a round a step fills: as many as can be computed beside each other.
    """

    def __init__(self, cases: Iterable[JudgedCase], search: Search, at_once: int = 1) -> None:
        self._search = search
        self._at_once = at_once
        self._provers: list[_Prover] = []
        self._refused: list[JudgedCase] = []
        groups: defaultdict[Round, list[JudgedCase]] = defaultdict(list)
        for case in cases:
            if case.round is None:
                self._refused.append(case)
            else:
                groups[case.round].append(case)
        for round_, sent in groups.items():
            group, refused = _judgeable(round_, sent)
            self._refused += refused
            try:
                self._provers.append(_Prover(round_, group, search))
            except FieldError as exc:
                self._refused += [replace(case, round=None, error=exc) for case in group]

    @property
    def n_undecided(self) -> int:
        """Provers of rounds that need further nonces."""
        return sum(not prover.decision.is_over for prover in self._provers)

    @property
    def n_recomputed(self) -> int:
        """Nonces that have been recomputed, or looked up."""
        return sum(prover.decision.n_drawn for prover in self._provers)

    @property
    def n_claimed(self) -> int:
        """Nonces that could be, were there no decisions."""
        return sum(prover.decision.n_claimed for prover in self._provers)

    def run(self, recomputation: _Recomputes) -> Iterator[int]:
        """Recompute until every prover is decided or has no nonce left; yields the size of each batch.

        A step is what fills the batches of each round that are computed at once, or more where it has more
        undecided provers than these have room for: the next nonces of each of them in turn.

        Raises:
            EngineError: The device has no memory for a batch.
            StateError: The model is not of the round's width, or what is computed cannot be kept.
        """
        while step := [*self._step()]:
            for prover, nonces in step:
                recomputation.want(prover.round, nonces)
            yield from recomputation.run()
            for prover, nonces in step:
                prover.take(nonces, recomputation.numbers(prover.round, nonces))

    def judged(self, recomputation: _Recomputes, numerics: Numerics) -> list[JudgedCase]:
        """Return a row for each prover and round, and for each refused batch.

        Args:
            recomputation: What `run` was given.
            numerics: The fingerprint of the arithmetic that recomputed.
        """
        return [*(prover.judged(recomputation, numerics) for prover in self._provers), *self._refused]

    def as_dict(self) -> dict[str, Any]:
        """Return what the summary says of the draw, as JSON has it."""
        counts = {"recomputed": self.n_recomputed, "claimed": self.n_claimed}
        return {**self._search.as_dict(), "sequential": True, **counts}

    def _step(self) -> Iterator[tuple[_Prover, list[int]]]:
        open_: defaultdict[RoundSpec, list[_Prover]] = defaultdict(list)
        for prover in self._provers:
            if not prover.decision.is_over:
                open_[prover.spec].append(prover)
        for spec, provers in open_.items():
            yield from _filled(provers, spec.batch_size * self._at_once)


def _judgeable(round_: Round, group: list[JudgedCase]) -> tuple[list[JudgedCase], list[JudgedCase]]:
    """Return the batches of a prover that are judged, and those that cannot be beside them, refused.

    One batch without vectors must not keep the others from being judged: a forger would send one.
    """
    brought, without = apart(group)
    if without and any(case.proof.nonces for case in brought):
        try:
            Allowance.of_round(round_, has_vectors=False)
        except FieldError as exc:
            return brought, [replace(case, round=None, error=exc) for case in without]
    return group, []


def _filled(provers: Sequence[_Prover], size: int) -> Iterator[tuple[_Prover, list[int]]]:
    """Yield the next nonces of provers in turn, at least one of each, to a multiple of a size."""
    room = size * -(-len(provers) // size)
    drawn: list[list[int]] = [[] for _ in provers]
    n_spent = 0
    for prover, nonces in cycle(zip(provers, drawn, strict=True)):
        nonce = prover.next(len(nonces))
        if nonce is None:
            n_spent += 1
            if n_spent >= len(provers):
                break
            continue
        n_spent = 0
        nonces.append(nonce)
        room -= 1
        if not room:
            break
    yield from ((prover, nonces) for prover, nonces in zip(provers, drawn, strict=True) if nonces)
