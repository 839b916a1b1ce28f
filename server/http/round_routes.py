"""The routes that set, start, switch and stop a round."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from hallmark.poc.protocol.config import PoCConfig, PoCState
from hallmark.poc.rounds.manager import PoCManager
from hallmark.server.http.body import read_json_object
from hallmark.server.http.control import PREFIX, Manager, ManagerOfWholeRequest, answers, json_body
from hallmark.server.http.errors import HallmarkRoute
from hallmark.server.http.examples import ROUND, STATUS
from hallmark.server.http.schemas import RoundRequest
from hallmark.server.http.status import snapshot

__all__ = ["router"]

router = APIRouter(prefix=PREFIX, route_class=HallmarkRoute, tags=["proof of compute: rounds"])

_ROUND_BODY = json_body(RoundRequest.model_json_schema(), ROUND)
_DONE = answers({200: ("The status afterwards.", {"status": "OK", "pow_status": STATUS})})


@router.post("/init", openapi_extra=_ROUND_BODY, responses=_DONE)
async def init(request: Request, manager: Manager) -> JSONResponse:
    """Set a round without starting it.

    A round that is running is ended. `/phase/generate` and `/phase/validate` start the new one.
    """
    await manager.init(await _config(request, manager))
    return _done(manager)


@router.post("/init/generate", openapi_extra=_ROUND_BODY, responses=_DONE)
async def init_generate(request: Request, manager: Manager) -> JSONResponse:
    """Set a round and generate proofs.

    The request of the round that is set already only turns its phase; another one ends that round first.
    """
    await manager.start_round(await _config(request, manager), PoCState.GENERATING)
    return _done(manager)


@router.post("/init/validate", openapi_extra=_ROUND_BODY, responses=_DONE)
async def init_validate(request: Request, manager: Manager) -> JSONResponse:
    """Set a round and validate batches of it; inference is served meanwhile.

    The request of the round that is set already only turns its phase; another one ends that round first.
    """
    await manager.start_round(await _config(request, manager), PoCState.VALIDATING)
    return _done(manager)


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
    """End the round at once; what it has found is delivered in the background."""
    await manager.stop()
    return _done(manager)


async def _config(request: Request, manager: PoCManager) -> PoCConfig:
    body = await read_json_object(request, manager.settings.max_body_bytes)
    return RoundRequest.parse(body).to_config()


def _done(manager: PoCManager) -> JSONResponse:
    answer: dict[str, Any] = {"status": "OK", "pow_status": snapshot(manager)}
    return JSONResponse(answer)
