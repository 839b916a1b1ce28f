"""The routes that set, start, switch and stop a round."""

import asyncio
import logging
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

# pydantic reads the types of typing from Python 3.12 on only.
from typing_extensions import TypedDict

from hallmark.poc.protocol.config import PoCConfig, PoCState
from hallmark.poc.protocol.status import CallbackReach
from hallmark.poc.rounds.active_round import ActiveRound
from hallmark.poc.rounds.manager import PoCManager
from hallmark.server.http.body import read_json_object
from hallmark.server.http.control import (
    PREFIX,
    Manager,
    ManagerOfWholeRequest,
    NewRoundAnswer,
    RoundAnswer,
    answers,
    ignored,
    json_body,
)
from hallmark.server.http.errors import HallmarkRoute
from hallmark.server.http.examples import ROUND, STATUS
from hallmark.server.http.request_log import request_id
from hallmark.server.http.status import snapshot

__all__ = ["router"]

logger = logging.getLogger(__name__)

router = APIRouter(prefix=PREFIX, route_class=HallmarkRoute, tags=["proof of compute: rounds"])

_ROUND_BODY = json_body(PoCConfig.request_schema(), ROUND)
_DONE = answers({200: ("The status afterwards.", RoundAnswer, {"status": "OK", "pow_status": STATUS})})
_SET = answers(
    {
        200: (
            "The status afterwards.",
            NewRoundAnswer,
            {
                "status": "OK",
                "pow_status": STATUS,
                "ignored_fields": ["use_layer_hooks"],
                "callback": {"reachable": True, "error": None},
                "warnings": [],
            },
        )
    }
)


@router.post("/init", openapi_extra=_ROUND_BODY, responses=_SET)
async def init(request: Request, manager: Manager) -> JSONResponse:
    """Set a round without starting it.

    A round that is running is ended. `/phase/generate` and `/phase/validate` start the new one.
    """
    config, remarks = await _config(request, manager)
    active = await manager.init(config)
    return await _set(manager, active, remarks)


@router.post("/init/generate", openapi_extra=_ROUND_BODY, responses=_SET)
async def init_generate(request: Request, manager: Manager) -> JSONResponse:
    """Set a round and generate proofs.

    The request of the round that is set already only turns its phase; another one ends that round first.
    """
    config, remarks = await _config(request, manager)
    active = await manager.start_round(config, PoCState.GENERATING)
    return await _set(manager, active, remarks)


@router.post("/init/validate", openapi_extra=_ROUND_BODY, responses=_SET)
async def init_validate(request: Request, manager: Manager) -> JSONResponse:
    """Set a round and validate batches of it; inference is served meanwhile.

    The request of the round that is set already only turns its phase; another one ends that round first.
    """
    config, remarks = await _config(request, manager)
    active = await manager.start_round(config, PoCState.VALIDATING)
    return await _set(manager, active, remarks)


@router.post("/phase/generate", responses=_DONE)
async def phase_generate(manager: ManagerOfWholeRequest) -> JSONResponse:
    """Go on generating in the round that is set, where its walk was left."""
    await manager.switch_phase(PoCState.GENERATING)
    return _done(manager)


@router.post("/phase/validate", responses=_DONE)
async def phase_validate(manager: ManagerOfWholeRequest) -> JSONResponse:
    """Pause generating and validate batches of the round that is set."""
    await manager.switch_phase(PoCState.VALIDATING)
    return _done(manager)


@router.post("/stop", responses=_DONE)
async def stop(manager: ManagerOfWholeRequest) -> JSONResponse:
    """End the round; inference is served from now on.

    The answer comes when the batch in flight is counted and, for up to two seconds, what can be delivered at
    once has been: its counters are final. The rest is delivered in the background.
    """
    await manager.stop()
    return _done(manager)


class _Remarks(TypedDict):
    """What is said of a request that was taken."""

    ignored_fields: list[str]
    warnings: list[str]


async def _config(request: Request, manager: PoCManager) -> tuple[PoCConfig, _Remarks]:
    """Read the round that is asked for, and what is to be said of the request."""
    body = await read_json_object(request, manager)
    config = PoCConfig.parse(body)
    warnings = config.check_share(body)
    for warning in warnings:
        logger.warning("Request %s: %s", request_id(request), warning)
    return config, {
        "ignored_fields": ignored(request, body, PoCConfig.known_fields()),
        "warnings": warnings,
    }


async def _set(manager: PoCManager, active: ActiveRound, remarks: _Remarks) -> JSONResponse:
    """Answer a request that set a round, once its receiver has answered or has not for two seconds."""
    callback: CallbackReach | None = None
    if active.receiver is not None:
        # Not awaited itself: a client that goes away must not take it from the next one.
        await asyncio.wait({active.receiver})
        if active.receiver.cancelled():
            callback = {"reachable": False, "error": "the server is shutting down"}
        else:
            callback = active.receiver.result()
    return _done(manager, **remarks, callback=callback)


def _done(manager: PoCManager, **more: Any) -> JSONResponse:
    return JSONResponse({"status": "OK", "pow_status": snapshot(manager), **more})
