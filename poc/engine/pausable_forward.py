"""A forward that stops between layers: it runs in a thread that moves only while somebody waits for it.

vLLM's worker goes on to the next step of inference while the forward stands still, with its tensors, its
inference mode and its place in the model kept by the thread.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

from hallmark.poc.engine.rank_vote import stop_engine

__all__ = ["PausableForward"]


class _CancelledError(BaseException):
    """Unwinds a task at a checkpoint; not an `Exception`, which the task would take for a failure."""


class PausableForward:
    """One thread for tasks that can be stopped at checkpoints, one task at a time.

    Checkpoints are counted, not milliseconds, so that tensor-parallel ranks stop at the same place.

    Args:
        follow: Called where somebody waits, before the thread moves. What it returns, if anything, the thread
            calls before it goes on: what a thread must set for itself.
        standing_still: Called at a checkpoint where the task stands still: the context around that, in which
            the process has what inference needs.
        timeout: When the thread has not come to stand by then, this process stops: it is stuck in the middle
            of the model, and the worker could neither go on nor begin anew.

    Attributes:
        timeout: The same, which may be changed.
        is_suspended: Whether there is a task that has not ended.
    """

    def __init__(
        self,
        follow: Callable[[], Callable[[], None] | None],
        standing_still: Callable[[], AbstractContextManager[object]],
        timeout: timedelta,
    ) -> None:
        self.timeout = timeout
        self._follow = follow
        self._standing_still = standing_still
        self._go = threading.Semaphore(0)
        self._stands = threading.Semaphore(0)
        self._enter: Callable[[], None] | None = None
        self._task: Callable[[], Any] | None = None
        self._result: list[Any] = []
        self._error: BaseException | None = None
        self._allowance: int | None = 0
        self._passed = 0
        self._is_cancelled = False
        self.is_suspended = False
        # A daemon: nothing may keep the process of a stopping server.
        threading.Thread(target=self._run_tasks, name="hallmark forward", daemon=True).start()
        # What it must set for itself fails here, if at all.
        self.start(lambda: None)
        self.advance(None)

    def start(self, task: Callable[[], Any]) -> None:
        """Give the thread a task; it moves with the first `advance` only.

        Raises:
            RuntimeError: Another task is suspended.
        """
        if self.is_suspended:
            raise RuntimeError("a task is suspended already")
        self._task = task
        self.is_suspended = True

    def advance(self, checkpoints: int | None) -> tuple[int, list[Any]]:
        """Let the task run on, past so many checkpoints; to its end where that is None.

        Returns:
            How many checkpoints were passed, and the task's result in a list, which is empty where it is
            suspended.

        Raises:
            RuntimeError: There is no task.
            Exception: What the task raised; it has ended.
        """
        if not self.is_suspended:
            raise RuntimeError("no task is suspended")
        self._allowance, self._passed = checkpoints, 0
        self._move()
        result, self._result = self._result, []
        return self._passed, result

    def cancel(self) -> None:
        """Unwind the suspended task, which frees what it holds; without one, do nothing."""
        if not self.is_suspended:
            return
        self._is_cancelled = True
        try:
            self._move()
        finally:
            self._is_cancelled, self._result = False, []

    def checkpoint(self) -> None:
        """Called by the task where it may stand still; without a task it does nothing of note."""
        if self._allowance is None:
            self._passed += 1
            return
        if self._passed == self._allowance:
            with self._standing_still():
                self._stands.release()
                self._go.acquire()
            if self._is_cancelled:
                raise _CancelledError
            self._go_on()
        self._passed += 1

    def _move(self) -> None:
        self._enter = None if self._is_cancelled else self._follow()
        self._go.release()
        if not self._stands.acquire(timeout=self.timeout.total_seconds()):
            stop_engine(f"a PoC batch has not come to its next checkpoint within {self.timeout}")
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                # The traceback holds this frame: a name for the error in it would keep both, and the tensors.
                del error

    def _go_on(self) -> None:
        enter, self._enter = self._enter, None
        if enter is not None:
            enter()

    def _run_tasks(self) -> None:
        while True:
            self._go.acquire()
            self._run_task()
            self.is_suspended, self._allowance = False, None
            self._stands.release()

    def _run_task(self) -> None:
        task, self._task = self._task, None
        if task is None or self._is_cancelled:
            return
        try:
            self._go_on()
            self._result = [task()]
        except _CancelledError:
            return
        except BaseException as error:  # noqa: BLE001  # `advance` raises it where somebody waits
            self._error = error
