"""Putting Hallmark on a FastAPI app: vLLM's, or any other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from starlette.datastructures import State

from hallmark.poc.rounds.manager import PoCManager
from hallmark.server.http import page_routes, readiness, round_routes, status_routes, validation_routes
from hallmark.server.http.gate import InferenceGate
from hallmark.server.http.named_answers import NamedAnswers
from hallmark.server.http.request_log import RepeatedRefusals

__all__ = ["attach_manager", "attach_manager_to_state", "mount"]


def mount(app: FastAPI) -> None:
    """Add the control routes, the page and the inference gate; before the app starts."""
    hallmark = APIRouter(lifespan=_running)
    for part in (round_routes, validation_routes, status_routes, readiness, page_routes):
        hallmark.include_router(part.router)
    app.include_router(hallmark)
    app.state.hallmark_refusals = RepeatedRefusals()
    app.state.hallmark_page = page_routes.NodePage()
    app.add_middleware(InferenceGate)
    app.add_middleware(NamedAnswers)


def attach_manager(app: FastAPI, manager: PoCManager) -> None:
    """Bring the mounted routes to life; until then they answer 503."""
    attach_manager_to_state(app.state, manager)


def attach_manager_to_state(state: State, manager: PoCManager) -> None:
    """`attach_manager` for those who hold the app's state only."""
    state.hallmark = manager


@asynccontextmanager
async def _running(app: FastAPI) -> AsyncIterator[None]:
    watching = asyncio.create_task(app.state.hallmark_page.run(app), name="hallmark page")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait({watching})
        manager: PoCManager | None = getattr(app.state, "hallmark", None)
        if manager is not None:
            await manager.shutdown()
