"""The routes that take batches to judge, and tell the verdicts."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

# pydantic reads the types of typing from Python 3.12 on only.
from typing_extensions import TypedDict

from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.protocol.bodies import RecomputedVectors, VerdictBody
from hallmark.poc.protocol.config import PoCState
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.rounds.manager import PoCManager
from hallmark.poc.rounds.payloads import recomputed_vectors
from hallmark.poc.rounds.validation_job import SettledJob, ValidationJob
from hallmark.poc.verdict.judge import ValidatedBatch
from hallmark.server.http.body import read_json_object
from hallmark.server.http.control import PREFIX, Manager, answers, ignored, json_body
from hallmark.server.http.errors import HallmarkRoute
from hallmark.server.http.examples import PROOF, QUEUED, VERDICT

__all__ = ["router"]

router = APIRouter(prefix=PREFIX, route_class=HallmarkRoute, tags=["proof of compute: validation"])


_RequestId = Annotated[str, Field(description="By which to ask what became of the batch.")]
_IgnoredFields = Annotated[
    list[str], Field(description="The batch's fields that nothing knows, of which nothing was read.")
]


class VerdictAnswer(VerdictBody):
    """The verdict of a batch that was waited for."""

    status: Annotated[str, Field(description="`OK`.")]
    request_id: _RequestId
    ignored_fields: _IgnoredFields


class VerdictWithVectors(VerdictAnswer, RecomputedVectors):
    """The verdict of a batch that was waited for, with the recomputed numbers that were asked for."""


class Progress(TypedDict):
    """Where a batch stands."""

    status: Annotated[str, Field(description="`queued`, `running`, `completed` or `failed`.")]
    request_id: _RequestId
    queued_count: Annotated[int, Field(description="How many nonces the batch claims.")]


class QueuedAnswer(Progress):
    """Where a batch stands that was just queued."""

    ignored_fields: _IgnoredFields


class FailedAnswer(Progress):
    """Where a batch stands that gets no verdict, and why."""

    error: Annotated[str, Field(description="What took the verdict's place.")]


class CompletedAnswer(Progress, VerdictBody):
    """The verdict of a batch, and where it stands."""


@router.post(
    "/validate",
    openapi_extra=json_body(ProofBatch.request_schema(), PROOF),
    responses=answers(
        {
            200: ("The verdict.", VerdictWithVectors | VerdictAnswer, VERDICT),
            202: ("The batch is queued.", QueuedAnswer, QUEUED),
        }
    ),
)
async def validate(
    request: Request,
    manager: Manager,
    wait: Annotated[bool | None, Query(description="Whether to wait; by default where it can.")] = None,
    vectors: Annotated[
        bool,
        Query(description="Whether the verdict brings the recomputed numbers; for a request that waits."),
    ] = False,
) -> Response:
    """Judge a batch of the round's block, of any public key.

    In VALIDATING the answer is the verdict, or with `wait=false` at once a `request_id` to ask for it. In
    GENERATING the batch is queued until the phase turns; a request that waits when the phase turns to
    GENERATING is answered with its `request_id`. The verdict also goes to the round's callback URL; where
    there is none, a batch whose client goes away before the verdict is given up.

    With `vectors=true` the verdict brings the recomputed numbers of every nonce, as `/validated` has them.
    They are not kept, so only a request that waits may ask for them: it is refused with `wait=false` and in
    GENERATING. Where it is answered with its `request_id`, nobody gets them.
    """
    if vectors and wait is False:
        raise FieldError(
            "vectors", vectors, "false with wait=false: recomputed numbers are not kept for who comes later"
        )
    body = await read_json_object(request, manager)
    proof = await manager.offload.run(_size(body), lambda: ProofBatch.parse(body))
    ignored_fields = ignored(request, body, ProofBatch.known_fields())
    if (wait or vectors) and manager.state is PoCState.GENERATING:
        raise StateError(
            f"{'vectors' if vectors else 'wait'}=true needs the state {PoCState.VALIDATING}; "
            f"the state is {manager.state}. Without it the batch is queued until the phase turns"
        )
    job = await manager.submit(proof)
    if wait is not False and manager.state is not PoCState.GENERATING:
        await _released_or_gone(job, request)
        if not job.released.is_set():
            manager.abandon(job)
        elif job.settled.is_set():
            done = {"status": "OK", "request_id": job.request_id, "ignored_fields": ignored_fields}
            return await _answered(manager, job.size, done, job.answer(), job.outcome() if vectors else None)
    return JSONResponse({**_progress(job), "ignored_fields": ignored_fields}, 202)


@router.get(
    "/validate/{request_id}",
    responses=answers(
        {
            200: (
                "Where the batch stands.",
                CompletedAnswer | FailedAnswer | Progress,
                {**VERDICT, "status": "completed", "queued_count": 3},
            )
        }
    ),
)
async def validation_result(
    request_id: Annotated[str, Path(description="As `/validate` answered it.")], manager: Manager
) -> Response:
    """Tell what became of a batch: `queued`, `running`, `completed` with its verdict, or `failed`.

    Results are kept for an hour, the latest 1,000.
    """
    found = manager.result(request_id)
    answer: dict[str, Any] = {**_progress(found)}
    if isinstance(found, SettledJob):
        if found.verdict is not None:
            return await _answered(manager, found.size, answer, found.verdict)
        answer["error"] = found.error
    return JSONResponse(answer)


def _size(body: Mapping[str, Any]) -> int:
    """About how many nonces a body has, whatever it is."""
    return sum(len(value) for value in body.values() if isinstance(value, list))


async def _answered(
    manager: PoCManager,
    size: int,
    answer: Mapping[str, Any],
    verdict: VerdictBody,
    recomputed: ValidatedBatch | None = None,
) -> Response:
    """Answer with a verdict of a batch of about so many nonces, and with the numbers that it was judged by.

    Args:
        manager: The manager.
        size: About how many.
        answer: What is said besides.
        verdict: The verdict.
        recomputed: The batch, where its recomputed numbers are asked for.
    """

    def content() -> bytes:
        numbers: Mapping[str, Any] = {} if recomputed is None else recomputed_vectors(recomputed)
        return compact_json({**answer, **verdict, **numbers})

    return Response(await manager.offload.run(size, content), media_type="application/json")


async def _released_or_gone(job: ValidationJob, request: Request) -> None:
    """Wait until there is something to answer, or nobody to answer to."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    waits = {asyncio.create_task(job.released.wait()), asyncio.create_task(gone())}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _progress(job: ValidationJob | SettledJob) -> Progress:
    return {"status": job.status, "request_id": job.request_id, "queued_count": job.n_claims}
