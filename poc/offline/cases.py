"""What `hallmark verify` judges: single batches, and all batches of one prover together."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hallmark.poc.core.errors import HallmarkError
from hallmark.poc.protocol.proof import Numerics, ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.decision import Decision
from hallmark.poc.verdict.judge import ValidatedBatch, Verdict, judge
from hallmark.poc.verdict.prover_record import ProverRecord, Reason, ScoredBatch
from hallmark.poc.verdict.sampling import covered_together, gaps

__all__ = [
    "JudgedCase",
    "apart",
    "identity",
    "joined",
    "judged",
    "prover_records",
    "summarize",
    "together",
]


@dataclass(frozen=True, kw_only=True)
class JudgedCase:
    """What is judged: a batch, or all batches of one prover and round together.

    Attributes:
        sources: Where the batches stand.
        proof: The batch, or their nonces joined.
        n_claimed_before: Nonces of a batch that an earlier one of the same block and key claims too.
        round: What it is judged in; None where it is refused.
        nonces: The nonces that are recomputed.
        error: Why it is refused.
        verdict: What comes of it.
        with_vectors: Whether it is several batches of a prover that sent others without vectors, too.
        n_walked: How many nonces several batches cover together; None where that is not known.
        parts: The batches that it is made of, where it is several; else none.
        decision: What nonce after nonce has shown, where a prover's batches are judged like that; its row
            then stands for them, and they have none.
        not_together: Those of `nonces` that were drawn for the verdict of fewer batches than all of the
            prover's in the round; they would make the sample of all one that is not drawn evenly.
    """

    sources: tuple[str, ...]
    proof: ProofBatch
    n_claimed_before: int
    round: Round | None = None
    nonces: tuple[int, ...] = ()
    error: HallmarkError | None = None
    verdict: ValidatedBatch | None = None
    with_vectors: bool = False
    n_walked: int | None = None
    parts: tuple[ProofBatch, ...] = ()
    decision: Decision | None = None
    not_together: frozenset[int] = frozenset()

    @property
    def stands_for_itself(self) -> bool:
        """Whether it is in no other row: a batch, or all of a prover's that have no rows of their own."""
        return self.decision is not None or not self.is_joined

    @property
    def is_joined(self) -> bool:
        """Whether it is several batches together."""
        return len(self.sources) > 1


def identity(proof: ProofBatch, nonce: int) -> tuple[str, int, str, int]:
    """By what a nonce counts once."""
    return (proof.block_hash, proof.block_height, proof.public_key, nonce)


def apart(cases: Iterable[JudgedCase]) -> tuple[list[JudgedCase], list[JudgedCase]]:
    """Return batches that claim nonces without vectors, in the second place; in the first the others."""
    parts: tuple[list[JudgedCase], list[JudgedCase]] = ([], [])
    for case in cases:
        parts[bool(case.proof.nonces) and case.proof.vectors is None].append(case)
    return parts


def joined(cases: Iterable[JudgedCase]) -> Iterator[JudgedCase]:
    """Yield all batches of a prover in a round as one, where there are several and nonces are claimed.

    A prover could else divide a forgery into batches too small for a verdict. Where they say what they cover,
    and leave no gap, they are judged by how many of it are valid too. Those without vectors let all be judged
    by number 0 alone: so those with vectors are judged together as well.
    """
    groups: defaultdict[Round, list[JudgedCase]] = defaultdict(list)
    for case in cases:
        if case.round is not None:
            groups[case.round].append(case)
    for round_, group in groups.items():
        claiming = [case for case in group if case.proof.nonces]
        with_vectors = [case for case in claiming if case.proof.vectors is not None]
        if claiming and len(group) > 1:
            yield together(round_, group)
        if 1 < len(with_vectors) < len(claiming):
            yield together(round_, with_vectors, with_vectors=True)


def together(round_: Round, group: Sequence[JudgedCase], *, with_vectors: bool = False) -> JudgedCase:
    """Return several batches of a prover as one; `with_vectors` as for a case."""
    first = group[0].proof
    proofs = [case.proof for case in group]
    claimed = {nonce for proof in proofs for nonce in proof.nonces}
    failed = dict.fromkeys(nonce for proof in proofs for nonce in proof.failed_nonces)
    proof = ProofBatch(
        public_key=first.public_key,
        block_hash=first.block_hash,
        block_height=first.block_height,
        node_id=first.node_id,
        nonces=tuple(nonce for proof in proofs for nonce in proof.nonces),
        dist=tuple(distance for proof in proofs for distance in proof.dist),
        **_joined_vectors([proof for proof in proofs if proof.nonces]),
        round_digest=round_.digest,
        failed_nonces=tuple(nonce for nonce in failed if nonce not in claimed),
    )
    nonces = dict.fromkeys(
        nonce for case in group for nonce in case.nonces if with_vectors or nonce not in case.not_together
    )
    return JudgedCase(
        sources=tuple(source for case in group for source in case.sources),
        proof=proof,
        n_claimed_before=0,
        round=round_,
        nonces=tuple(nonces),
        with_vectors=with_vectors,
        n_walked=covered_together(proofs, round_.config.node_count, round_.config.n_groups),
        parts=tuple(proofs),
    )


