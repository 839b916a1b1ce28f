"""What a batch and a step of inference need, and whether it is free: a device's allocator is a stand-in."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.engine.memory import StepMemory, check_free, check_scratch, measure_peak, step_memory

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
MIB = 2**20


class Allocator:
    """PyTorch's for one device: blocks are allocated in what it has taken from the device, and kept there."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.allocated = self.reserved = 0
        self.peaks = (0, 0)

    def allocate(self, number: int, *, in_hole: bool = False) -> None:
        self.allocated += number
        if not in_hole:
            self.reserved += number
            self.free -= number
        self.peaks = max(self.peaks[0], self.allocated), max(self.peaks[1], self.reserved)

    def give_back(self, number: int) -> None:
        self.allocated -= number

    def empty_cache(self) -> None:
        """Give back what is not allocated, as if no block had another one in it."""
        self.free += self.reserved - self.allocated
        self.reserved = self.allocated

    def reset_peak(self, device: torch.device) -> None:
        self.peaks = self.allocated, self.reserved


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Allocator:
    allocator = Allocator(4096 * MIB)
    for name, function in {
        "empty_cache": allocator.empty_cache,
        "synchronize": lambda device: None,
        "reset_peak_memory_stats": allocator.reset_peak,
        "memory_allocated": lambda device: allocator.allocated,
        "memory_reserved": lambda device: allocator.reserved,
        "max_memory_allocated": lambda device: allocator.peaks[0],
        "max_memory_reserved": lambda device: allocator.peaks[1],
        "mem_get_info": lambda device: (allocator.free, 8192 * MIB),
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)
    return allocator


def test_the_peak_is_what_the_device_has_given(allocator: Allocator) -> None:
    """Two blocks that were never there together, the second too large for the first one's place."""
    allocator.allocate(500 * MIB)
    with measure_peak(CUDA) as peak:
        allocator.allocate(100 * MIB)
        allocator.give_back(100 * MIB)
        allocator.allocate(150 * MIB)
        allocator.give_back(150 * MIB)
    assert peak.bytes == 250 * MIB


def test_what_lay_cached_before_counts_too(allocator: Allocator) -> None:
    allocator.allocate(300 * MIB)
    allocator.give_back(300 * MIB)
    with measure_peak(CUDA) as peak:
        allocator.allocate(100 * MIB)
    assert peak.bytes == 100 * MIB


def test_what_went_into_holes_counts_too(allocator: Allocator) -> None:
    """A step of inference may have to find room elsewhere then."""
    with measure_peak(CUDA) as peak:
        allocator.allocate(100 * MIB, in_hole=True)
        allocator.allocate(20 * MIB)
    assert peak.bytes == 120 * MIB


def test_the_peak_of_a_process_is_its_own() -> None:
    with measure_peak(CPU) as peak:
        torch.ones(200 * MIB, dtype=torch.uint8)
    assert peak.bytes is not None
    assert 190 * MIB < peak.bytes < 400 * MIB


@pytest.mark.parametrize("is_there", [False, True], ids=["missing", "not writable"])
def test_a_system_that_does_not_reset_the_mark_leaves_the_peak_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, is_there: bool
) -> None:
    """As gVisor: a batch has run by then, and a mark of the model's loading would refuse too much."""
    path = tmp_path / "self" / "clear_refs"
    if is_there:
        path.mkdir(parents=True)  # which nobody may write, whoever runs this
    monkeypatch.setattr("hallmark.poc.engine.memory._CLEAR_REFS", path)
    with measure_peak(CPU) as peak:
        pass
    assert peak.bytes is None
    [message] = caplog.messages
    assert "What a PoC batch needs at its peak is not known" in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("batch", "step", "margin"), [(1000, 2000, 256), (3000, 2120, 256), (3000, 3000, 300), (6000, 4000, 500)]
)
def test_a_margin_stays_free_on_a_device(allocator: Allocator, batch: int, step: int, margin: int) -> None:
    allocator.free = (batch + step + margin) * MIB
    check_free(CUDA, batch * MIB, StepMemory(step * MIB))
    allocator.free -= 1
    with pytest.raises(UnsupportedError) as refusal:
        check_free(CUDA, batch * MIB, StepMemory(step * MIB))
    assert str(refusal.value) == (
        f"a PoC batch needs {batch} MiB at its peak, a step of inference {step} MiB beside it, {margin} MiB "
        f"stay in reserve, and only {batch + step + margin} MiB are free: lower vLLM's "
        "--gpu-memory-utilization, or batch_size or seq_len in the hallmark settings"
    )


def test_none_stays_free_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000 * MIB))
    check_free(CPU, 1000 * MIB, StepMemory(0))
    with pytest.raises(UnsupportedError, match=r"1001 MiB at its peak.* 0 MiB beside it, and only 1000 MiB"):
        check_free(CPU, 1001 * MIB, StepMemory(0))


def worker(device: torch.device, **measured: int) -> Any:
    return SimpleNamespace(device=device, **measured)


def config(tokens: int, sequences: int) -> Any:
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_batched_tokens=tokens, max_num_seqs=sequences),
        model_config=SimpleNamespace(get_vocab_size=lambda: 1000),
    )


def test_a_step_needs_what_vllm_has_measured() -> None:
    measured = worker(CUDA, peak_activation_memory=700 * MIB)
    assert step_memory(measured, config(8192, 256), 100 * MIB, 8192) == StepMemory(700 * MIB)


@pytest.mark.parametrize(
    ("tokens", "sequences", "expected"),
    [
        (8192, 256, 100 * MIB + 256 * 1000 * 20),
        (16384, 256, 200 * MIB + 256 * 1000 * 20),  # a step may be larger than a batch
        (64, 256, 100 * MIB + 64 * 1000 * 20),
    ],
)
def test_what_vllm_has_not_measured_is_never_taken_for_nothing(
    tokens: int, sequences: int, expected: int
) -> None:
    """With --kv-cache-memory-bytes its worker lacks the number."""
    step = step_memory(worker(CUDA), config(tokens, sequences), 100 * MIB, 8192)
    assert step == StepMemory(expected, is_estimate=True)


def test_a_refusal_by_an_estimate_says_so_and_names_the_flag(allocator: Allocator) -> None:
    allocator.free = 1000 * MIB
    with pytest.raises(UnsupportedError) as refusal:
        check_free(CUDA, 400 * MIB, StepMemory(500 * MIB, is_estimate=True))
    assert str(refusal.value) == (
        "a PoC batch needs 400 MiB at its peak, a step of inference 500 MiB beside it (an estimate: told the "
        "size of the cache, vLLM does not measure it), 256 MiB stay in reserve, and only 1000 MiB are free: "
        "lower vLLM's --kv-cache-memory-bytes, or batch_size or seq_len in the hallmark settings"
    )


def test_a_cpus_memory_is_not_shared_out() -> None:
    assert step_memory(worker(CPU), config(8192, 256), 100 * MIB, 8192) == StepMemory(0)


def test_states_that_do_not_fit_are_refused_with_both_numbers(allocator: Allocator) -> None:
    check_scratch(CUDA, 4096 * MIB, 32)
    with pytest.raises(UnsupportedError) as refusal:
        check_scratch(CUDA, 4097 * MIB, 32)
    assert str(refusal.value) == (
        "the private caches and states of a PoC batch of max_batch_size 32 take 4097 MiB, and only 4096 MiB "
        "are free: lower max_batch_size in the hallmark settings, or vLLM's --gpu-memory-utilization or "
        "--kv-cache-memory-bytes"
    )
