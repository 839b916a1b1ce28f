"""Receivers and workers that are started again whenever they have ended, as a service manager does."""

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from hallmark.server.models.small import fast_dtype
from hallmark.server.processes.child import ChildProcess, free_port

__all__ = ["ENVIRONMENT", "Kept", "receiver", "worker", "worker_command"]

ENVIRONMENT: Final = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
_HALLMARK: Final = (sys.executable, "-P", "-m", "hallmark.server")


class Kept:
    """A process, however often it is started.

    Args:
        name: What it is called; each start adds a number of its own.
        command: What is run, by that name.
        log: Where it writes.
        url: Where it answers.

    Attributes:
        called: What runs is called.
        url: As above.
        ended_alone: How often it ended without having been killed.
    """

    def __init__(self, name: str, command: Callable[[str], Sequence[str]], log: Path, url: str = "") -> None:
        self.called, self.url, self.ended_alone = name, url, 0
        self._name, self._command, self._log = name, command, log
        self._lock = threading.Lock()
        self._process: ChildProcess | None = None
        self._starts = 0
        self._was_killed = False

    def keep(self) -> None:
        """Start it, where it does not run; by one thread, with which it ends."""
        with self._lock:
            if self._process is not None:
                if self._process.wait(0) is None:
                    return
                self.ended_alone += not self._was_killed
            self._starts += 1
            self._was_killed = False
            self.called = f"{self._name}.{self._starts}"
            self._process = ChildProcess(
                self.called, self._command(self.called), log=self._log, environment=ENVIRONMENT
            )

    def kill(self, called: str) -> bool:
        """End it without a word; return whether it ran, and was called so."""
        with self._lock:
            if self._process is None or self.called != called or not self._process.running:
                return False
            self._process.kill()
            self._was_killed = True
            return True

    def stop(self) -> None:
        """End it in order."""
        with self._lock:
            if self._process is not None:
                self._process.terminate()
                self._process = None


def receiver(number: int, database: str, folder: Path) -> Kept:
    """Return a receiver on a port of its own; it does not run yet."""
    port = free_port()
    command = (*_HALLMARK, "receiver", "--no-page", "--port", str(port), "--database", database)
    log = folder / f"receiver-{number}.log"
    return Kept(f"receiver-{number}", lambda _: command, log, f"http://127.0.0.1:{port}")


def worker(number: int, database: str, model: Path, folder: Path, lease: float) -> Kept:
    """Return a worker; it does not run yet."""
    return Kept(
        f"worker-{number}",
        lambda called: worker_command(called, database, model, lease),
        folder / f"worker-{number}.log",
    )


def worker_command(name: str, database: str, model: Path, lease: float, *more: str) -> list[str]:
    """Return the command of a worker."""
    return [
        *(*_HALLMARK, "worker", "--database", database, "--model", str(model), "--device", "cpu"),
        *("--dtype", fast_dtype(), "--lease", str(lease), "--name", name, *more),
    ]
