"""The route by which balancers and orchestrators ask whether to send chat here."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import Field

# pydantic reads the types of typing from Python 3.12 on only.
from typing_extensions import TypedDict

from hallmark.poc.protocol.config import PoCState
from hallmark.poc.rounds.manager import PoCManager
from hallmark.server.http.control import answers
from hallmark.server.http.errors import HallmarkRoute
from hallmark.server.http.gate import RETRY_AFTER

__all__ = ["router"]

# vLLM's supervisor of data-parallel servers calls it so; its API server has no such route.
_PATH = "/ready"

router = APIRouter(route_class=HallmarkRoute, tags=["proof of compute: status"])


class Readiness(TypedDict):
    """What there is to know for whoever sends chat; it needs no token, so nothing else is told."""

    state: Annotated[PoCState | None, Field(description="Null while the engine is not up.")]


@router.get(
    _PATH,
    responses=answers(
        {
            200: ("Chat is served.", Readiness, {"state": "VALIDATING"}),
            503: ("Chat is refused.", Readiness, {"state": "GENERATING"}),
        }
    ),
)
async def ready(request: Request) -> JSONResponse:
    """Tell whether chat is served now: 200, or 503 while a round generates or the engine is not up yet.

    It is for readiness probes and needs no token. Liveness is vLLM's `/health`, which stays 200 meanwhile.
    """
    manager: PoCManager | None = getattr(request.app.state, "hallmark", None)
    answer: dict[str, Any] = {"state": None if manager is None else manager.state.value}
    if manager is None or manager.gate_closed:
        return JSONResponse(answer, 503, {"Retry-After": str(RETRY_AFTER)})
    return JSONResponse(answer)
