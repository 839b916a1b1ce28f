"""Memory: what one batch needs at its peak, what a step of inference does, and whether both are there."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
import torch

from hallmark.poc.core.errors import UnsupportedError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = logging.getLogger(__name__)

# Linux resets the high-water mark of the resident set where 5 is written here (proc(5)).
_CLEAR_REFS: Final = Path("/proc/self/clear_refs")

# Of what is needed on a device, and at least: other processes there, libraries' own buffers, blocks that do
# not fit a hole.
_MARGIN_SHARE: Final = 0.05
_MARGIN_LEAST: Final = 256 * 2**20

# Of a sampled row for each token of the vocabulary: the logit as a float32, sorted, with its index in int64,
# and its probability.
_SAMPLER_BYTES: Final = 4 + 4 + 8 + 4


@dataclass(slots=True)
class PeakMemory:
    """Bytes above the starting level that a block of code held at its peak; None where that is not known."""

    bytes: int | None = 0


@dataclass(frozen=True, slots=True)
class StepMemory:
    """What a step of inference needs at its peak, and gives back at its end.

    Attributes:
        bytes: How much.
        is_estimate: Whether vLLM has not measured it.
    """

    bytes: int
    is_estimate: bool = False


@contextmanager
def measure_peak(device: torch.device) -> Iterator[PeakMemory]:
    """Measure the peak of device memory (of process memory, on the CPU) within the block.

    On a device what the allocator takes from it counts, holes included, or what is allocated, where that is
    more since it was put into holes that were there. On the CPU, where the system does not reset its mark of
    the highest memory, as sandboxes may not, the peak is not known, which is logged.
    """
    peak = PeakMemory()
    gc.collect()
    if device.type == "cpu":
        before = psutil.Process().memory_info().rss
        is_reset = _reset_high_water()
        yield peak
        # Without it the mark may be of the model's loading. That the block fits is shown by its having run.
        peak.bytes = max(0, _resident_high_water() - before) if is_reset else None
    else:
        # What lies cached would serve the block without being taken anew.
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = max(
            0,
            torch.cuda.max_memory_allocated(device) - allocated,
            torch.cuda.max_memory_reserved(device) - reserved,
        )


def step_memory(worker: Any, config: "VllmConfig", batch_bytes: int, batch_tokens: int) -> StepMemory:
    """Return what a step of inference needs, as vLLM has measured it or as a batch of ours lets expect.

    vLLM measures nothing where it is told the size of the cache, by `--kv-cache-memory-bytes` or by the plan
    of an earlier start. A step is then taken for a batch of as many tokens, with a sampler behind it.

    Args:
        worker: vLLM's worker.
        config: The engine's configuration.
        batch_bytes: What a PoC batch of the largest shape needs at its peak.
        batch_tokens: How many tokens that has.
    """
    if worker.device.type == "cpu":
        return StepMemory(0)  # the system's memory is not shared out beforehand
    measured = getattr(worker, "peak_activation_memory", None)
    if measured is not None:
        return StepMemory(int(measured))
    scheduler = config.scheduler_config
    tokens: int = scheduler.max_num_batched_tokens
    forward = batch_bytes * max(1.0, tokens / batch_tokens)
    sampled = min(scheduler.max_num_seqs, tokens) * config.model_config.get_vocab_size() * _SAMPLER_BYTES
    return StepMemory(int(forward) + sampled, is_estimate=True)


def check_free(device: torch.device, peak_bytes: int, step: StepMemory) -> None:
    """Refuse to start when a suspended batch and a step of inference would not fit beside each other.

    Args:
        device: the worker's device.
        peak_bytes: what a batch needs at its peak.
        step: what a step of inference needs.

    Raises:
        UnsupportedError: with the numbers.
    """
    needed = peak_bytes + step.bytes
    margin = 0 if device.type == "cpu" else max(int(_MARGIN_SHARE * needed), _MARGIN_LEAST)
    free = free_bytes(device)
    if free >= needed + margin:
        return
    estimated = (
        " (an estimate: told the size of the cache, vLLM does not measure it)" if step.is_estimate else ""
    )
    reserve = f", {_mebibytes(margin)} MiB stay in reserve" if margin else ""
    flag = "--kv-cache-memory-bytes" if step.is_estimate else "--gpu-memory-utilization"
    raise UnsupportedError(
        f"a PoC batch needs {_mebibytes(peak_bytes)} MiB at its peak, a step of inference "
        f"{_mebibytes(step.bytes)} MiB beside it{estimated}{reserve}, and only {_mebibytes(free)} MiB are "
        f"free: lower vLLM's {flag}, or batch_size or seq_len in the hallmark settings"
    )


def check_scratch(device: torch.device, needed: int, batch_size: int) -> None:
    """Refuse to start where there is no memory for a batch's private caches and states.

    Args:
        device: the worker's device.
        needed: their bytes.
        batch_size: the sequences that they are for.

    Raises:
        UnsupportedError: with the numbers.
    """
    free = free_bytes(device)
    if needed > free:
        raise UnsupportedError(
            f"the private caches and states of a PoC batch of max_batch_size {batch_size} take "
            f"{_mebibytes(needed)} MiB, and only {_mebibytes(free)} MiB are free: lower max_batch_size in "
            "the hallmark settings, or vLLM's --gpu-memory-utilization or --kv-cache-memory-bytes"
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


def _mebibytes(number: int) -> str:
    return f"{number / 2**20:.0f}"


def _reset_high_water() -> bool:
    """Begin a new high-water mark of the resident set; return whether this system lets it."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError as error:
        logger.warning(
            "What a PoC batch needs at its peak is not known, since this system does not measure it (%s): "
            "see to it that memory stays free, or the system may end the server in a round",
            error,
        )
        return False
    return True


def _resident_high_water() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("VmHWM is missing in /proc/self/status")
