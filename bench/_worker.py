"""Forwards timed inside vLLM's worker, mixed in by vLLM's own `worker_extension_cls`."""

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from _rounds import bench_round
from torch import Tensor

from hallmark.kernels import project_residual
from hallmark.poc.engine.forward import ModelForward
from hallmark.poc.engine.worker import PoCWorker
from hallmark.poc.engine.worker_methods import STATE_ATTRIBUTE
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.round_spec import RoundSpec

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_worker import Worker as Base
else:
    Base = object


class BenchWorker(Base):
    """Worker methods of the benches; PoC must have been set up and warmed up."""

    @torch.inference_mode()
    def bench_forwards(self, repeats: int, batches: int) -> dict[str, Any]:
        """Time the bare forward and a round's, by turns, several batches back to back each time.

        Returns:
            Median seconds of a batch, `bare` and `round`, the median of their quotients, and the host's.
        """
        state: PoCWorker = getattr(self, STATE_ATTRIBUTE)
        keys, inputs = self._open(state)
        bare = self._bare(state)
        results: list[dict[str, Any]] = []
        # A model may overwrite its inputs, and a product of other numbers takes another time.
        copies = [inputs.clone() for _ in range(batches)]

        def run_bare() -> None:
            for copy in copies:
                bare.final_hidden(copy)

        def run_round() -> None:
            results[:] = state.start([keys] * batches, None)["batches"]

        seconds: dict[str, list[float]] = {"bare": [], "round": []}
        for turn in range(repeats + 1):
            for copy in copies:
                copy.copy_(inputs)
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
        """Profile a bare batch and a round's, each the second of two.

        Returns:
            For `bare` and `round` the device's milliseconds in kernels and how many were launched, and for
            `round` the microseconds of the steps on either side of the model by themselves; empty on a CPU,
            which launches none.
        """
        if self.device.type == "cpu":
            return {}
        state: PoCWorker = getattr(self, STATE_ATTRIBUTE)
        keys, inputs = self._open(state)
        bare = self._bare(state)
        hidden_states = bare.final_hidden(inputs.clone())

        def own() -> object:
            prepared = state._prepare(keys)
            state._all_inputs(prepared)
            return prepared.tensors.numbers(hidden_states, prepared.keys, prepared.signs)

        found: dict[str, dict[str, float]] = {}
        for name, run in (
            ("bare", lambda: bare.final_hidden(inputs.clone())),
            ("round", lambda: state.start([keys], None)),
            ("own", own),
        ):
            run()
            torch.cuda.synchronize()
            with torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
            ) as profile:
                run()
                torch.cuda.synchronize()
            kernels = [event for event in profile.key_averages() if event.device_type.name == "CUDA"]
            found[name] = {
                "device_ms": sum(event.self_device_time_total for event in kernels) / 1e3,
                "launches": sum(event.count for event in kernels),
            }
        found["round"]["own_us"] = found.pop("own")["device_ms"] * 1e3
        state.close_round()
        return found

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
        return self._bare(state).final_hidden(projected).view(inputs.shape).cpu()

    @torch.inference_mode()
    def bench_memory(self) -> dict[str, Any]:
        """What a round holds and what its batch needs on this rank, in bytes."""
        state: PoCWorker = getattr(self, STATE_ATTRIBUTE)
        spec = self._spec(state)
        projections = state.open_round(spec)
        _, inputs = state._inputs([("key", nonce) for nonce in range(spec.batch_size)])
        state.close_round()
        return {
            "projections": projections,
            "scratch": state.attention.memory_bytes,
            "inputs": inputs.nbytes,
        }

    def _bare(self, state: PoCWorker) -> ModelForward:
        """Make a forward of the model alone, under PoC's private attention."""
        return ModelForward(
            self.model_runner.get_model(),
            self.vllm_config,
            state.attention,
            state.operators,
            torch.device(self.device),
        )

    def _open(self, state: PoCWorker) -> tuple[list[NonceKey], Tensor]:
        """Open the round of benches; return the nonces of a whole batch, and their inputs."""
        spec = self._spec(state)
        state.open_round(spec)
        keys = [("key", nonce) for nonce in range(spec.batch_size)]
        return keys, state._inputs(keys)[1]

    def _spec(self, state: PoCWorker) -> RoundSpec:
        return bench_round(
            self.vllm_config.model_config.get_hidden_size(),
            seq_len=state.limits.seq_len,
            batch_size=state.limits.max_batch_size,
        )

    def _elapsed(self, run: Callable[[], None]) -> float:
        if self.device.type != "cpu":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if self.device.type != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - start
