"""Verdicts of an order: on each batch, and on all batches of a prover together."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hallmark.poc.core.errors import HallmarkError
from hallmark.poc.offline.cases import JudgedCase, joined, judged
from hallmark.poc.offline.proof_files import delivered
from hallmark.poc.offline.rounds import resolve_round
from hallmark.poc.protocol.config import DeployedModel
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import Numerics
from hallmark.poc.rounds.payloads import validated_payload
from hallmark.poc.verdict.judge import Verdict
from hallmark.server.verification.order import Order

__all__ = ["Judge", "RecomputedBatch", "of_nothing"]


_COLUMNS: Final = (
    "nonces",
    "computed_distances",
    "valid",
    "dist",
    "received_dist",
    "received_distances",
    "vectors",
    "received_vectors",
)
"""What a verdict's body has for each nonce."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecomputedBatch:
    """A batch all of which has been recomputed that was to be.

    Attributes:
        id: The batch's.
        body: The `/generated` body.
        nonces: Those that were drawn.
        not_together: Those of them that stay out of the verdict on all batches together.
        error: Why it is not judged.
    """

    id: int
    body: Mapping[str, Any]
    nonces: tuple[int, ...]
    not_together: frozenset[int]
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Judges what was recomputed for an order.

    Attributes:
        order: The order.
        facts: Of the model that recomputed.
        numerics: The fingerprint of its arithmetic.
    """

    order: Order
    facts: DeployedModel
    numerics: Numerics

    def verdict(
        self, batch: RecomputedBatch, numbers: Mapping[NonceKey, Sequence[float]]
    ) -> dict[str, Any] | str:
        """Judge a batch.

        Args:
            batch: The batch, without an error.
            numbers: The recomputed numbers of its nonces, and of others; NaN where a nonce failed.

        Returns:
            The body of a `/validated` callback about the nonces that were drawn, with the batch, the order
            and its draw as `verification`; or why there is no verdict.
        """
        try:
            case = self._judged(batch, numbers)
        except HallmarkError as exc:
            return str(exc)
        if case.verdict is None or case.verdict.verdict is Verdict.NO_VERDICT:
            return "there is no verdict: too many nonces failed"
        body = _of_drawn({**validated_payload(case.verdict, f"order {self.order.id}")}, batch.nonces)
        return {**body, "verification": {"batch": batch.id, **self.order.as_dict()}}

    def conclusion(
        self, batches: Sequence[RecomputedBatch], numbers: Mapping[NonceKey, Sequence[float]]
    ) -> dict[str, Any]:
        """Judge all batches of a prover, each by itself and all together.

        A prover could else divide a forgery into batches too small for a verdict.

        Args:
            batches: Its batches of the order, in the order of their arrival.
            numbers: As for `verdict`.

        Returns:
            What it comes to, as JSON has it: `fraud` where all together are, or one of them is by a p-value
            that so many tests allow; `honest` where nothing of it is fraud, and all have a verdict.
        """
        cases = []
        for batch in batches:
            if batch.error is None:
                try:
                    cases.append(self._judged(batch, numbers))
                except HallmarkError:
                    continue  # it has no verdict, and says why itself
        together = [
            judged(case, _of_prover(numbers, case.proof.public_key), self.numerics) for case in joined(cases)
        ]
        single = [case.verdict for case in cases if case.verdict is not None]
        joint = [case.verdict for case in together if case.verdict is not None]
        if not single:
            return of_nothing(len(batches))
        # Each by the p-value that speaks against the prover, of as many tests as there were.
        told = [(min(1.0, len(single) * each.probability_honest), each) for each in single]
        told += [(each.probability_honest, each) for each in joint]
        probability, least = min(told, key=lambda each: each[0])
        is_known = all(each.verdict is not Verdict.NO_VERDICT for each in [*single, *joint])
        if probability < least.fraud_threshold and least.verdict is Verdict.FRAUD:
            verdict = Verdict.FRAUD
        else:
            is_whole = is_known and len(cases) == len(batches)
            verdict = Verdict.HONEST if is_whole else Verdict.NO_VERDICT
        return {
            "verdict": verdict.value,
            "probability_honest": probability,
            "rejected_by": [*least.rejected_by],
            "error_rms": least.error_rms,
            "n_judged": max(each.n_judged for each in [*single, *joint]),
            "batches": len(batches),
            "refused": len(batches) - len(cases),
        }

    def _judged(self, batch: RecomputedBatch, numbers: Mapping[NonceKey, Sequence[float]]) -> JudgedCase:
        found = delivered(batch.body, str(batch.id), is_claim=True)
        key = found.proof.public_key
        case = JudgedCase(
            sources=(found.source,),
            proof=found.proof,
            n_claimed_before=0,
            round=resolve_round(found, self.order.settings, self.facts, self.numerics),
            nonces=batch.nonces,
            not_together=batch.not_together,
        )
        return judged(case, {nonce: numbers[key, nonce] for nonce in batch.nonces}, self.numerics)


def _of_drawn(body: Mapping[str, Any], drawn: Collection[int]) -> dict[str, Any]:
    """Return a verdict's body without the nonces that were not drawn: the batch itself is kept already."""
    chosen = set(drawn)
    places = [place for place, nonce in enumerate(body["nonces"]) if nonce in chosen]
    columns = {name: body[name] for name in _COLUMNS if body[name] is not None}
    return {**body, **{name: [column[place] for place in places] for name, column in columns.items()}}


def _of_prover(numbers: Mapping[NonceKey, Sequence[float]], public_key: str) -> dict[int, Sequence[float]]:
    """Return a prover's numbers by nonce: provers' nonces are the same ones."""
    return {nonce: of_nonce for (key, nonce), of_nonce in numbers.items() if key == public_key}


def of_nothing(batches: int) -> dict[str, Any]:
    """Return the conclusion on a prover none of whose batches can be judged."""
    return {
        "verdict": "no_verdict",
        "probability_honest": None,
        "rejected_by": [],
        "error_rms": None,
        "n_judged": 0,
        "batches": batches,
        "refused": batches,
    }
