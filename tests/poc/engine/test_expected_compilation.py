"""vLLM's monitor of late compilation, the real one, and what PoC compiles while it is set up."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from triton import knobs
from vllm.utils import jit_monitor

from hallmark.poc.engine.expected_compilation import expected_compilation
from hallmark.poc.engine.worker import PoCWorker


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The monitor as a worker arms it with `--jit-monitor-mode error`."""
    monkeypatch.setattr(knobs.runtime, "jit_post_compile_hook", None)
    monkeypatch.setattr(jit_monitor, "HAS_TRITON", True)
    monkeypatch.setattr(jit_monitor, "_mode", "error")
    jit_monitor._setup_triton_jit_hook()


def compile_a_kernel() -> None:
    """Do what Triton does after it has compiled one."""
    if knobs.runtime.jit_post_compile_hook is not None:
        knobs.runtime.jit_post_compile_hook(fn=SimpleNamespace(name="_draw_normals_kernel"), compile={})


def is_reported() -> bool:
    try:
        compile_a_kernel()
    except RuntimeError:
        return True
    return False


@pytest.mark.usefixtures("monitor")
def test_what_is_expected_is_not_reported() -> None:
    assert is_reported()
    with expected_compilation():
        compile_a_kernel()
    assert is_reported()


@pytest.mark.usefixtures("monitor")
def test_what_comes_after_a_failure_is_reported() -> None:
    with pytest.raises(ValueError, match="in the middle"), expected_compilation():
        raise ValueError("in the middle")
    assert is_reported()


class RefusedError(Exception):
    pass


@pytest.mark.usefixtures("monitor")
def test_the_workers_warm_up_is_expected_to_compile() -> None:
    reported: list[bool] = []

    def try_kernels(step: str, action: Callable[[], Any]) -> None:
        reported.append(is_reported())
        raise RefusedError(step)

    worker: Any = object.__new__(PoCWorker)
    worker.limits = SimpleNamespace(seq_len=16, max_batch_size=2)
    worker._config = SimpleNamespace(model_config=SimpleNamespace(get_hidden_size=lambda: 64))
    worker._table = SimpleNamespace(vocabulary=(4096, 4096))
    worker._world_vote = SimpleNamespace(without_collectives=try_kernels)
    worker._dtype, worker._device = torch.bfloat16, torch.device("cpu")
    with pytest.raises(RefusedError, match="trying PoC's kernels"):
        worker.warm_up()
    assert reported == [False]
    assert is_reported(), "what a round compiles is"
