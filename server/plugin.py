"""vLLM's entry point for Hallmark's routes (`vllm.endpoint_plugins`)."""

import logging
from argparse import Namespace
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import State

from hallmark.poc.errors import UnsupportedError
from hallmark.poc.manager import PoCManager
from hallmark.poc.settings import Settings
from hallmark.server.app import attach_manager_to_state, mount
from hallmark.server.auth import check_exposure
from hallmark.server.tether import parent_is_gone

__all__ = ["HallmarkPlugin", "create_plugin"]


class HallmarkPlugin:
    """What vLLM's API server calls: first for the routes, then, with the engine up, for what is behind them.

    vLLM only logs an error of loading a plugin and would serve without it, so everything is checked in
    `init_state`, whose errors end the start.
    """

    name = "hallmark_api"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes and the inference gate."""
        mount(app)

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Set proof of compute up on the engine.

        Raises:
            FieldError: A setting is not allowed.
            UnsupportedError: The set-up cannot run proof of compute, or would leave it open to a network.
            EngineError: Setting up failed on the engine.
        """
        if engine_client is None:
            raise UnsupportedError("proof of compute needs an engine, and this server has none")
        _log_where_vllm_does()
        settings = Settings.from_additional_config(engine_client.vllm_config.additional_config)
        check_exposure(settings, args.host, args.uds)
        # The one thing here that needs vLLM, which this module is loaded without in tests and tools.
        from hallmark.poc.engine.client import connect

        engine = await connect(engine_client, settings, args)
        # vLLM can lose the SIGTERM of a parent's death while it starts, and would serve on without an owner.
        if parent_is_gone():
            raise UnsupportedError("the command that started this server has ended while it started")
        attach_manager_to_state(state, PoCManager(engine, settings))


def _log_where_vllm_does() -> None:
    """Show Hallmark's log lines as vLLM shows its own, where nobody has said otherwise.

    vLLM sets up only the logger `vllm`; without this our warnings would come bare and the rest not at all.
    """
    ours, vllms = logging.getLogger("hallmark"), logging.getLogger("vllm")
    if not ours.hasHandlers():
        ours.handlers[:] = vllms.handlers
        ours.setLevel(vllms.level)


def create_plugin() -> HallmarkPlugin:
    """The plugin, for vLLM to load."""
    return HallmarkPlugin()
