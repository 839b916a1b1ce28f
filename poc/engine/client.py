"""The API server's side of the RPCs: one object that the manager drives, every rank's reply checked."""

import logging
import math
import os
import signal
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any, cast

import vllm
from vllm.engine.protocol import EngineClient

from hallmark.poc.config import DeployedModel
from hallmark.poc.engine.support import check_config, check_front_end, check_limits, check_version
from hallmark.poc.errors import EngineError, UnsupportedError
from hallmark.poc.round import RoundSpec
from hallmark.poc.settings import Settings

logger = logging.getLogger(__name__)


async def connect(engine_client: EngineClient, settings: Settings, args: Namespace) -> "VllmEngine":
    """Set PoC up on every rank of the engine behind a client.

    Args:
        engine_client: vLLM's client, as it hands it to an endpoint plugin.
        settings: the server's settings.
        args: the server's arguments; the names the model is served under come from them.

    Raises:
        UnsupportedError: this vLLM or this set-up cannot run PoC.
        EngineError: setting up failed on some rank.
    """
    config = engine_client.vllm_config
    check_version(vllm.__version__, settings.allow_unsupported_vllm)
    check_front_end(args, os.environ)
    check_config(config)
    check_limits(config, settings)
    engine = VllmEngine(engine_client)
    names = args.served_model_name or [args.model]
    await engine.set_up([names] if isinstance(names, str) else list(names))
    return engine


class VllmEngine:
    """PoC on a vLLM engine: `PoCEngine` over `collective_rpc`.

    Calls must not overlap, and a call that has begun must be awaited to its end: replies come in order, and
    one that nobody fetches shifts all later ones.
    """

    model: DeployedModel
    numerics: Mapping[str, str | int | bool]
    scratch_bytes: int
    peak_bytes: int

    def __init__(self, engine_client: EngineClient) -> None:
        self._client = engine_client
        self._sequence = 0

    async def set_up(self, served_names: Sequence[str]) -> None:
        """Check, allocate and warm up on every rank; fills in `model` and `numerics`.

        Raises:
            UnsupportedError: a rank refused the set-up.
            EngineError: it failed on some rank.
        """
        ranks = await self._call("poc_setup")
        first = cast("dict[str, Any]", ranks[0])
        for rank, described in enumerate(ranks[1:], start=1):
            if described["numerics"] != first["numerics"]:
                raise UnsupportedError(
                    f"rank {rank} computes differently from rank 0: {described['numerics']}"
                )
        count = sum(rank["embedding_count"] for rank in ranks)
        square_sum = math.fsum(rank["embedding_square_sum"] for rank in ranks)
        self.model = DeployedModel(
            hidden_size=first["hidden_size"],
            dtype=first["dtype"],
            # Unknown where the model has no one plain table: rounds then state input_scale.
            embedding_rms=math.sqrt(square_sum / count) if count else math.nan,
            served_names=tuple(served_names),
            max_batched_tokens=first["max_batched_tokens"],
            max_sequences=first["max_sequences"],
            max_model_len=first["max_model_len"],
        )
        self.numerics = first["numerics"]
        self.scratch_bytes = first["scratch_bytes"]
        self.peak_bytes = max(rank["peak_bytes"] for rank in ranks)

    async def open_round(self, spec: RoundSpec) -> int:
        """Draw the round's projections on every rank; returns the bytes they hold on each."""
        return int((await self._call("poc_open_round", spec.to_wire()))[0])

    async def compute(self, keys: Sequence[tuple[str, int]]) -> list[float]:
        """Compute the distances of one batch of (public key, nonce) pairs; NaN where a nonce failed."""
        distances = await self._call("poc_compute", [list(key) for key in keys])
        return [float(distance) for distance in distances[0]]

    async def close_round(self) -> None:
        """Free the round's tensors on every rank."""
        await self._call("poc_close_round")

    async def unfinished_requests(self) -> int:
        """Count the inference requests the engine has not finished, background ones included."""
        return int(self._client.output_processor.get_num_unfinished_requests())

    async def _call(self, method: str, *arguments: object) -> list[Any]:
        """Call a worker method on every rank and return the payloads in the order of ranks.

        Raises:
            EngineError: it failed, on one rank or on all.
            UnsupportedError: a rank refused the set-up.
        """
        self._sequence += 1
        # Never with a timeout: its reply would come as the answer to the next call, chat's included.
        try:
            replies = await self._client.collective_rpc(method, args=(self._sequence, *arguments))
        except Exception as error:  # vLLM raises a bare Exception for what fails in its engine
            if f"has no attribute '{method}'" in str(error):
                raise UnsupportedError(
                    "the engine's workers lack Hallmark's methods: the general plugin 'hallmark' is not "
                    "loaded there. Name it in VLLM_PLUGINS beside 'hallmark_api', or start with "
                    "`hallmark serve`."
                ) from error
            raise EngineError(f"{method} did not reach the engine's workers: {error}") from error
        replies = sorted(replies, key=lambda reply: reply["rank"])
        if [reply["rank"] for reply in replies] != list(range(len(replies))) or any(
            reply["sequence"] != self._sequence for reply in replies
        ):
            self._stop(f"replies to {method} {self._sequence} are out of step: {replies}")
        failures = [reply for reply in replies if reply["status"] != "ok"]
        if failures:
            said = "; ".join(f"rank {reply['rank']}: {reply['error']}" for reply in failures)
            if all(reply["status"] == UnsupportedError.__name__ for reply in failures):
                raise UnsupportedError(failures[0]["error"])
            raise EngineError(f"{method} failed on {len(failures)} of {len(replies)} ranks: {said}")
        return [reply["payload"] for reply in replies]

    def _stop(self, reason: str) -> None:
        logger.critical("PoC stops this server: %s", reason)
        os.kill(os.getpid(), signal.SIGTERM)
        raise EngineError(reason)
