"""Forwards timed inside vLLM's worker, mixed in by vLLM's own `worker_extension_cls`."""

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from _rounds import bench_round
from torch import Tensor
from vllm.config import VllmConfig

from hallmark.kernels import project_residual
from hallmark.poc.engine.eager_operators import EagerOperators
from hallmark.poc.engine.forward import ModelForward, ModelInputs
from hallmark.poc.engine.private_layers import PrivateLayers
from hallmark.poc.engine.worker import PoCWorker
from hallmark.poc.engine.worker_methods import STATE_ATTRIBUTE
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.round_tensors import RoundTensors

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_worker import Worker as Base
else:
    Base = object

_Forward = TypeVar("_Forward", bound=ModelForward)

# Compiled and eager operators round at different places: a few percent in deep models.
_MAX_DIFFERENCE = 0.3


class BareForward(ModelForward):
    """The model as inference runs it, from token ids to its own final norm, under PoC's private attention.

    On a server that compiles this is the compiled graph, with the operators that it has in it.
    """

    def __init__(
        self,
        model: Any,
        config: VllmConfig,
        layers: PrivateLayers,
        operators: EagerOperators,
        device: torch.device,
    ) -> None:
        super().__init__(model, config, layers, operators, device)
        self._model = model  # and no copy with other operators

    def from_tokens(self, tokens: Tensor) -> Tensor:
        """Embed tokens, run the model and norm all rows.

        Args:
            tokens: int32 [n, seq_len], as vLLM has them: a compiled graph reads no others, and does not look.

        Returns:
            [n * seq_len, hidden_size] in the model's dtype.
        """
        # With embeddings in prompts vLLM looks tokens up before the model, whose graph then begins behind.
        inputs = self.embed(tokens) if self._config.model_config.enable_prompt_embeds else None
        shape = tokens.shape[0], tokens.shape[1]
        return self._states(ModelInputs(shape, inputs, tokens), skip_compiled=False)

    def _chosen_operators(self) -> AbstractContextManager[None]:
        return self._operators.given_back()


