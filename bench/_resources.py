"""What processes hold of the machine, read every few seconds while something else goes on."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
from _background import Background

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Resources:
    """What a process holds at a moment.

    Attributes:
        seconds: On the clock of `time.monotonic`.
        rss: Resident bytes.
        pss: The same, with what is shared divided among those who share it.
        anonymous: Resident bytes that no file is behind: the heap.
        descriptors: Open ones.
        threads: How many.
    """

    seconds: float
    rss: int
    pss: int
    anonymous: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """Read them of a process."""
        place = _PROC / str(pid)
        held = _bytes(place / "smaps_rollup")
        threads = len(os.listdir(place / "task"))
        descriptors = len(os.listdir(place / "fd"))
        return cls(time.monotonic(), held["Rss"], held["Pss"], held["Anonymous"], descriptors, threads)


class Sampler(Background):
    """Reads what processes hold, in a thread of its own, for the length of a block.

    Args:
        processes: Process ids by name.
        every: Seconds between two readings.

    Attributes:
        samples: What was read of each process.
    """

    def __init__(self, processes: Mapping[str, int], every: float) -> None:
        super().__init__("resources")
        self.samples: dict[str, list[Resources]] = {name: [] for name in processes}
        self._processes = processes
        self._every = every

    def between(self, begin: float, end: float) -> dict[str, list[Resources]]:
        """Return the samples from one moment to another, by process."""
        return {
            name: [sample for sample in samples if begin <= sample.seconds <= end]
            for name, samples in self.samples.items()
        }

    def _run(self) -> None:
        while not self._over.wait(self._every):
            for name, pid in self._processes.items():
                self.samples[name].append(Resources.of(pid))


def processes_of(pid: int) -> dict[str, int]:
    """Return the processes of a `hallmark serve`, by what they are; ranks are numbered."""
    command = psutil.Process(pid)
    found = {"hallmark serve": pid, "API server": command.children()[0].pid}
    workers = 0
    for process in command.children(recursive=True):
        title = process.name()
        if title.startswith("VLLM::EngineCor"):
            found["engine core"] = process.pid
        elif title.startswith("VLLM::Worker"):
            found[f"worker {workers}"] = process.pid
            workers += 1
    return found


def _bytes(path: Path) -> dict[str, int]:
    """Return the fields of a file of /proc that are in kB."""
    fields = (line.split() for line in path.read_text(encoding="ascii").splitlines()[1:])
    return {name.rstrip(":"): int(number) * 1024 for name, number, *_ in fields}
