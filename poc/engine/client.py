"""The API server's side of the RPCs: one object that the manager drives, every rank's reply checked."""

import asyncio
import logging
import os
import signal
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, cast

import vllm
from vllm.engine.protocol import EngineClient

from hallmark.poc.core.errors import EngineError, UnsupportedError
from hallmark.poc.core.last_words import leave_last_words
from hallmark.poc.engine.batch_time import check_batch_time
from hallmark.poc.engine.pins import vllm_files
from hallmark.poc.engine.support import check_limits
from hallmark.poc.engine.unsupported import check_arguments, check_config, check_developer_mode
from hallmark.poc.engine.versions import check_version
from hallmark.poc.protocol.config import DeployedModel
from hallmark.poc.protocol.model_facts import first_token
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import Numerics
from hallmark.poc.protocol.round_spec import RoundSpec
from hallmark.poc.rounds.engine_protocol import ComputedBatch, Slice
from hallmark.poc.settings.settings import Settings

logger = logging.getLogger(__name__)

_REPLY_KEYS = {"rank", "sequence", "status"}


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
    warning = check_version(vllm.__version__, vllm_files(), allow_unsupported=settings.allow_unsupported_vllm)
    if warning is not None:
        logger.warning("%s", warning)
    check_developer_mode(os.environ, is_allowed=settings.allow_developer_mode)
    check_arguments(args, os.environ)
    check_config(config)
    check_limits(config, settings)
    engine = VllmEngine(engine_client, settings.engine_timeout)
    names = args.served_model_name or [args.model]
    await engine.set_up([names] if isinstance(names, str) else list(names))
    return engine


def _end_server(reason: str) -> None:
    logger.critical("PoC stops this server: %s", reason)
    leave_last_words(f"PoC stopped this server, since {reason}")
    os.kill(os.getpid(), signal.SIGTERM)


class VllmEngine:
    """PoC on a vLLM engine: `PoCEngine` over `collective_rpc`.

    Calls must not overlap, and a call that has begun must be awaited to its end: replies come in order, and
    one that nobody fetches shifts all later ones.

    Args:
        engine_client: vLLM's client.
        engine_timeout: seconds after which a worker ends that is stuck; a call that goes unanswered for twice
            as long ends this server.
        end: ends this server, for the reason given, where no further call can be made.
    """

    model: DeployedModel
    numerics: Mapping[str, str | int | bool]

    def __init__(
        self, engine_client: EngineClient, engine_timeout: float, end: Callable[[str], None] = _end_server
    ) -> None:
        self._client = engine_client
        self._end = end
        self._engine_timeout = engine_timeout
        self._patience = 2 * engine_timeout
        self._sequence = 0
        self._is_set_up = False
        self._broken: str | None = None

    async def set_up(self, served_names: Sequence[str]) -> None:
        """Check, allocate and warm up on every rank; fills in `model` and `numerics`.

        Raises:
            UnsupportedError: a rank refused the set-up, or a batch takes too long for `engine_timeout`.
            EngineError: it failed on some rank.
        """
        ranks = await self._call("poc_setup")
        first = cast("dict[str, Any]", ranks[0])
        self.model = DeployedModel(
            hidden_size=first["hidden_size"],
            dtype=first["dtype"],
            vocabulary=first["vocabulary"],
            table_rows=first["table_rows"],
            first=self._first_token(),
            served_names=tuple(served_names),
            max_batched_tokens=first["max_batched_tokens"],
            max_sequences=first["max_sequences"],
            max_model_len=first["max_model_len"],
        )
        # Only when every rank is set up: a batch on some of them would wait for the others.
        warm = await self._call("poc_warm_up")
        self.numerics = _numerics_of(ranks, warm)
        if not self.numerics["independent_nonces"]:
            logger.warning(
                "The numbers of a nonce depend on what else is in its batch, as where activations share one "
                "scale, or experts compute by how many rows they have: whoever computes it in another batch "
                "has others. Calibrate sigma with batches that differ"
            )
        batch_seconds = _through_all_stages(ranks, [float(rank["batch_seconds"]) for rank in warm])
        slice_seconds = max(float(rank["slice_seconds"]) for rank in warm)
        warning = check_batch_time(batch_seconds, slice_seconds, self._engine_timeout)
        if warning is not None:
            logger.warning("%s", warning)
        self._is_set_up = True
        peaks = [rank["peak_bytes"] for rank in warm]
        logger.info(
            "PoC is set up on %d ranks: up to %.0f MiB of scratch on each, %.0f of it for states, %s MiB at "
            "the peak of a batch, which takes %.3g s",
            len(ranks),
            max(rank["scratch_bytes"] for rank in ranks) / 2**20,
            max(rank["state_bytes"] for rank in ranks) / 2**20,
            "an unknown number of" if None in peaks else f"{max(peaks) / 2**20:.0f}",
            batch_seconds,
        )

    def _first_token(self) -> int | None:
        """Return the token that the tokenizer puts in front of every text; None, and say so, without one."""
        if self._client.vllm_config.model_config.skip_tokenizer_init:
            logger.warning("There is no tokenizer: row 0 of a nonce is drawn unless a round states `first`")
            return None
        return first_token(self._client.renderer.get_tokenizer())

    @property
    def is_idle(self) -> bool:
        """Whether no inference request is unfinished."""
        return not self._client.output_processor.has_unfinished_requests()

    async def open_round(self, spec: RoundSpec) -> int:
        """Draw the round's projections on every rank; returns the bytes they hold on each."""
        return int((await self._call("poc_open_round", spec.to_wire()))[0])

    async def start(self, batches: Sequence[Sequence[NonceKey]], layers: int | None) -> Slice:
        """Begin batches of (public key, nonce) pairs, and go on for so many layers, or to the end."""
        wire = [[list(key) for key in batch] for batch in batches]
        return _slice(await self._call("poc_start", wire, layers))

    async def advance(self, layers: int | None) -> Slice:
        """Go on with the suspended batches."""
        return _slice(await self._call("poc_advance", layers))

    async def close_round(self) -> None:
        """Free the round's tensors on every rank."""
        await self._call("poc_close_round")

    async def _call(self, method: str, *arguments: object) -> list[Any]:
        """Call a worker method on every rank and return the payloads in the order of ranks.

        Raises:
            EngineError: it failed, on one rank or on all, or the server is ending.
            UnsupportedError: a rank refused the set-up.
        """
        if self._broken is not None:
            raise EngineError(self._broken)
        self._sequence += 1
        # Never with vLLM's timeout: the reply would come as the answer to the next call, chat's included.
        call = asyncio.ensure_future(self._client.collective_rpc(method, args=(self._sequence, *arguments)))
        # Setting up takes as long as it takes.
        await asyncio.wait({call}, timeout=self._patience if self._is_set_up else None)
        if not call.done():
            call.cancel()
            self._stop(f"the engine has not answered {method} within {self._patience:g} s")
        try:
            replies = call.result()
        except Exception as error:  # vLLM raises a bare Exception for what fails in its engine
            if f"has no attribute '{method}'" in str(error):
                raise UnsupportedError(
                    "the engine's workers lack Hallmark's methods: the general plugin 'hallmark' is not "
                    "loaded there. Name it in VLLM_PLUGINS beside 'hallmark_api', or start with "
                    "`hallmark serve`."
                ) from error
            if self._is_set_up:
                # Our methods never raise: replies of other ranks may still lie unread, to be taken for the
                # answers of the next call.
                self._stop(f"{method} failed outside of PoC: {error}")
            raise EngineError(f"{method} did not reach the engine's workers: {error}") from error
        if not all(isinstance(reply, dict) and reply.keys() >= _REPLY_KEYS for reply in replies) or [
            (reply["rank"], reply["sequence"]) for reply in replies
        ] != [(rank, self._sequence) for rank in range(len(replies))]:
            self._stop(f"replies to {method} {self._sequence} are out of step: {replies}")
        failures = [reply for reply in replies if reply["status"] != "ok"]
        if failures:
            said = "; ".join(f"rank {reply['rank']}: {reply['error']}" for reply in failures)
            refusals = [reply for reply in failures if reply["status"] == UnsupportedError.__name__]
            # What one rank refuses fails on the others, who say no more than that.
            others = {reply["status"] for reply in failures} - {UnsupportedError.__name__}
            if refusals and others <= {EngineError.__name__}:
                raise UnsupportedError(refusals[0]["error"])
            raise EngineError(f"{method} failed on {len(failures)} of {len(replies)} ranks: {said}")
        return [reply["payload"] for reply in replies]

    def _stop(self, reason: str) -> NoReturn:
        self._broken = reason
        self._end(reason)
        raise EngineError(reason)


