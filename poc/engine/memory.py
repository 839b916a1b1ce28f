"""Memory: what one batch needs at its peak, and whether it is there."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from hallmark.poc.errors import UnsupportedError


@dataclass(slots=True)
class PeakMemory:
    """Bytes above the starting level that a block of code held at its peak."""

    bytes: int = 0


@contextmanager
def measure_peak(device: torch.device) -> Iterator[PeakMemory]:
    """Measure the peak of device memory (of process memory, on the CPU) within the block."""
    peak = PeakMemory()
    gc.collect()
    if device.type == "cpu":
        before = psutil.Process().memory_info().rss
        # Linux resets the high-water mark of the resident set on this write (proc(5), clear_refs).
        Path("/proc/self/clear_refs").write_text("5")
        yield peak
        peak.bytes = max(0, _resident_high_water() - before)
    else:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = max(0, torch.cuda.max_memory_allocated(device) - before)


def check_free(device: torch.device, peak_bytes: int, step_bytes: int) -> None:
    """Refuse to start when a suspended batch and a step of inference would not fit beside each other.

    Args:
        device: the worker's device.
        peak_bytes: what a batch needs at its peak.
        step_bytes: what a step of inference needs at its peak, and gives back at its end.

    Raises:
        UnsupportedError: with the numbers.
    """
    free = free_bytes(device)
    if free < peak_bytes + step_bytes:
        raise UnsupportedError(
            f"a PoC batch needs {peak_bytes / 2**20:.0f} MiB at its peak, a step of inference "
            f"{step_bytes / 2**20:.0f} MiB beside it, and only {free / 2**20:.0f} MiB are free: lower vLLM's "
            "--gpu-memory-utilization, or batch_size or seq_len in the hallmark settings"
        )


def free_bytes(device: torch.device) -> int:
    """Return the bytes this process could still allocate; on a GPU its allocator's cache is emptied first.

    What lies cached in the pools of CUDA graphs could serve nobody else.
    """
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return int(free)


def _resident_high_water() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("VmHWM is missing in /proc/self/status")
