"""Times of the device, from replayed CUDA graphs: none of them has a launch by the host in it."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

__all__ = ["by_turns", "captured", "copies_beyond_caches", "seconds_of"]

_REPLAYS = 7
# After so many other bytes nothing of a call's operands is in the L2 cache any more: 50 MB on an H100.
_BEYOND_CACHES = 4 * 60 * 2**20


def copies_beyond_caches(bytes_each: int) -> int:
    """Return how many sets of operands to take turns with, so that no cache helps; 1 without a GPU."""
    if not torch.cuda.is_available():
        return 1
    return max(2, min(8, -(-_BEYOND_CACHES // bytes_each)))


def captured(run: Callable[[], object]) -> Callable[[], object]:
    """Return what repeats a call: a replayed graph on a GPU, the call itself elsewhere.

    Args:
        run: the call. It must not wait for the device.
    """
    run()
    if not torch.cuda.is_available():
        return run
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def seconds_of(calls: Sequence[Callable[[], object]]) -> float:
    """Return the median seconds of a call.

    Args:
        calls: the same work on sets of operands, one after the other in one graph.
    """

    def run() -> None:
        for call in calls:
            call()

    replay = captured(run)
    repeats = _REPLAYS if torch.cuda.is_available() else 1
    return statistics.median(_seconds(replay) for _ in range(repeats)) / len(calls)


def by_turns(contenders: Mapping[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Return the seconds of each contender's calls, one of each a turn, the first turn left out."""
    replays = {name: captured(run) for name, run in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(turns + 1):
        for name, replay in replays.items():
            elapsed = _seconds(replay)
            if turn:
                seconds[name].append(elapsed)
    return seconds


def _seconds(replay: Callable[[], object]) -> float:
    if not torch.cuda.is_available():
        begun = time.perf_counter()
        replay()
        return time.perf_counter() - begun
    start, end = (torch.Event(torch.device("cuda"), enable_timing=True) for _ in range(2))
    start.record()
    replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
