"""The routes that only tell, and the stop that the oldest clients know."""

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import Field

# pydantic reads the types of typing from Python 3.12 on only.
from typing_extensions import TypedDict

from hallmark.poc.protocol.config import PoCState
from hallmark.poc.protocol.status import RoundStatus
from hallmark.poc.protocol.streams import PROTOCOL
from hallmark.server.http.control import PREFIX, Manager, ManagerOfWholeRequest, RoundAnswer, answers
from hallmark.server.http.errors import HallmarkRoute
from hallmark.server.http.examples import STATUS, VERSIONS
from hallmark.server.http.status import snapshot
from hallmark.server.http.versions import versions_at_work

__all__ = ["router"]

router = APIRouter(route_class=HallmarkRoute, tags=["proof of compute: status"])


_BesideValidation = Annotated[bool, Field(description="That inference is served beside validation: true.")]


class Versions(TypedDict):
    """The versions that are at work."""

    version: Annotated[str, Field(description="The older name of `hallmark_version`.")]
    hallmark_version: Annotated[str, Field(description="Hallmark's.")]
    vllm_version: Annotated[str | None, Field(description="vLLM's; null where the engine is another.")]
    torch_version: Annotated[str | None, Field(description="PyTorch's; null where the engine tells none.")]
    protocol: Annotated[str, Field(description="The protocol that proofs are computed by.")]
    poc_validation_inference: _BesideValidation


class Mode(TypedDict):
    """What the node is at, for the oldest clients."""

    state: Annotated[str, Field(description="`POW` or `INFERENCE`.")]
    poc_validation_inference: _BesideValidation


@router.get(f"{PREFIX}/status", responses=answers({200: ("The status.", RoundStatus, STATUS)}))
async def status(manager: Manager) -> JSONResponse:
    """Tell the state, the round's counters, and how validation and callbacks stand.

    `status` is what older clients read: where `state` is STOPPED it says IDLE, as their servers do.
    """
    shown = snapshot(manager)
    if manager.state is PoCState.STOPPED:
        shown["status"] = PoCState.IDLE.value
    return JSONResponse(shown)


@router.get(f"{PREFIX}/versions", responses=answers({200: ("The versions.", Versions, VERSIONS)}))
async def versions(manager: Manager) -> JSONResponse:
    """Tell which versions are at work, and that inference is served beside validation."""
    found = versions_at_work(manager)
    return JSONResponse(
        {
            "version": found["hallmark_version"],
            **found,
            "protocol": PROTOCOL,
            "poc_validation_inference": True,
        }
    )


@router.get(
    "/api/v1/state",
    responses=answers({200: ("The mode.", Mode, {"state": "POW", "poc_validation_inference": True})}),
)
async def state(manager: Manager) -> JSONResponse:
    """Tell the node's mode: POW while a round generates or validates, INFERENCE otherwise."""
    in_round = manager.state in (PoCState.GENERATING, PoCState.VALIDATING)
    return JSONResponse({"state": "POW" if in_round else "INFERENCE", "poc_validation_inference": True})


@router.post(
    "/api/v1/stop", responses=answers({200: ("Done.", RoundAnswer, {"status": "OK", "pow_status": STATUS})})
)
async def stop_everything(manager: ManagerOfWholeRequest) -> JSONResponse:
    """End the round, as `/stop` under the other prefix does; inference goes on."""
    await manager.stop()
    return JSONResponse({"status": "OK", "pow_status": snapshot(manager)})
