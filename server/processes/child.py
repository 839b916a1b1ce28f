"""Child processes that leave nothing behind: started, watched and ended by their own ids.

A child runs in a process group of its own, so that its own children can be ended with it, and it gets a
SIGTERM when the process that started it dies, however that happens.
"""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from hallmark.poc.core.errors import HallmarkError

__all__ = ["ChildProcess", "ProcessError", "check_port", "free_port", "log_tail", "process_group"]

_POLL_SECONDS = 0.05
_LINGER_SECONDS = 3.0
_TAIL_BYTES = 16_384


class ProcessError(HallmarkError):
    """A child process ended or stayed silent when it should have been ready."""


class ChildProcess:
    """A command in a process group of its own.

    As a context manager it is terminated on the way out.

    Attributes:
        name: What to call it in messages.
        pid: Its process id and that of its group.
        log: The file its output goes to; None where it shares this process's.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the command.

        Args:
            name: What to call it in messages.
            command: The program and its arguments.
            log: A file to append standard output and error to; None shares this process's.
            environment: Variables to set beside those of this process.
        """
        self.name = name
        self.log = log
        output: IO[bytes] | None = log.open("ab") if log is not None else None
        try:
            self._process = subprocess.Popen(  # noqa: S603  # the caller's command, no shell in between
                [sys.executable, "-P", "-m", "hallmark.server.processes.tether", str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output is not None else None,
                env={**os.environ, **(environment or {})},
                process_group=0,
            )
        finally:
            if output is not None:
                output.close()
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._has_ended()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself, not to its group; nothing where it has ended."""
        # Not by Popen.send_signal, which would collect a process that has ended and free its id.
        if self.running:
            os.kill(self.pid, number)

    def wait(self, seconds: float) -> int | None:
        """Wait for it to end, then end what is left of its group.

        Args:
            seconds: The longest to wait.

        Returns:
            Its exit code, minus the signal's number where a signal ended it; None while it runs on.
        """
        deadline = time.monotonic() + seconds
        while not self._has_ended():
            if time.monotonic() >= deadline:
                return None
            time.sleep(_POLL_SECONDS)
        self._clear_group()
        return self._process.wait()

    def wait_until(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Wait until `ready()` is true.

        Args:
            ready: Asked a few times a second.
            seconds: The longest to wait.

        Raises:
            ProcessError: The process ended before, or was not ready in time; says where its log is.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            code = self.wait(0)
            if code is not None:
                problem = f"ended with code {code} before it was ready"
            elif time.monotonic() >= deadline:
                problem = f"was not ready within {seconds:g} s"
            else:
                time.sleep(_POLL_SECONDS)
                continue
            raise ProcessError(f"{self.name} {problem}" + (f"; its log is {self.log}" if self.log else ""))

    def terminate(self, *, seconds: float = 20.0) -> int:
        """End it: SIGTERM, after a while another one, and at last SIGKILL to its whole group.

        Programs that run others, `hallmark serve` among them, take the second one as a wish to end at once.

        Args:
            seconds: How long it may take to end by itself.

        Returns:
            Its exit code, minus the signal's number where a signal ended it.
        """
        for patience in (seconds, _LINGER_SECONDS):
            self.send_signal(signal.SIGTERM)
            code = self.wait(patience)
            if code is not None:
                return code
        return self.kill()

    def kill(self) -> int:
        """End it and its whole group at once by SIGKILL; returns its exit code."""
        if self._process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()

    def log_tail(self, lines: int = 30) -> str:
        """Return the last lines of its log; empty where it has none."""
        return "" if self.log is None else log_tail(self.log, lines)

    def _has_ended(self) -> bool:
        """Return whether it has ended, without collecting it.

        As long as it is not, its id cannot be given anew.
        """
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _clear_group(self) -> None:
        """Ask what is left of an ended process's group to end as well, and kill it if it does not."""
        if self._process.returncode is not None or not process_group(self.pid):
            return
        os.killpg(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + _LINGER_SECONDS
        while process_group(self.pid):
            if time.monotonic() >= deadline:
                os.killpg(self.pid, signal.SIGKILL)
                return
            time.sleep(_POLL_SECONDS)


def log_tail(log: Path, lines: int = 30) -> str:
    """Return the last lines of a log, as far as they are not very long."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def process_group(group: int) -> set[int]:
    """Return the ids of the processes of a group that run.

    Those that ended and wait to be collected do not.
    """
    members = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended since the directory was listed
            # The name in parentheses may contain anything; after it: state, parent, group.
            state, _, its_group = status.rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                members.add(int(entry.name))
    return members


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def check_port(host: str | None, port: int) -> None:
    """Refuse a port that a server could not listen on now.

    Args:
        host: The address it is to bind; None or empty is every IPv4 address.
        port: From 0, which is any free one, to 65535.

    Raises:
        ProcessError: Another process listens there, or this machine does not allow it.
    """
    where = host or "every address"
    family = socket.AF_INET6 if ":" in (host or "") else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections that are only closing do not keep a port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host or "", port))
            # Two that asked for reuse may both bind a port; only one of them may listen.
            probe.listen(1)
        except (OSError, OverflowError) as exc:
            if isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE:
                error = ProcessError(f"port {port} on {where} is in use")
                error.add_note("choose another with --port")
                raise error from exc
            raise ProcessError(f"cannot listen on port {port} of {where}: {exc}") from exc
