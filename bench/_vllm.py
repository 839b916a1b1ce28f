"""vLLM with PoC in it, offline: no server around, the worker's methods within reach."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _models import ModelShape, write_model

from hallmark.server.models.small import fast_dtype

ENVIRONMENT = {
    "VLLM_PLUGINS": "hallmark",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def vllm_is_installed() -> bool:
    """Return whether there is a vLLM to measure."""
    return find_spec("vllm") is not None


class Engine:
    """The calls that benches make of an engine."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm
        self._sequence = 0
        self.set_up: dict[str, Any] = self.poc("poc_setup")
        self.warm: dict[str, Any] = self.poc("poc_warm_up")

    def call(self, method: str, *arguments: object) -> Any:
        """Return the first rank's answer to one of the bench worker's methods."""
        return self.llm.collective_rpc(method, args=arguments)[0]

    def poc(self, method: str, *arguments: object) -> Any:
        """Return what one of PoC's worker methods gives.

        Raises:
            RuntimeError: It failed.
        """
        self._sequence += 1
        reply = self.call(method, self._sequence, *arguments)
        if reply["status"] != "ok":
            raise RuntimeError(f"{method}: {reply['error']}")
        return reply["payload"]


@contextmanager
def running_engine(
    shape: ModelShape, *, batch_size: int, seq_len: int, **options: object
) -> Iterator[Engine]:
    """Load a model of a shape with random weights into vLLM, with PoC set up and warmed up.

    Args:
        shape: the model's.
        batch_size: of PoC's batches.
        seq_len: of PoC's batches.
        **options: as for `engine_on`.
    """
    with TemporaryDirectory() as directory:
        write_model(shape, Path(directory))
        options = {"load_format": "dummy", "dtype": fast_dtype(), **options}
        with engine_on(Path(directory), batch_size=batch_size, seq_len=seq_len, **options) as engine:
            yield engine


@contextmanager
def engine_on(directory: Path, *, batch_size: int, seq_len: int, **options: object) -> Iterator[Engine]:
    """Load the model of a folder into vLLM, with PoC set up and warmed up.

    Args:
        directory: the folder.
        batch_size: of PoC's batches.
        seq_len: of PoC's batches.
        **options: of vLLM's `LLM`, in the place of what stands here: eager, 2,048 tokens of context.
    """
    # Processes that vLLM starts import the bench worker by its name.
    folder = str(Path(__file__).parent)
    os.environ.update(ENVIRONMENT)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    from vllm import LLM

    settings: dict[str, object] = {
        "enforce_eager": True,
        "max_model_len": 2048,
        "max_num_seqs": max(batch_size, 32),
        "max_num_batched_tokens": max(batch_size * seq_len, 2048),
        "worker_extension_cls": "_worker.BenchWorker",
        "additional_config": {"hallmark": {"max_batch_size": batch_size, "seq_len": seq_len}},
    }
    llm = LLM(model=str(directory), **{**settings, **options})
    try:
        yield Engine(llm)
    finally:
        llm.llm_engine.engine_core.shutdown()