def judged(case: JudgedCase, computed: Mapping[int, Sequence[float]], numerics: Numerics) -> JudgedCase:
    """Return a case with its verdict; one that is refused as it is.

    Args:
        case: The case.
        computed: The recomputed numbers of its nonces, and of others.
        numerics: The fingerprint of the arithmetic that recomputed them.

    Raises:
        EngineError: A nonce that was to be recomputed was not.
    """
    if case.round is None:
        return case
    shape: Numerics = {"batch_size": case.round.batch_size, "seq_len": case.round.config.seq_len}
    verdict = judge(
        case.proof,
        computed,
        case.round,
        {**numerics, **shape},
        # A batch of failed nonces alone has no sample, and no verdict.
        sampled=case.nonces or None,
        n_walked=case.n_walked,
    )
    return replace(case, verdict=verdict)


def _joined_vectors(proofs: Sequence[ProofBatch]) -> dict[str, Any]:
    """Return the vectors of several batches of a round together.

    None where one of them has none, or none claims.
    """
    several = [proof.vectors for proof in proofs if proof.vectors is not None]
    if not several or len(several) < len(proofs):
        return {}
    return {
        "vectors": tuple(vector for vectors in several for vector in vectors),
        "encoding": proofs[0].encoding,
    }


def prover_records(judged: Iterable[JudgedCase]) -> list[ProverRecord]:
    """Return what each prover sent, over all rounds.

    By block height, and batches of a block as they are given.
    """
    records: dict[str, ProverRecord] = {}
    seen: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for case in sorted(judged, key=lambda case: case.proof.block_height):
        if not case.stands_for_itself or case.verdict is None or case.round is None:
            continue
        batch = _scored(case.proof, case.decision) or ScoredBatch.of_verdict(
            case.verdict, case.round.hidden_size
        )
        key = batch.public_key
        before = seen[key, batch.block_hash]
        new = batch.ratios.keys() - before
        record = records.get(key, ProverRecord(public_key=key))
        records[key] = record.after(batch, new, opens_round=not before, batches=len(case.sources))
        before |= new
    return [*records.values()]


def _scored(proof: ProofBatch, decision: Decision | None) -> ScoredBatch | None:
    """Return what a decision is about, as a batch; its nonces go on in the order in which they were drawn.

    How many were drawn depends on what they showed in this order, and in no other.
    """
    if decision is None:
        return None
    missing = decision.n_claimed - len(decision.ratios)
    uncounted = {Reason.NOT_RECOMPUTED: missing} if missing else {}
    return ScoredBatch(proof.public_key, proof.block_hash, decision.ratios, uncounted)


def summarize(
    judged: Sequence[JudgedCase],
    records: Iterable[ProverRecord],
    threshold: float,
    numerics: Numerics,
    sample: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return totals over the batches; a nonce is credited once, in an honest batch of a prover without fraud.

    Args:
        judged: Single and joined batches.
        records: What each prover sent, over rounds.
        threshold: Of the verdicts over time.
        numerics: The fingerprint of the arithmetic that recomputed them.
        sample: Which nonces were drawn, why, and by which seed; None: all were judged.
    """
    single = [case for case in judged if case.stands_for_itself]
    verdicts = [case.verdict.verdict for case in single if case.verdict is not None]
    rejected = {
        case.round
        for case in judged
        if not case.stands_for_itself and case.verdict is not None and case.verdict.verdict is Verdict.FRAUD
    }
    walks: defaultdict[tuple[Round, int], list[tuple[int, int]]] = defaultdict(list)
    for case in single:
        for proof in case.parts or (case.proof,):
            if case.round is not None and proof.covered is not None:
                walks[case.round, proof.node_id].append(proof.covered)
    over_time = [record.as_dict(threshold) for record in records]
    convicted = {record["public_key"] for record in over_time if record["fraud_detected"]}
    credited = set()
    for case in single:
        verdict = case.verdict
        if verdict is None or verdict.verdict is not Verdict.HONEST or case.round in rejected:
            continue
        if case.proof.public_key in convicted:
            continue
        excluded = {*verdict.invalid_nonces, *verdict.failed_nonces}
        # What does not count is seen without a recomputation, and so of nonces that were not drawn, too.
        excluded.update(
            nonce
            for nonce, distance in zip(case.proof.nonces, case.proof.dist, strict=True)
            if case.round is not None and not case.round.is_valid(distance)
        )
        credited |= {identity(case.proof, nonce) for nonce in case.proof.nonces if nonce not in excluded}
    return {
        "batches": sum(len(case.sources) for case in single),
        **{verdict.value: verdicts.count(verdict) for verdict in Verdict},
        "refused": sum(case.error is not None for case in single),
        "credited_nonces": len(credited),
        "claimed_again": sum(case.n_claimed_before for case in single),
        "gaps": [
            {"public_key": round_.config.public_key, "node_id": node_id, "indices": [first, last]}
            for (round_, node_id), ranges in walks.items()
            for first, last in gaps(ranges)
        ],
        "provers": over_time,
        "sample": sample,
        "numerics": dict(numerics),
    }
