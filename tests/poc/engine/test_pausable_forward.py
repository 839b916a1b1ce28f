"""A task in a thread that stands still at checkpoints, and moves only while somebody waits for it."""

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta

import pytest
import torch
from vllm.forward_context import ForwardContext, override_forward_context
from vllm.forward_context import is_forward_context_available as has_context

from hallmark.poc.engine.pausable_forward import PausableForward

TIMEOUT = timedelta(seconds=30)
STOPPED = 70


@pytest.fixture
def pausable() -> PausableForward:
    return PausableForward(lambda: None, nullcontext, TIMEOUT)


class Counting:
    """A task that counts its way past checkpoints."""

    def __init__(self, pausable: PausableForward, until: int) -> None:
        self.pausable = pausable
        self.until = until
        self.count = 0

    def __call__(self) -> str:
        for _ in range(self.until):
            self.pausable.checkpoint()
            self.count += 1
        return "done"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 10, 11, None])
def test_it_stands_still_after_so_many_checkpoints(pausable: PausableForward, step: int | None) -> None:
    task = Counting(pausable, 10)
    pausable.start(task)
    assert (task.count, pausable.is_suspended) == (0, True), "it does not move by itself"
    passed = 0
    while True:
        here, result = pausable.advance(step)
        passed += here
        assert task.count == passed
        if result:
            break
        assert here == step
        assert pausable.is_suspended
    assert (result, passed, pausable.is_suspended) == (["done"], 10, False)


def test_one_task_at_a_time(pausable: PausableForward) -> None:
    with pytest.raises(RuntimeError, match="no task is suspended"):
        pausable.advance(1)
    pausable.start(Counting(pausable, 3))
    with pytest.raises(RuntimeError, match="suspended already"):
        pausable.start(Counting(pausable, 3))


def test_what_a_thread_must_set_for_itself_is_set_before_it_goes_on() -> None:
    """Before its first move, before a task begins and before one goes on; not where it is given up."""
    followed: list[int] = []
    entered: list[int] = []

    def follow() -> Callable[[], None]:
        followed.append(threading.get_ident())
        return lambda: entered.append(threading.get_ident())

    pausable = PausableForward(follow, nullcontext, TIMEOUT)
    assert len(entered) == 1

    def task() -> list[int]:
        counts = [len(entered)]
        pausable.checkpoint()
        pausable.checkpoint()
        return [*counts, len(entered)]

    pausable.start(task)
    pausable.advance(1)
    assert pausable.advance(None) == (1, [[2, 3]])
    assert set(followed) == {threading.get_ident()}, "it is asked for where somebody waits"
    pausable.start(threading.get_ident)
    [thread] = pausable.advance(None)[1]
    assert entered == [thread] * 4
    pausable.start(task)
    pausable.advance(1)
    pausable.cancel()
    assert len(entered) == len(followed) == 5


@pytest.mark.parametrize("checkpoints", [0, 1])
def test_what_it_cannot_set_for_itself_is_a_failure_of_the_task(checkpoints: int) -> None:
    def fail() -> None:
        raise RuntimeError("no such stream")

    places: list[Callable[[], None] | None] = [None, *[None] * checkpoints, fail]
    pausable = PausableForward(lambda: places.pop(0), nullcontext, TIMEOUT)
    pausable.start(Counting(pausable, 3))
    if checkpoints:
        pausable.advance(1)
    with pytest.raises(RuntimeError, match="no such stream"):
        pausable.advance(None)
    assert not pausable.is_suspended


def test_its_inference_mode_stays_its_own(pausable: PausableForward) -> None:
    def task() -> bool:
        with torch.inference_mode():
            pausable.checkpoint()
            pausable.checkpoint()
            return torch.is_inference_mode_enabled()

    pausable.start(task)
    pausable.advance(1)
    assert not torch.is_inference_mode_enabled()
    assert pausable.advance(None) == (1, [True])


def test_its_forward_context_is_gone_while_it_stands_still(pausable: PausableForward) -> None:
    ours = object.__new__(ForwardContext)

    pausable = PausableForward(lambda: None, lambda: override_forward_context(None), TIMEOUT)

    def task() -> bool:
        with override_forward_context(ours):
            pausable.checkpoint()
            pausable.checkpoint()
            is_set: bool = has_context()
            return is_set

    pausable.start(task)
    pausable.advance(1)
    assert not has_context()
    with override_forward_context(object.__new__(ForwardContext)):
        pass  # a step of inference
    assert pausable.advance(None) == (1, [True])
    assert not has_context()


@pytest.fixture
def held() -> Iterator[list["weakref.ref[torch.Tensor]"]]:
    """What tasks note of their tensors; garbage is not collected meanwhile, so that no cycle goes unseen."""
    gc.collect()
    gc.disable()
    try:
        yield []
    finally:
        gc.enable()


@pytest.mark.parametrize("passed", [None, 1, 2])
def test_a_cancelled_task_frees_what_it_holds(
    pausable: PausableForward, held: "list[weakref.ref[torch.Tensor]]", passed: int | None
) -> None:
    """Before its first step and at any checkpoint; an `except Exception` on the way does not stop it."""

    def task() -> None:
        tensor = torch.zeros(10)
        held.append(weakref.ref(tensor))
        try:
            for _ in range(5):
                pausable.checkpoint()
        except Exception:  # noqa: BLE001
            pytest.fail("the model would take it for a failure")
        pytest.fail("it went on")

    pausable.start(task)
    if passed is not None:
        pausable.advance(passed)
        assert held[0]() is not None
    pausable.cancel()
    assert not pausable.is_suspended
    assert all(reference() is None for reference in held)
    pausable.cancel()
    pausable.start(lambda: "the next")
    assert pausable.advance(1) == (0, ["the next"])


@pytest.mark.parametrize("checkpoints", [0, 2])
def test_a_failure_is_raised_where_somebody_waits_and_frees_what_it_held(
    pausable: PausableForward, held: "list[weakref.ref[torch.Tensor]]", checkpoints: int
) -> None:
    def task() -> None:
        tensor = torch.zeros(10)
        held.append(weakref.ref(tensor))
        for _ in range(checkpoints):
            pausable.checkpoint()
        raise ValueError(f"it failed with {tensor.numel()}")

    pausable.start(task)
    if checkpoints:
        pausable.advance(1)
    with pytest.raises(ValueError, match="it failed with 10") as failure:
        pausable.advance(None)
    del failure
    assert held[0]() is None
    assert not pausable.is_suspended
    pausable.start(lambda: "the next")
    assert pausable.advance(None) == (0, ["the next"])


def test_a_thread_that_does_not_come_back_stops_the_process() -> None:
    """`/health` would stay green behind a worker that waits for ever."""
    code = """
import threading
from contextlib import nullcontext
from datetime import timedelta
from hallmark.poc.engine.pausable_forward import PausableForward

pausable = PausableForward(lambda: None, nullcontext, timedelta(seconds=0.3))
pausable.start(threading.Event().wait)
pausable.advance(1)
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == STOPPED
    assert "a PoC batch has not come to its next checkpoint within 0:00:00.3" in done.stderr
