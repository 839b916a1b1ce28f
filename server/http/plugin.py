"""vLLM's entry point for Hallmark's routes (`vllm.endpoint_plugins`)."""

import logging
import os
import signal
from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any

from fastapi import APIRouter, FastAPI
from prometheus_client import REGISTRY
from starlette.datastructures import State

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.core.last_words import leave_last_words
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.rounds.manager import PoCManager
from hallmark.poc.settings.settings import Settings
from hallmark.server.http.app import attach_manager_to_state, mount
from hallmark.server.http.auth import check_exposure
from hallmark.server.http.metrics import PoCCollector, register
from hallmark.server.processes.endings import how_it_ended
from hallmark.server.processes.tether import parent_is_gone

__all__ = ["HallmarkPlugin", "create_plugin"]

logger = logging.getLogger(__name__)


class HallmarkPlugin:
    """What vLLM's API server calls: first for the routes, then, with the engine up, for what is behind them.

    vLLM only logs an error of loading a plugin and would serve without it, so everything is checked in
    `init_state`, whose errors end the start.
    """

    name = "hallmark_api"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._metrics: PoCCollector | None = None
        self._engines: Sequence[BaseProcess] = ()

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes and the inference gate."""
        mount(app)
        app.include_router(APIRouter(lifespan=self._unregister_at_the_end))

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Set proof of compute up on the engine.

        Raises:
            FieldError: A setting is not allowed.
            UnsupportedError: The set-up cannot run proof of compute, or would leave it open to a network.
            EngineError: Setting up failed on the engine.
            OutboxError: The outbox cannot be used, or another server has it.
        """
        if engine_client is None:
            raise UnsupportedError("proof of compute needs an engine, and this server has none")
        settings = Settings.from_additional_config(engine_client.vllm_config.additional_config)
        check_exposure(settings, args.host, args.uds)
        # Before the engine is set up, which takes its time: what is wrong with the file is said at once.
        store = OutboxStore.from_settings(settings, args.port, args.uds)
        # The one thing here that needs vLLM, which this module is loaded without in tests and tools.
        from hallmark.poc.engine.client import connect

        engine = await connect(engine_client, settings, args)
        # vLLM's own processes below this one: the engine, on its CPUs or GPUs.
        self._engines = active_children()
        # vLLM can lose the SIGTERM of a parent's death while it starts, and would serve on without an owner.
        if parent_is_gone():
            raise UnsupportedError("the command that started this server has ended while it started")
        manager = PoCManager(engine, settings, Outbox(settings, store))
        await manager.recover()
        attach_manager_to_state(state, manager)
        # What vLLM's /metrics shows where there is one API server process, and there is one.
        self._metrics = register(manager, REGISTRY)
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            logger.warning(
                "/metrics has nothing of Hallmark: with PROMETHEUS_MULTIPROC_DIR it shows what is in that "
                "directory only; unset the variable"
            )

    @asynccontextmanager
    async def _unregister_at_the_end(self, _: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            _tell_of(self._engines)
            if self._metrics is not None:
                REGISTRY.unregister(self._metrics)
                self._metrics = None


def _tell_of(engines: Sequence[BaseProcess]) -> None:
    """Leave word of engines that did not end as vLLM ends them: by itself, or by SIGTERM."""
    for engine in engines:
        if engine.exitcode in (None, 0, -signal.SIGTERM):
            continue
        words = f"its process {engine.name} {how_it_ended(engine.exitcode)}"
        if engine.exitcode == -signal.SIGKILL:
            # Nothing but vLLM's log tells the two apart.
            words += ", and what vLLM does where another process sends its API server SIGTERM"
        leave_last_words(words)


def create_plugin() -> HallmarkPlugin:
    """Return the plugin, for vLLM to load."""
    return HallmarkPlugin()
