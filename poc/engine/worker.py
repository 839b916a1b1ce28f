"""What computes a round in vLLM's worker, on every rank."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from vllm.distributed import get_tp_group

from hallmark.kernels.self_check import check_ops
from hallmark.poc.core.errors import EngineError
from hallmark.poc.engine.batch_inputs import BatchInputs, PreparedInputs
from hallmark.poc.engine.device_time import DeviceTime
from hallmark.poc.engine.eager_operators import EagerOperators
from hallmark.poc.engine.embedding_table import EmbeddingTable
from hallmark.poc.engine.expected_compilation import expected_compilation
from hallmark.poc.engine.fingerprint import numerics
from hallmark.poc.engine.forward import (
    FinalHidden,
    ModelForward,
    ModelInputs,
    compiles_embeddings,
    inferences_turn,
)
from hallmark.poc.engine.input_share import InputShare
from hallmark.poc.engine.kv_connector import check_connector_rests
from hallmark.poc.engine.live_cache import LiveCacheGuard
from hallmark.poc.engine.memory import check_free, measure_peak, step_memory
from hallmark.poc.engine.pausable_forward import PausableForward
from hallmark.poc.engine.pipeline import Pipeline, StageStops
from hallmark.poc.engine.private_layers import PrivateLayers
from hallmark.poc.engine.rank_vote import RankVote
from hallmark.poc.engine.stream import SameStream
from hallmark.poc.engine.support import layers_with_caches
from hallmark.poc.engine.weight_watch import WeightWatch
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.round_spec import FIRST_ROW, NO_FIRST, RoundSpec
from hallmark.poc.protocol.round_tensors import RoundTensors, pad_keys
from hallmark.poc.protocol.transfer import HostCopy
from hallmark.poc.settings.engine_limits import EngineLimits

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_worker import Worker


class _PreparedBatch(NamedTuple):
    """A batch before its forward.

    Attributes:
        tensors: the round's.
        keys: its padded nonces.
        inputs: what this rank has of its inputs.
        order: which of its rows are read.
    """

    tensors: RoundTensors
    keys: list[NonceKey]
    inputs: PreparedInputs
    order: Tensor


class _RunningBatch(NamedTuple):
    """A batch that has been launched.

    Attributes:
        numbers: its numbers on their way; None where another stage has them.
        size: how many nonces it has.
        host_seconds: what launching took.
    """

    numbers: HostCopy | None
    size: int
    host_seconds: float


@dataclass(slots=True)
class _Run:
    """Batches of one call to begin, through all stages.

    Attributes:
        batches: their nonces.
        progress: through how many layers of the model the call before has got.
        target: through how many this one goes; None where to the end.
        results: what they have come to on this rank.
    """

    batches: Sequence[Sequence[NonceKey]]
    progress: int = 0
    target: int | None = 0
    results: list[dict[str, Any]] | None = None


_Result = TypeVar("_Result")

# What is used first is compiled first, and a large model's first batch on a CPU takes its time.
_SET_UP_TIMEOUT = timedelta(minutes=30)


class PoCWorker:
    """PoC's state in one worker: the private forward, and the tensors of the round that is open.

    Version, configuration and limits have been checked by `client.connect`, on the same configuration.

    Args:
        worker: vLLM's worker, its model loaded and its KV cache bound.

    Raises:
        UnsupportedError: this set-up cannot run PoC.
    """

    def __init__(self, worker: "Worker") -> None:
        config = worker.vllm_config
        self.limits = EngineLimits.from_additional_config(config.additional_config)
        runner = worker.model_runner
        static_context = config.compilation_config.static_forward_context
        layers = layers_with_caches(config, static_context)
        self.operators = EagerOperators(config)
        self._config = config
        self._layers = layers
        self._model = runner.get_model()
        self._device: torch.device = worker.device
        self._dtype: torch.dtype = config.model_config.dtype
        ranks = get_tp_group()
        parallel = config.parallel_config.tensor_parallel_size > 1
        self._pausable = PausableForward(
            SameStream(self._device), partial(inferences_turn, self.operators), _SET_UP_TIMEOUT
        )
        self._pipeline = Pipeline(self._pausable.checkpoint)
        self._stage_vote = RankVote(ranks.cpu_group if parallel else None, _SET_UP_TIMEOUT)
        self._world_vote = RankVote(self._pipeline.world_group, _SET_UP_TIMEOUT)
        self._table = EmbeddingTable(self._model, config.model_config, ranks)
        self.private_layers = PrivateLayers(
            config,
            self._device,
            [group for groups in runner.attn_groups for group in groups],
            layers,
            static_context if compiles_embeddings(config) else self.operators.copy_layers(static_context),
            runner.kv_cache_config.num_blocks,
            self.limits.max_batch_size,
            self.limits.seq_len,
            self._pausable.checkpoint,
        )
        self._forward = ModelForward(self._model, config, self.private_layers, self.operators, self._device)
        self._inputs = BatchInputs(
            self._forward, self._table, InputShare(ranks), self._stage_vote, self._device
        )
        self._step_memory = partial(step_memory, worker, config)
        self._fingerprint = partial(numerics, config, layers, self._device, runner, self.operators)
        self._weights = WeightWatch(self._model, self._device)
        self._round: RoundTensors | None = None
        self._stops = StageStops([0], 0)  # until the warm-up has counted
        self._run: _Run | None = None

    def describe(self) -> dict[str, Any]:
        """Say what this rank serves."""
        model = self._config.model_config
        vocabulary, table_rows = self._table.vocabulary
        return {
            "stage": self._pipeline.stage,
            "hidden_size": model.get_hidden_size(),
            "dtype": str(self._dtype).removeprefix("torch."),
            "max_model_len": model.max_model_len,
            "max_batched_tokens": self.limits.max_batch_size * self.limits.seq_len,
            "max_sequences": self.limits.max_batch_size,
            "vocabulary": vocabulary,
            "table_rows": table_rows,
            "scratch_bytes": self.private_layers.scratch_bytes,
            "state_bytes": self.private_layers.state_bytes,
        }

    @expected_compilation()
    @torch.inference_mode()
    def warm_up(self) -> dict[str, Any]:
        """Try the kernels and run batches of the largest shape: nothing is then compiled first in a round.

        Returns:
            `peak_bytes`, what they needed at their peak, None where that is not known; `batch_seconds`, what
            the last of them took, and `slice_seconds`, the longest of its slices of one layer; `numerics`,
            the fingerprint.

        Raises:
            UnsupportedError: the model's embeddings or outputs are not of the hidden size, it writes
                inference's cache, it computes something else from embeddings than from tokens, or what a
                batch needs at its peak is not free beside inference.
            EngineError: the compiled model computes something else than the model.
            RuntimeError: a kernel computes something else than its reference.
        """
        self._on_each_rank(
            "trying PoC's kernels",
            lambda: check_ops(self._dtype, self._config.model_config.get_hidden_size(), self._device),
        )
        # The first stage has the table.
        vocabulary, *_ = self._pipeline.of_every_stage(self._table.vocabulary[0])
        definition = _largest_definition(vocabulary, self.limits.seq_len)
        spec = RoundSpec(
            digest="0" * 64,
            block_hash="warm-up",
            hidden_size=self._config.model_config.get_hidden_size(),
            seq_len=self.limits.seq_len,
            batch_size=self.limits.max_batch_size,
            first=NO_FIRST,
            input_scale=1.0,
            projection=True,
            projection_scale=0.01,
            **definition,
        )
        keys = [("", nonce) for nonce in range(spec.batch_size)]
        # Before any forward: inputs of another width than it takes are read past their end.
        token = torch.zeros(1, 1, dtype=torch.int64, device=self._device)
        self._in_each_stage(
            "trying the embedding function",
            lambda: self._forward.embed(token) if self._pipeline.is_first else None,
        )
        with measure_peak(self._device) as peak:
            self._on_each_rank("opening the warm-up", lambda: self.open_round(spec))
            passed, [inputs] = self._try(lambda: self._watch_live_cache(keys))
            layers = self._pipeline.of_every_stage(passed - sum(self._pipeline.transfers))
            self._stops = StageStops(layers, self._pipeline.stage)
            self._try(partial(self._settle_forward, inputs))
            del inputs
            # One after the other, as on a device that is kept fed, and one that stands still at every layer.
            whole = self.start([keys] if self._device.type == "cpu" else [keys, keys], None)
            shared = keys[: (len(keys) + 1) // 2]
            others = [("", len(keys) + nonce) for nonce in range(len(keys) - len(shared))]
            slices = [self.start([shared + others], 1)]
            while slices[-1]["batches"] is None:
                slices.append(self.advance(1))
            self.close_round()
        found, beside_others = (
            torch.tensor(batches["batches"][0]["numbers"][: len(shared)]) for batches in (whole, slices[-1])
        )
        seconds = [each["seconds"] for each in slices]
        if peak.bytes is not None:
            step = self._step_memory(peak.bytes, spec.batch_size * spec.seq_len)
            check_free(self._device, peak.bytes, step)
        self._world_vote.timeout = self._stage_vote.timeout = timedelta(seconds=self.limits.engine_timeout)
        # Longer, so that a rank which has failed says so before the wait for its forward ends.
        self._pausable.timeout = 1.5 * self._stage_vote.timeout
        numerics = self._fingerprint(
            is_compiled=self._forward.is_compiled,
            takes_rows=self._inputs.are_rows if self._pipeline.is_first else None,
            final_norm=self._forward.final_norm if self._pipeline.is_last else None,
            independent_nonces=torch.equal(found, beside_others),
        )
        return {
            "peak_bytes": peak.bytes,
            # Of the second batch: all has been compiled for the first.
            "batch_seconds": sum(seconds),
            "slice_seconds": max(seconds),
            "numerics": numerics,
        }

    def open_round(self, spec: RoundSpec) -> int:
        """Draw the round's projections; returns the bytes they hold on this rank."""
        self.close_round()
        self._round = RoundTensors(spec, self._dtype, self._device)
        with torch.inference_mode():
            self._weights.remember()
        return self._round.projection_bytes

    def close_round(self) -> None:
        """Free the round's tensors, giving up suspended batches; without a round nothing happens."""
        self._give_up()
        self._round = None
        self._weights.forget()

    def start(self, batches: Sequence[Sequence[NonceKey]], layers: int | None) -> dict[str, Any]:
        """Begin to compute numbers, and go on for so many layers.

        Args:
            batches: in each (public key, nonce), between one and the round's `batch_size`. A batch is padded
                to its fixed shape with the first of them. Of several, each is launched before the results of
                the one before are read.
            layers: as for `advance`.

        Raises:
            EngineError: no round is open, other batches are suspended, or the weights have changed.
            FieldError: the number of keys does not fit.
        """
        if self._run is not None:
            raise EngineError("PoC batches are suspended on this worker; no others can begin")
        self._run = run = _Run(batches)
        self._pausable.start(partial(self._compute, run))
        return self.advance(layers)

    def advance(self, layers: int | None) -> dict[str, Any]:
        """Let the suspended batches go on for so many layers, to their end where that is None.

        Layers are those of all stages. A stage that the batches have not reached, or have left, stands still.

        Returns:
            `seconds`, the device's time; `layers`, how many layers it has got through that keep a cache or a
            state; and `batches`, None where it is suspended again, else for each batch `numbers`, those of
            each nonce, NaN where it failed, and `host_seconds`, which this process took to launch it.

        Raises:
            EngineError: none are suspended, a KV connector is at work, or the weights have changed since the
                round was opened.
        """
        run = self._run
        if run is None:
            raise EngineError("no PoC batch is suspended on this worker")
        # Only other calls of this worker change either, none of which comes before this one has ended.
        self._on_each_rank("looking for what disturbs a batch", self._check_undisturbed)
        busy = DeviceTime(self._device)
        count, end = len(run.batches), len(run.batches) * self._stops.total
        run.target = None if layers is None or run.progress + layers >= end else run.progress + layers
        stops = self._stops.passed(run.target, count) - self._stops.passed(run.progress, count)

        def go_on() -> None:
            if stops:
                _, done = self._pausable.advance(None if run.target is None else stops)
                run.results = done[0] if done else None
            busy.stop()
            # A slice is over when the device has done it, or slices would pile up behind the launch queue.
            self._stage_vote.wait_for_device(busy.has_arrived)

        try:
            # Where one rank of a stage has failed and another stands at a checkpoint, their collectives no
            # longer pair. Between stages transfers do: one that has failed has told the next one so.
            self._in_each_stage("a slice of a PoC batch", go_on)
        except Exception:
            self._give_up()
            raise
        before, run.progress = run.progress, end if run.target is None else run.target
        if run.target is None:
            self._run = None
        return {
            "seconds": busy.seconds,
            "layers": run.progress - before,
            "batches": run.results if run.target is None else None,
        }

    def _give_up(self) -> None:
        """Free suspended batches; without any, nothing happens."""
        self._pausable.cancel()
        self._run = None

    def _on_each_rank(self, step: str, action: Callable[[], _Result]) -> _Result:
        """Take a step without collectives: where it fails on one rank of any stage, it fails on all."""
        return self._world_vote.without_collectives(
            step, lambda: self._stage_vote.without_collectives(step, action)
        )

    def _in_each_stage(self, step: str, action: Callable[[], _Result]) -> _Result:
        """Take a step with collectives of a stage's ranks: where it fails in one stage, it fails in all."""
        return self._world_vote.without_collectives(
            step, lambda: self._stage_vote.with_collectives(step, action)
        )

    @torch.inference_mode()
    def _check_undisturbed(self) -> None:
        check_connector_rests()
        has_changed = self._weights.moved()
        if not has_changed and (differing := self._weights.differing()) is not None:
            found = HostCopy(differing)
            self._stage_vote.wait_for_device(found.has_arrived)
            has_changed = bool(found.tensor.item())
        if has_changed:
            raise EngineError(
                "the model's weights have changed since the round was opened: no number is reported that "
                "some of its layers computed with other weights than the rest"
            )

    def _try(self, action: Callable[[], Any]) -> tuple[int, list[Any]]:
        self._pausable.start(action)
        return self._pausable.advance(None)

    @torch.inference_mode()
    def _watch_live_cache(self, keys: Sequence[NonceKey]) -> ModelInputs:
        """Run a batch of the largest shape, and refuse a model that writes inference's cache.

        The first forward of a start: what it overwrites is nobody's yet.

        Returns:
            What this stage was given of the first nonce.
        """
        guard = LiveCacheGuard(self._forward.name, self._model, self._layers, self.private_layers)
        batch = self._on_each_rank("preparing the warm-up", lambda: self._prepare(keys))
        kept: list[ModelInputs] = []

        def watch() -> None:
            inputs = self._enter(batch)
            kept.append(inputs.copy_of_first())
            guard.watch(lambda: self._leave(inputs), *inputs.shape)

        def through_the_stage() -> None:
            with self._pipeline.paired(lambda: self._pipeline.transfers):
                self._stage_vote.with_collectives("the first forward", watch)

        self._world_vote.without_collectives("the first forward", through_the_stage)
        self._on_each_rank("looking for what it has written", guard.check)
        return kept[0]

    @torch.inference_mode()
    def _settle_forward(self, inputs: ModelInputs) -> None:
        """Find out how the model can be run, each stage by itself.

        That is: whether the compiled model is the model, whether it makes the same of tokens as of their
        embeddings, whether these are rows of its table, and whether its final norm can wait for the sums.

        Args:
            inputs: what this stage was given of one nonce, to try it with.
        """

        def try_embeddings() -> None:
            if self._pipeline.is_first and inputs.tokens is not None:
                self._forward.check_embeddings(inputs.tokens)
                self._inputs.try_rows(self.limits.max_batch_size * self.limits.seq_len)

        def try_final_norm() -> None:
            if self._pipeline.is_last:
                self._forward.leave_norm_to_sums(inputs)

        self._in_each_stage("trying the compiled model", lambda: self._forward.check_compiled(inputs))
        self._in_each_stage("trying the embeddings", try_embeddings)
        self._in_each_stage("trying the final norm", try_final_norm)

    @torch.inference_mode()
    def _compute(self, run: _Run) -> list[dict[str, Any]]:
        results = []
        running: _RunningBatch | None = None
        with self._pipeline.paired(lambda: self._stops.transfers(run.target, len(run.batches))):
            for keys in run.batches:
                launched = self._launch(keys)
                if running is not None:
                    results.append(self._read(running))
                running = launched
            if running is not None:
                results.append(self._read(running))
        return results

    def _launch(self, keys: Sequence[NonceKey]) -> _RunningBatch:
        begun = time.thread_time()  # which stands still where the thread does
        batch = self._stage_vote.without_collectives("preparing a PoC batch", lambda: self._prepare(keys))

        def run() -> HostCopy | None:
            hidden = self._leave(self._enter(batch))
            if hidden is None:
                return None
            return HostCopy(batch.tensors.numbers(hidden.states, batch.keys, batch.order, hidden.norm))

        numbers = self._stage_vote.with_collectives("the forward of a PoC batch", run)
        return _RunningBatch(numbers, len(keys), time.thread_time() - begun)

    def _enter(self, batch: _PreparedBatch) -> ModelInputs:
        """Return what a batch comes into this stage with, a collective of its ranks."""
        shape = len(batch.keys), batch.tensors.seq_len
        if not self._pipeline.is_first:
            return ModelInputs(shape, tokens=batch.inputs.tokens, states=self._pipeline.receive())
        rows = self._inputs.combine(batch.tensors, batch.inputs)
        return ModelInputs(shape, rows, batch.inputs.tokens)

    def _leave(self, inputs: ModelInputs) -> FinalHidden | None:
        """Run this stage; returns what the last one ends with, and sends what another one does."""
        if self._pipeline.is_last:
            return self._forward.final_hidden(inputs)
        self._pipeline.send(self._forward.advance(inputs))
        return None

    def _read(self, batch: _RunningBatch) -> dict[str, Any]:
        # What fails on the device is seen here, after the collectives: a divided vote has to stop the engine.
        def read() -> list[list[float]]:
            if batch.numbers is None:
                return []
            self._stage_vote.wait_for_device(batch.numbers.has_arrived)
            numbers: list[list[float]] = batch.numbers.tensor.tolist()
            return numbers

        numbers = self._stage_vote.with_collectives("reading a PoC batch", read)
        return {"numbers": numbers[: batch.size], "host_seconds": batch.host_seconds}

    def _prepare(self, keys: Sequence[NonceKey]) -> _PreparedBatch:
        if self._round is None:
            raise EngineError("no PoC round is open on this worker")
        tensors, padded = self._round, pad_keys(keys, self._round.batch_size)
        prepare = self._inputs.prepare if self._pipeline.is_first else self._inputs.prepare_tokens
        return _PreparedBatch(tensors, padded, prepare(tensors, padded), tensors.order(padded))


def _largest_definition(vocabulary: int, seq_len: int) -> dict[str, Any]:
    """Return inputs and readout of a batch that needs the most: tokens and groups where both can be had."""
    numbers = min(16, (seq_len - FIRST_ROW) // 2)
    has_groups = numbers > 0 and seq_len % 2 == 0
    return {
        "inputs": "tokens" if vocabulary else "normal",
        "vocabulary": vocabulary,
        "readout": "rows" if has_groups else "last",
        "numbers": numbers if has_groups else 1,
    }
