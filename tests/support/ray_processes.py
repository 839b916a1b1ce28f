"""A cluster of Ray's for tests, and who is who among its processes."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray_nodes
from descendants import descendants
from python_path import with_support

from hallmark.server.processes.child import ChildProcess

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONSAFEPATH": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TRITON_INTERPRET": "0",
}
"""Of everything that computes, so that it has the same threads."""


@dataclass(frozen=True)
class RayNodes:
    """Two nodes.

    Attributes:
        address: HOST:PORT of the head.
        pid: Of the process that runs them.
    """

    address: str
    pid: int

    def actors(self) -> list[int]:
        """Processes of Hallmark's actors."""
        below = descendants(self.pid)
        return sorted(pid for pid in below if command_line(pid).startswith("ray::Hallmark"))

    def raylets(self) -> list[int]:
        """What runs each node, the head's first."""
        return sorted(pid for pid in descendants(self.pid) if "/raylet/raylet " in command_line(pid))


def command_line(pid: int) -> str:
    """What a process was called by; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_for(condition: Callable[[], object]) -> None:
    """Return when a condition holds; the test's timeout is the limit."""
    while not condition():
        time.sleep(0.1)


@contextmanager
def ray_cluster(folder: Path, python_path: str | None = None, **second: str) -> Iterator[RayNodes]:
    """Run two nodes of one core each.

    Args:
        folder: For the address and the log.
        python_path: Of the nodes, where it is not that of all tests.
        second: Variables of the second node.
    """
    address = folder / "address"
    variables = [f"{name}={value}" for name, value in second.items()]
    command = [sys.executable, "-P", str(ray_nodes.__file__), str(address), *variables]
    environment = {**ENVIRONMENT, "PYTHONPATH": python_path or with_support()}
    with ChildProcess("ray", command, log=folder / "ray.log", environment=environment) as process:
        process.wait_until(address.exists, seconds=120)
        yield RayNodes(address.read_text(encoding="utf-8"), process.pid)
