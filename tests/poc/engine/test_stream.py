"""PoC's thread is on the stream that inference's thread is on, also where vLLM has changed that.

Without a device: streams are names, and vLLM's own `current_stream()` and `set_stream` decide who is on
which.
"""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import vllm.platforms
from vllm.utils import torch_utils

from hallmark.poc.engine.pausable_forward import PausableForward
from hallmark.poc.engine.stream import SameStream

TIMEOUT = timedelta(seconds=30)
CUDA = torch.device("cuda:0")


class Streams:
    """A stand-in for CUDA's streams.

    Attributes:
        waits: Which stream waits for which, in order.
        devices: The device that each thread has set.
    """

    def __init__(self) -> None:
        self._threads = threading.local()
        self._numbers = count(1)
        self.waits: list[tuple[str, str]] = []
        self.devices: dict[int, torch.device] = {}
        self.default = self.make("default")

    def make(self, name: str = "") -> SimpleNamespace:
        stream = SimpleNamespace(name=name or f"stream {next(self._numbers)}")
        stream.wait_stream = lambda other: self.waits.append((stream.name, other.name))
        return stream

    def current(self, device: torch.device | None = None) -> SimpleNamespace:
        stream: SimpleNamespace = getattr(self._threads, "stream", self.default)
        return stream

    def set(self, stream: SimpleNamespace) -> None:
        self._threads.stream = stream

    def set_device(self, device: torch.device) -> None:
        self.devices[threading.get_ident()] = device


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    streams = Streams()
    monkeypatch.setattr(torch.cuda, "Stream", streams.make)
    monkeypatch.setattr(torch.cuda, "current_stream", streams.current)
    monkeypatch.setattr(torch.cuda, "set_device", streams.set_device)
    # What vLLM's own `set_stream` hands on to.
    monkeypatch.setattr(torch_utils, "prev_set_stream", streams.set)
    monkeypatch.setattr(torch_utils, "_current_stream_tls", threading.local())
    platform = SimpleNamespace(is_cuda=lambda: True, is_rocm=lambda: False, is_cpu=lambda: False)
    monkeypatch.setattr(vllm.platforms, "_current_platform", platform)
    return streams


@pytest.fixture
def pausable(streams: Streams) -> PausableForward:
    return PausableForward(SameStream(CUDA), nullcontext, TIMEOUT)


def current_name() -> str:
    """The stream that PyTorch takes this thread to be on."""
    stand_in: Any = torch.cuda.current_stream()
    return str(stand_in.name)


def where(pausable: PausableForward, stops: int) -> Callable[[], list[tuple[str, str]]]:
    """A task that notes at each stop which stream PyTorch and vLLM take it to be on."""

    def task() -> list[tuple[str, str]]:
        seen = []
        for stop in range(stops + 1):
            seen.append((current_name(), torch_utils.current_stream().name))
            if stop < stops:
                pausable.checkpoint()
        return seen

    return task


def test_it_starts_where_the_worker_is(streams: Streams, pausable: PausableForward) -> None:
    pausable.start(where(pausable, 0))
    assert pausable.advance(None)[1] == [[("default", "default")]]
    pausable.start(threading.get_ident)
    [thread] = pausable.advance(None)[1]
    assert streams.devices == {thread: CUDA}
    assert current_name() == "default", "the worker is left where it is"


def test_a_stream_that_vllm_makes_between_batches_is_followed(
    streams: Streams, pausable: PausableForward
) -> None:
    made = torch_utils.current_stream().name  # what an eager server's layer of experts calls in a small step
    assert current_name() == made == "stream 1"
    waits = len(streams.waits)
    pausable.start(where(pausable, 0))
    assert pausable.advance(None)[1] == [[(made, made)]]
    assert streams.waits[waits:] == [(made, "default")], "behind what was launched on the old one"


def test_a_stream_that_vllm_makes_while_a_batch_stands_still_is_followed(
    streams: Streams, pausable: PausableForward
) -> None:
    pausable.start(where(pausable, 3))
    pausable.advance(0)
    made = torch_utils.current_stream().name
    waits = len(streams.waits)
    pausable.advance(1)
    pausable.advance(1)
    old, new = ("default", "default"), (made, made)
    assert pausable.advance(None)[1] == [[old, new, new, new]]
    assert streams.waits[waits:] == [(made, "default")], "once, where it has changed"


def test_a_stream_that_the_forward_is_on_for_a_while_is_left_to_it(
    streams: Streams, pausable: PausableForward
) -> None:
    side: Any = streams.make("side")

    def task() -> str:
        torch.cuda.set_stream(side)
        pausable.checkpoint()
        return current_name()

    pausable.start(task)
    pausable.advance(0)
    assert pausable.advance(None)[1] == ["side"]


def test_on_a_cpu_there_is_nothing_to_follow() -> None:
    assert SameStream(torch.device("cpu"))() is None
