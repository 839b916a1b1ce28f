"""Plans of orders: the nonces of many provers in full batches, one job each.

A plan depends on the order, the batches, the model and its arithmetic: whoever has these makes the same one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.offline.cases import JudgedCase
from hallmark.poc.offline.proof_files import DeliveredBatch, delivered
from hallmark.poc.offline.rounds import resolve_cases
from hallmark.poc.offline.samples import drawn
from hallmark.poc.protocol.config import DeployedModel
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import Numerics
from hallmark.server.verification.order import Order

__all__ = ["Plan", "PlannedBatch", "StoredBatch", "make_plan"]


_MAX_BATCHES: Final = 1_000
"""Batches that may wait for one job: their verdicts are stored in one transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A `/generated` body as receivers keep it.

    Attributes:
        id: The batch's.
        public_key: The prover's.
        body: As JSON has it.
    """

    id: int
    public_key: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBatch:
    """What is done about a batch.

    Attributes:
        id: The batch's.
        public_key: The prover's.
        nonces: Those that are recomputed.
        not_together: Those of them that stay out of the verdict on all of the prover's batches together.
        jobs: Places of the jobs that recompute them.
        error: Why nothing is, and there is no verdict.
    """

    id: int
    public_key: str
    nonces: tuple[int, ...] = ()
    not_together: tuple[int, ...] = ()
    jobs: tuple[int, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is done about an order.

    Attributes:
        batches: Those that it is about.
        jobs: The nonces of each job, one batch of the engine's.
        samples: What is said of the draw of each prover, by its key.
    """

    batches: tuple[PlannedBatch, ...]
    jobs: tuple[tuple[NonceKey, ...], ...]
    samples: Mapping[str, Mapping[str, Any]]


def make_plan(order: Order, batches: Iterable[StoredBatch], facts: DeployedModel, numerics: Numerics) -> Plan:
    """Draw what is recomputed, and pack it.

    Args:
        order: The order.
        batches: What it is about, in the order of their arrival.
        facts: Of the engine that recomputes, for a round of any length.
        numerics: The same.

    Raises:
        FieldError: The order's settings contradict each other or the model.
        StateError: None of the batches can be judged by this model: it is another one than theirs, runs in
            another dtype, or the settings are others.
    """
    if order.dtype is not None and numerics.get("dtype") != order.dtype:
        raise StateError(
            f"its batches were computed in {order.dtype}, and this model runs in {numerics.get('dtype')}"
        )
    stored = [*batches]
    unread: dict[int, PlannedBatch] = {}
    read: list[DeliveredBatch] = []
    for batch in stored:
        try:
            read.append(delivered(batch.body, str(batch.id), is_claim=True))
        except FieldError as exc:
            # It was taken by other rules than today's.
            unread[batch.id] = PlannedBatch(id=batch.id, public_key=batch.public_key, error=str(exc))
    draw = order.draw
    cases = resolve_cases(read, order.settings, facts, numerics)
    found, said = drawn([*cases], draw.randomness, count=draw.nonces, search=draw.search)
    keys = dict.fromkeys(key for case in found for key in _keys(case))
    jobs = _packed([*keys], order.round(facts).batch_size)
    job_of = {key: place for place, job in enumerate(jobs) for key in job}
    planned: dict[int, PlannedBatch] = {}
    served: Counter[int] = Counter()
    for case in found:
        ours = _planned(case, sorted({job_of[key] for key in _keys(case)}))
        if any(served[job] >= _MAX_BATCHES for job in ours.jobs):
            refused = f"{_MAX_BATCHES:,} earlier batches of this prover claim one of its nonces"
            ours = PlannedBatch(id=ours.id, public_key=ours.public_key, error=refused)
        served.update(ours.jobs)
        planned[ours.id] = ours
    all_planned = tuple({**unread, **planned}[batch.id] for batch in stored)
    # Those that do not say by which settings they were computed fit every model.
    telling = {int(case.sources[0]) for case in found if case.proof.round_digest is not None}
    asked = [each for each in all_planned if each.id in telling] or all_planned
    if all(each.error is not None for each in asked):
        raise StateError(
            f"none of its {len(asked)} batches can be judged here; batch {asked[0].id}: {asked[0].error}"
        )
    samples: dict[str, Mapping[str, Any]] = {batch.public_key: {} for batch in stored}
    for sample in (said or {}).get("provers", ()):
        samples[sample["public_key"]] = sample
    return Plan(batches=all_planned, jobs=jobs, samples=samples)


def _keys(case: JudgedCase) -> Iterable[NonceKey]:
    return ((case.proof.public_key, nonce) for nonce in case.nonces) if case.round is not None else ()


def _packed(keys: Sequence[NonceKey], size: int) -> tuple[tuple[NonceKey, ...], ...]:
    return tuple(tuple(keys[start : start + size]) for start in range(0, len(keys), size))


def _planned(case: JudgedCase, jobs: Iterable[int]) -> PlannedBatch:
    planned = PlannedBatch(id=int(case.sources[0]), public_key=case.proof.public_key)
    if case.round is None:
        return replace(planned, error=str(case.error))
    if not case.nonces:
        return replace(planned, error="the batch claims no nonce")
    return replace(
        planned, nonces=case.nonces, not_together=tuple(sorted(case.not_together)), jobs=tuple(jobs)
    )
