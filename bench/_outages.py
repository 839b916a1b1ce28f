"""A real receiver with outages: it is killed and started again on its database, or stands still."""

import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import httpx
from _background import Background

from hallmark.server.processes.child import ChildProcess, free_port

_START_SECONDS: Final = 120.0


class Receiver:
    """`hallmark receiver` on one port and one database, however often it is started.

    Attributes:
        url: Its callback URL.
        database: Its file.
        outages: How often it stood still, and how often it was killed.
    """

    def __init__(self, directory: Path, name: str = "receiver") -> None:
        self.database = directory / f"{name}.db"
        self.outages = {"suspended": 0, "killed": 0}
        self._log = directory / f"{name}.log"
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: ChildProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id of what runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it takes callbacks."""
        command = [
            *(sys.executable, "-P", "-m", "hallmark.server", "receiver"),
            *("--port", str(self._port), "--database", str(self.database)),
        ]
        self._process = ChildProcess("hallmark receiver", command, log=self._log)
        self._process.wait_until(self._is_up, seconds=_START_SECONDS)

    def stop(self) -> None:
        """End it in order, where it runs."""
        if self._process is not None:
            self._process.terminate()
            self._process = None

    def kill(self) -> None:
        """End it without a word."""
        self.outages["killed"] += 1
        assert self._process is not None
        self._process.kill()
        self._process = None

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Let it stand still: connections are taken, and nobody answers."""
        self.outages["suspended"] += 1
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def _is_up(self) -> bool:
        try:
            return httpx.get(f"{self.url}/stats", trust_env=False).is_success
        except httpx.TransportError:
            return False


class Outages(Background):
    """Outages of a receiver at random, in a thread of its own, for the length of a block; then it is up.

    Args:
        receiver: The receiver, which is up.
        chance: Decides when and which.
        up: Shortest and longest time between two outages, in seconds.
        down: Shortest and longest outage, in seconds.
        killed: The share of outages in which it is killed.
    """

    def __init__(
        self,
        receiver: Receiver,
        chance: random.Random,
        *,
        up: tuple[float, float] = (1.0, 4.0),
        down: tuple[float, float] = (2.0, 15.0),
        killed: float = 0.25,
    ) -> None:
        super().__init__("outages")
        self._receiver = receiver
        self._chance = chance
        self._up, self._down, self._killed = up, down, killed

    def _clean_up(self) -> None:
        # A process ends with the thread that started it: whatever runs now is that thread's.
        self._receiver.stop()
        self._receiver.start()

    def _run(self) -> None:
        while not self._over.wait(self._chance.uniform(*self._up)):
            seconds = self._chance.uniform(*self._down)
            if self._chance.random() < self._killed:
                self._receiver.kill()
                self._over.wait(seconds)
                self._receiver.start()
            else:
                with self._receiver.suspended():
                    self._over.wait(seconds)
