"""vLLM in this process, for numbers that are recomputed without a server.

It is what vLLM's `LLM` runs, driven by the worker methods that the server uses. Nothing of vLLM is imported
but in functions: what it reads of the environment has to be set before.
"""

import asyncio
import hashlib
import io
import math
import os
import sys
import warnings
from argparse import ArgumentError, ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hallmark.poc.core.errors import EngineError, FieldError, HallmarkError, UnsupportedError
from hallmark.poc.engine.refusals import unknown_flags, what_vllm_says
from hallmark.poc.engine.unsupported import check_arguments, check_config
from hallmark.poc.offline.engine import Batch, Computed
from hallmark.poc.offline.model_files import model_fingerprint
from hallmark.poc.protocol.config import DeployedModel
from hallmark.poc.protocol.proof import Numerics
from hallmark.poc.protocol.round_spec import RoundSpec
from hallmark.poc.protocol.streams import length_prefixed
from hallmark.poc.settings.engine_limits import SECTION, EngineLimits, settings_section

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.engine.llm_engine import LLMEngine

    from hallmark.poc.engine.client import VllmEngine

__all__ = ["InProcessClient", "VllmLoader", "VllmModel"]

_ENVIRONMENT: Final = {
    # One process where one device is enough: it ends with this one, however that ends.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # As vLLM's command has it: fork would copy what an accelerator's driver has set up.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # Standard output is for verdicts.
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""What is set where the user has not."""

_SMALLEST_STEP: Final = 2048
"""vLLM's smallest default for the tokens of a step: a batch that fits needs no flag."""

_CACHE_MARGIN: Final = 1.25
"""For layers of several kinds, whose pages are made equally large."""

_SPARE_TOKENS: Final = 2048
"""Of blocks that are not full, and of those that belong to no sequence."""

_STATES: Final = 5
"""For each layer. Where layers keep states, vLLM makes a block as large as one of them: it keeps three of a
sequence whose prefixes are cached, attention's last block may be empty, and one belongs to no sequence."""

_WITHOUT_ATTENTION: Final = frozenset({"linear_attention", "mamba", "conv", "mlp", "moe"})
"""Kinds of layers in configurations; whatever else one says may hold keys and values."""

_PATIENCE: Final = 1800.0
"""Seconds after which a batch is taken for stuck: nobody waits for inference beside it."""


@dataclass(frozen=True)
class VllmLoader:
    """Loads a model into a vLLM of this process.

    Attributes:
        directory: The model's folder.
        batch_size: Of the rounds whose nonces are recomputed.
        seq_len: The same.
        dtype: What to run it in; None is what its configuration names.
        flags: vLLM's own, as `vllm serve` takes them.
        in_pool: Whether other models run on this machine too, so that this one must not take all its cores.
    """

    directory: Path
    batch_size: int
    seq_len: int
    dtype: str | None = None
    flags: tuple[str, ...] = ()
    in_pool: bool = False

    @property
    def devices(self) -> int:
        """One for each rank; 0 where vLLM deals its ranks out by Ray."""
        parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        for way, short in (("tensor", "-tp"), ("pipeline", "-pp")):
            names = f"--{way}-parallel-size", f"--{way}_parallel_size", short
            parser.add_argument(*names, type=int, default=1)
        parser.add_argument("--distributed-executor-backend", "--distributed_executor_backend")
        try:
            said, _ = parser.parse_known_args(self.flags)
        except ArgumentError:
            return 1  # vLLM says what is wrong with it
        if said.distributed_executor_backend == "ray":
            return 0
        return math.prod(max(1, size) for size in (said.tensor_parallel_size, said.pipeline_parallel_size))

    def fingerprint(self) -> str:
        """That of the model's files and of the flags, some of which make another model of them."""
        files = model_fingerprint(self.directory)
        return hashlib.sha256(length_prefixed(files, *self.flags)).hexdigest() if self.flags else files

    def load(self) -> "VllmModel":
        """Start the engine and warm it up.

        Raises:
            FieldError: The folder is not there, or a flag has a value that is not allowed.
            UnsupportedError: vLLM is not installed or refuses the model or a flag, or proof of compute does
                not work with what is asked for: the server's refusals, in the same words.
            EngineError: It does not start.
        """
        _check_installed()
        if not self.directory.is_dir():
            raise FieldError(
                "model", str(self.directory), "a directory with a model's configuration and weights"
            )
        _set_environment(in_pool=self.in_pool)
        with ExitStack() as stack:
            stack.enter_context(_standard_output_to_error())
            vllm = self._start()
            stack.callback(vllm.engine_core.shutdown)
            from hallmark.poc.engine.client import VllmEngine

            limits = EngineLimits.from_additional_config(vllm.vllm_config.additional_config)
            # What ends a server ends no verifier: whoever asks for the next batch is told.
            engine = VllmEngine(InProcessClient(vllm), limits.engine_timeout, end=lambda _: None)
            runner = stack.enter_context(asyncio.Runner())
            runner.run(engine.set_up([]))
            return VllmModel(engine, runner, stack.pop_all())

    def _start(self) -> "LLMEngine":
        import vllm
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from hallmark.poc.engine.pins import vllm_files
        from hallmark.poc.engine.support import check_limits
        from hallmark.poc.engine.versions import check_version

        check_version(vllm.__version__, vllm_files(), allow_unsupported=False)
        args = self._parse()
        check_arguments(args, os.environ)
        try:
            config = EngineArgs.from_cli_args(args).create_engine_config()
            check_config(config)
            check_limits(config, EngineLimits.from_additional_config(config.additional_config))
        except HallmarkError:
            raise
        except Exception as exc:
            raise UnsupportedError(f"vLLM refuses it: {what_vllm_says(exc)}") from exc
        if args.gpu_memory_utilization == EngineArgs.gpu_memory_utilization:
            _take_little_cache(config)
        try:
            # vLLM's own warnings about what it uses are not for who verifies.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return LLMEngine.from_vllm_config(config, disable_log_stats=True)
        except Exception as exc:
            raise EngineError(f"vLLM does not start: {what_vllm_says(exc)}") from exc

    def _parse(self) -> Namespace:
        """Parse the flags, with what a verifier wants where they say nothing.

        Raises:
            FieldError: A setting of Hallmark's is not allowed, or the flags name another model.
            UnsupportedError: vLLM does not know a flag, or not the value of one.
        """
        from vllm.engine.arg_utils import EngineArgs
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        parser = EngineArgs.add_cli_args(FlexibleArgumentParser(prog="vllm"))
        # Of two equal flags vLLM takes the later one. A round's forward is not compiled, with one exception:
        # then these flags say so.
        arguments = ["--model", str(self.directory), "--enforce-eager"]
        if self.dtype is not None:
            arguments += ["--dtype", self.dtype]
        if self.in_pool:
            # Inside of Ray vLLM would spread its ranks by Ray.
            arguments += ["--distributed-executor-backend", "mp"]
        told = io.StringIO()
        try:
            with redirect_stderr(told):
                args: Namespace = parser.parse_args([*arguments, *self.flags])
        except SystemExit as exc:
            raise UnsupportedError(f"vLLM refuses it: {unknown_flags(told.getvalue(), exc.code)}") from exc
        if args.model != str(self.directory):
            raise FieldError("--model", args.model, "one model, which stands in front of --")
        additional = dict(args.additional_config or {})
        additional[SECTION] = {
            "engine_timeout": _PATIENCE,
            **settings_section(additional),
            "max_batch_size": self.batch_size,
            "seq_len": self.seq_len,
        }
        args.additional_config = additional
        tokens = self.batch_size * self.seq_len
        if args.max_num_batched_tokens is None and tokens > _SMALLEST_STEP:
            args.max_num_batched_tokens = tokens
        if args.max_num_seqs is None:
            args.max_num_seqs = self.batch_size
        args.use_tqdm_on_load = False
        return args


class VllmModel:
    """A model on a vLLM of this process: an `OfflineEngine`.

    Args:
        engine: Set up.
        runner: What its calls run in.
        resources: What is freed when it is closed.
    """

    def __init__(self, engine: "VllmEngine", runner: asyncio.Runner, resources: ExitStack) -> None:
        self._engine = engine
        self._runner = runner
        self._resources = resources
        self._spec: RoundSpec | None = None

    @property
    def facts(self) -> DeployedModel:
        """What a round has to know of the model."""
        return replace(self._engine.model, served_names=())

    @property
    def numerics(self) -> Numerics:
        """The fingerprint of its arithmetic, as a server of the same flags has it."""
        return self._engine.numerics

    def compute(self, batches: Iterable[Batch]) -> Iterator[Computed]:
        """Compute batches one after the other.

        Raises:
            EngineError: A batch failed on the engine.
        """
        for batch in batches:
            yield Computed(batch, self._runner.run(self._numbers(batch)))

    async def _numbers(self, batch: Batch) -> list[list[float]]:
        if self._spec != batch.spec:
            self._spec = None
            await self._engine.open_round(batch.spec)
            self._spec = batch.spec
        done = await self._engine.start([batch.keys], None)
        if done.batches is None:
            raise EngineError("the engine stands still in the middle of a batch")
        return done.batches[0].numbers

    def close(self) -> None:
        """End the engine, and the processes of its other ranks."""
        self._resources.close()


class InProcessClient:
    """What `VllmEngine` asks of vLLM's client, of an engine in this process."""

    def __init__(self, engine: "LLMEngine") -> None:
        self.vllm_config = engine.vllm_config
        self.output_processor = engine.output_processor
        self.renderer = engine.renderer
        self._engine = engine

    async def collective_rpc(self, method: str, args: tuple[Any, ...]) -> list[Any]:
        """Call a method of every worker; nothing else runs meanwhile."""
        replies: list[Any] = self._engine.collective_rpc(method, args=args)
        return replies


def _check_installed() -> None:
    if find_spec("vllm") is None:
        error = UnsupportedError("--engine vllm needs vLLM")
        error.add_note("pip install vllm brings it, or leave --engine out: transformers needs none")
        raise error


def _set_environment(*, in_pool: bool) -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if in_pool:
        # On CPUs each engine would bind its threads to the machine's first cores.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    plugins = os.environ.get("VLLM_PLUGINS")
    if plugins is not None and SECTION not in plugins.split(","):
        os.environ["VLLM_PLUGINS"] = ",".join(filter(None, [plugins, "hallmark"]))


def _take_little_cache(config: "VllmConfig") -> None:
    """Give inference, which there is none of, the cache of one longest sequence, where nobody says.

    vLLM asks for that much; left alone it would take nearly all memory, of which PoC's batches need some.
    """
    cache, model, parallel = config.cache_config, config.model_config, config.parallel_config
    if cache.kv_cache_memory_bytes is not None:
        return
    text, layers = model.hf_text_config, model.get_num_layers(parallel)
    kinds = getattr(text, "layers_block_type", None) or getattr(text, "layer_types", None)
    attention = sum(kind not in _WITHOUT_ATTENTION for kind in kinds) if kinds else layers
    of_a_token = 2 * model.get_num_kv_heads(parallel) * model.get_head_size() * model.dtype.itemsize
    tokens = attention * of_a_token * (model.max_model_len + _SPARE_TOKENS)
    cache.kv_cache_memory_bytes = int(_CACHE_MARGIN * (tokens + _STATES * layers * _state_bytes(config)))


def _state_bytes(config: "VllmConfig") -> int:
    """Return what a layer's state of a sequence takes on a rank; 0 where layers keep none."""
    model = config.model_config
    if not (model.is_hybrid or model.is_attention_free):
        return 0
    kind, _ = model.registry.resolve_model_cls(model.architecture, model)
    shapes = kind.get_mamba_state_shape_from_config(config)
    dtypes = kind.get_mamba_state_dtype_from_config(config)
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True))


@contextmanager
def _standard_output_to_error() -> Iterator[None]:
    """Send what this process and its children write to standard output to standard error."""
    if sys.stdout is None:  # it is closed, and vLLM would write to it
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    with suppress(OSError):  # where standard error is closed
        os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