def _numerics_of(ranks: Sequence[Mapping[str, Any]], warm: Sequence[Mapping[str, Any]]) -> Numerics:
    """Put together what the stages of a pipeline say; of what they differ in each value is named once.

    Raises:
        UnsupportedError: ranks of one stage differ.
    """
    stages: dict[int, Mapping[str, Any]] = {}
    for rank, (described, warmed) in enumerate(zip(ranks, warm, strict=True)):
        found = stages.setdefault(described["stage"], warmed["numerics"])
        if warmed["numerics"] != found:
            raise UnsupportedError(
                f"rank {rank} computes differently from the others of its stage: {warmed['numerics']}"
            )
    merged: dict[str, str | int | bool] = {}
    for name in dict.fromkeys(name for stage in stages.values() for name in stage):
        said = [*dict.fromkeys(stage[name] for stage in stages.values() if name in stage)]
        if len(said) == 1:
            [merged[name]] = said
        else:
            merged[name] = all(said) if isinstance(said[0], bool) else " | ".join(map(str, said))
    return merged


def _through_all_stages(ranks: Sequence[Mapping[str, Any]], seconds: Sequence[float]) -> float:
    """Add up the stages' times, each that of its slowest rank, for which the others wait."""
    stages: dict[int, float] = {}
    for described, each in zip(ranks, seconds, strict=True):
        stages[described["stage"]] = max(each, stages.get(described["stage"], 0.0))
    return sum(stages.values())


def _slice(ranks: Sequence[Mapping[str, Any]]) -> Slice:
    """Return what a call has done: the slowest rank's time, and the numbers that the last stage has."""
    batches = None
    if ranks[0]["batches"] is not None:
        batches = [
            ComputedBatch(
                [[float(number) for number in numbers] for numbers in batch[-1]["numbers"]],
                max(float(rank["host_seconds"]) for rank in batch),
            )
            for batch in zip(*(rank["batches"] for rank in ranks), strict=True)
        ]
    return Slice(max(float(rank["seconds"]) for rank in ranks), int(ranks[0]["layers"]), batches)
