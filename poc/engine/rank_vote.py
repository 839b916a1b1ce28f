"""Vote between ranks on whether a step succeeded.

A rank that fails where another does not leaves collectives unpaired, and then only stopping is safe. So ranks
vote on the CPU group after each step. Before the first collective of a batch a failure on one rank is a
failure of all, and the round ends; after it, a divided vote stops the engine.
"""

import logging
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist

from hallmark.poc.core.errors import EngineError

__all__ = ["RankVote", "stop_engine"]

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class RankVote:
    """Steps that the ranks of a CPU process group take together.

    Args:
        group: a CPU group of ranks; None for a single one, which agrees with itself.
        timeout: how long to wait for the others, and for the device. Ranks arrive within the time of a
            call; one that has not come by then is stuck in a collective.

    Attributes:
        timeout: The same, which may be changed.
    """

    def __init__(self, group: dist.ProcessGroup | None, timeout: timedelta) -> None:
        self._group = group
        self.timeout = timeout

    def without_collectives(self, step: str, action: Callable[[], _Result]) -> _Result:
        """Take a step that has no collective in it: where it fails on one rank, it fails on all.

        Args:
            step: what it is, for messages.
            action: the step.

        Raises:
            EngineError: it failed on another rank only.
            Exception: whatever the action raised on this one.
        """
        return self._take(step, action, has_collectives=False)

    def with_collectives(self, step: str, action: Callable[[], _Result]) -> _Result:
        """Take a step with collectives in it: where it fails on some ranks only, this process stops.

        Raises:
            Exception: what the action raised, here and on every other rank.
        """
        return self._take(step, action, has_collectives=True)

    def is_everywhere(self, step: str, condition: bool) -> bool:
        """Ask whether something holds on every rank.

        Args:
            step: what was found out, for messages.
            condition: whether it holds on this one.
        """
        votes, ranks = self._vote(condition, step)
        return votes == ranks

    def wait_for_device(self, has_arrived: Callable[[], bool]) -> None:
        """Wait until the device has come to some point, and stop this process if it never does."""
        deadline = time.monotonic() + self.timeout.total_seconds()
        while not has_arrived():
            if time.monotonic() > deadline:
                stop_engine(f"the device has not finished a batch within {self.timeout}")
            time.sleep(0.0002)

    def _take(self, step: str, action: Callable[[], _Result], *, has_collectives: bool) -> _Result:
        try:
            result = action()
        except Exception:
            self._settle(step, succeeded=False, has_collectives=has_collectives)
            raise
        self._settle(step, succeeded=True, has_collectives=has_collectives)
        return result

    def _settle(self, step: str, *, succeeded: bool, has_collectives: bool) -> None:
        votes, ranks = self._vote(succeeded, step)
        if 0 < votes < ranks:
            reason = f"{step} succeeded on {votes} of {ranks} ranks"
            if has_collectives:
                stop_engine(reason)
            if succeeded:
                raise EngineError(reason)

    def _vote(self, succeeded: bool, step: str) -> tuple[int, int]:
        """Return the number of ranks that succeeded and of all ranks."""
        if self._group is None:
            return int(succeeded), 1
        votes = torch.tensor([int(succeeded)], dtype=torch.int32)
        try:
            work = dist.all_reduce(votes, group=self._group, async_op=True)
            if work is None:
                raise RuntimeError("this process is not a rank of the group")
            work.wait(self.timeout)
        except RuntimeError as error:
            stop_engine(f"a rank did not come to the vote after {step} within {self.timeout}: {error}")
        return int(votes.item()), dist.get_world_size(self._group)


def stop_engine(reason: str) -> NoReturn:
    """End this process at once: what it has begun can neither be finished nor undone."""
    logger.critical("PoC stops this engine: %s. Unpaired collectives cannot be repaired.", reason)
    # The process must not run another collective, nor unwind through code that would: vLLM's executor sees
    # the dead worker and takes the server down.
    os._exit(70)
