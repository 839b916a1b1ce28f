"""The worker methods that the API server reaches by `collective_rpc`, on every rank.

vLLM's multi-process executor keeps replies in order, not by request: once one rank raised, every later
reply comes from the call before. So these methods never raise; each returns a reply that names rank, sequence
number and status, and the caller checks all of them (`client.VllmEngine`).
"""

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from hallmark.poc.core.errors import HallmarkError
from hallmark.poc.engine.worker import PoCWorker
from hallmark.poc.protocol.round_spec import RoundSpec

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_worker import Worker

logger = logging.getLogger(__name__)

# Where a worker keeps its PoC state: an attribute of our own on vLLM's worker object.
STATE_ATTRIBUTE = "_hallmark_worker"


def _reply(worker: "Worker", sequence: int, action: Callable[[PoCWorker], object]) -> dict[str, Any]:
    """Run an action and wrap its outcome; see the module's docstring for why nothing is raised."""
    reply: dict[str, Any] = {"rank": worker.rank, "sequence": sequence}
    try:
        state: PoCWorker | None = getattr(worker, STATE_ATTRIBUTE, None)
        if state is None:
            state = PoCWorker(worker)
            setattr(worker, STATE_ATTRIBUTE, state)
        done = {**reply, "status": "ok", "payload": action(state)}
        # What the engine cannot encode would end the thread that sends its outputs, chat's included.
        msgspec.msgpack.encode(done)
        return done
    except HallmarkError as error:
        return {**reply, "status": type(error).__name__, "error": str(error)}
    except Exception as error:
        logger.exception("A PoC call failed on rank %d", worker.rank)
        return {
            **reply,
            "status": "failed",
            "error": "".join(traceback.format_exception_only(error)).strip(),
        }


def poc_setup(self: "Worker", sequence: int) -> dict[str, Any]:
    """Check the set-up and allocate scratch; the reply describes the rank."""
    return _reply(self, sequence, lambda state: state.describe())


def poc_warm_up(self: "Worker", sequence: int) -> dict[str, Any]:
    """Run batches of the largest shape; the payload is what they need, what they take and the fingerprint."""
    return _reply(self, sequence, lambda state: state.warm_up())


def poc_open_round(self: "Worker", sequence: int, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Open a round; the payload is the number of bytes its projections hold."""
    return _reply(self, sequence, lambda state: state.open_round(RoundSpec.from_wire(dict(spec))))


def poc_start(
    self: "Worker", sequence: int, batches: Sequence[Sequence[tuple[str, int]]], layers: int | None
) -> dict[str, Any]:
    """Begin batches of (public key, nonce) pairs; the payload is that of `poc_advance`."""
    return _reply(self, sequence, lambda state: state.start(batches, layers))


def poc_advance(self: "Worker", sequence: int, layers: int | None) -> dict[str, Any]:
    """Go on with suspended batches; the payload has the time it took and, at the end, the batches."""
    return _reply(self, sequence, lambda state: state.advance(layers))


def poc_close_round(self: "Worker", sequence: int) -> dict[str, Any]:
    """Close the round that is open, if one is."""
    return _reply(self, sequence, lambda state: state.close_round())


RPC_METHODS = (
    poc_setup,
    poc_warm_up,
    poc_open_round,
    poc_start,
    poc_advance,
    poc_close_round,
)