class BenchWorker(Base):
    """Worker methods of the benches; PoC must have been set up and warmed up."""

    @torch.inference_mode()
    def bench_forwards(self, repeats: int, batches: int) -> dict[str, Any]:
        """Time the bare forward and a round's, by turns, several batches back to back each time.

        Returns:
            Median seconds of a batch, `bare` and `round`, the median of their quotients, and the host's.

        Raises:
            RuntimeError: the bare forward is not the model's.
        """
        state: PoCWorker = getattr(self, STATE_ATTRIBUTE)
        keys, tensors = self._open(state)
        bare, tokens = self._bare(state), tensors.tokens(keys).int()
        self._check(bare, state, tokens)
        results: list[dict[str, Any]] = []

        def run_bare() -> None:
            for _ in range(batches):
                bare.from_tokens(tokens)

        def run_round() -> None:
            results[:] = state.start([keys] * batches, None)["batches"]

        seconds: dict[str, list[float]] = {"bare": [], "round": []}
        for turn in range(repeats + 1):
            for name, run in (("bare", run_bare), ("round", run_round)):
                elapsed = self._elapsed(run) / batches
                if turn:  # the first one warms up
                    seconds[name].append(elapsed)
        state.close_round()
        quotients = [b / a for a, b in zip(seconds["bare"], seconds["round"], strict=True)]
        return {
            "bare": statistics.median(seconds["bare"]),
            "round": statistics.median(seconds["round"]),
            "quotient": statistics.median(quotients),
            "host": statistics.median(result["host_seconds"] for result in results),
        }

    @torch.inference_mode()
    def bench_device(self) -> dict[str, dict[str, float]]:
        """Profile a bare batch, a round's, and the steps that they do not share, each the second of two.

        Returns:
            For each the device's milliseconds in kernels, `device_ms`, and how many were launched,
            `launches`. `own`: a round's steps on either side of the model. `embed` and `norm`: what these
            replace of the bare forward, its embedding and, where a round leaves that to the sums, its final
            norm. Empty on a CPU, which launches none.
        """
        if self.device.type == "cpu":
            return {}
        state: PoCWorker = getattr(self, STATE_ATTRIBUTE)
        found = {name: _profile(run) for name, run in self._steps(state).items()}
        state.close_round()
        return found

    def _steps(self, state: PoCWorker) -> dict[str, Callable[[], object]]:
        """Open the round and return what is profiled, by name; each may be called twice."""
        keys, tensors = self._open(state)
        bare, forward, tokens = self._bare(state), state._forward, tensors.tokens(keys).int()
        hidden = forward.final_hidden(state._enter(state._prepare(keys)))

        def own() -> object:
            prepared = state._prepare(keys)
            state._inputs.combine(tensors, prepared.inputs)
            return tensors.numbers(hidden.states, keys, prepared.order, hidden.norm)

        steps: dict[str, Callable[[], object]] = {
            "bare": lambda: bare.from_tokens(tokens),
            "round": lambda: state.start([keys], None),
            "own": own,
            "embed": lambda: bare.embed(tokens),
        }
        if hidden.norm is not None:
            deferred, residual = forward._deferred, hidden.norm.residual
            assert deferred is not None
            given = [tensor for tensor in (hidden.states, residual) if tensor is not None]
            # Some of vLLM's operators norm in place.
            copies = [[tensor.clone() for tensor in given] for _ in range(2)]

            def norm() -> object:
                with forward._chosen_operators():
                    return deferred.norm(*copies.pop())

            steps["norm"] = norm
        return steps

    @torch.inference_mode()
    def bench_final_hidden(self, inputs: Tensor, projection: Tensor) -> Tensor:
        """Project inputs and run the model over them, its own norm included.

        Args:
            inputs: [n, rows, D] in the model's dtype, at most the rows of a batch of the settings.
            projection: bf16 [D, D].

        Returns:
            [n, rows, D] on the host: all rows of what the final norm returns.
        """
        state: PoCWorker = getattr(self, STATE_ATTRIBUTE)
        device = torch.device(self.device)
        projected = project_residual(inputs.to(device), projection.to(device), inputs.dtype)
        # A new one leaves its norm in.
        forward = self._made(state, ModelForward)
        return forward.final_hidden(ModelInputs.of_rows(projected)).states.view(inputs.shape).cpu()

    @torch.inference_mode()
    def bench_memory(self) -> dict[str, Any]:
        """What a round holds and what its batch needs on this rank, in bytes."""
        state: PoCWorker = getattr(self, STATE_ATTRIBUTE)
        keys, tensors = self._open(state)
        inputs = state._enter(state._prepare(keys)).rows
        state.close_round()
        return {
            "projections": tensors.projection_bytes,
            "scratch": state.private_layers.scratch_bytes,
            "inputs": 0 if inputs is None else inputs.nbytes,
        }

    def _bare(self, state: PoCWorker) -> BareForward:
        return self._made(state, BareForward)

    def _check(self, bare: BareForward, state: PoCWorker, tokens: Tensor) -> None:
        """Compare the bare forward with the model itself: what is timed must be right first."""
        forward = self._made(state, ModelForward)
        inputs = ModelInputs.of_rows(forward.embed(tokens), tokens.long())
        own = forward.final_hidden(inputs).states.float()
        difference = float((bare.from_tokens(tokens).float() - own).norm() / own.norm())
        if not difference < _MAX_DIFFERENCE:
            raise RuntimeError(f"the bare forward's hidden states differ by {difference:.3g} of their norm")

    def _made(self, state: PoCWorker, kind: type[_Forward]) -> _Forward:
        """Make another forward of the model beside PoC's, under the same private attention."""
        return kind(
            self.model_runner.get_model(),
            self.vllm_config,
            state.private_layers,
            state.operators,
            torch.device(self.device),
        )

    def _open(self, state: PoCWorker) -> tuple[list[NonceKey], RoundTensors]:
        """Open the round of benches; return the nonces of a whole batch, and the round's tensors."""
        spec = bench_round(
            self.vllm_config.model_config.get_hidden_size(),
            seq_len=state.limits.seq_len,
            batch_size=state.limits.max_batch_size,
        )
        state.open_round(spec)
        assert state._round is not None
        return [("key", nonce) for nonce in range(spec.batch_size)], state._round

    def _elapsed(self, run: Callable[[], None]) -> float:
        if self.device.type != "cpu":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if self.device.type != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def _profile(run: Callable[[], object]) -> dict[str, float]:
    """Run something twice, and profile the second time; returns `device_ms` and `launches`."""
    run()
    torch.cuda.synchronize()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    ) as profile:
        run()
        torch.cuda.synchronize()
    kernels = [event for event in profile.key_averages() if event.device_type.name == "CUDA"]
    return {
        "device_ms": sum(event.self_device_time_total for event in kernels) / 1e3,
        "launches": sum(event.count for event in kernels),
    }
