"""Agreement between tensor-parallel ranks on whether a step succeeded.

A rank that failed where another did not leaves collectives unpaired, and then only stopping is safe. Ranks
therefore vote on the CPU group after each step: all well, all failed (the round ends, inference goes on), or
divided.
"""

import logging
import os
from datetime import timedelta

import torch
import torch.distributed as dist

logger = logging.getLogger(__name__)

# Ranks arrive within the time that one batch takes; a rank that has not come by then is stuck in a
# collective.
VOTE_TIMEOUT = timedelta(seconds=120)


class Agreement:
    """A vote among the ranks of a CPU process group.

    Args:
        group: the tensor-parallel ranks' CPU group, or None for a single rank, which always agrees with
        itself. timeout: how long to wait for the others.
    """

    def __init__(self, group: dist.ProcessGroup | None, timeout: timedelta = VOTE_TIMEOUT) -> None:
        self._group = group
        self._timeout = timeout

    def confirm(self, succeeded: bool, step: str) -> None:
        """Vote, and stop this process when the ranks are divided or one does not come.

        Args:
            succeeded: whether this rank's step succeeded.
            step: what it was, for the log.
        """
        if self._group is None or dist.get_world_size(self._group) == 1:
            return
        votes = torch.tensor([1 if succeeded else 0], dtype=torch.int32)
        work = dist.all_reduce(votes, group=self._group, async_op=True)
        if work is None:
            raise RuntimeError("this process is not a rank of the group it votes in")
        try:
            work.wait(self._timeout)
        except RuntimeError as error:
            _stop(f"a rank did not come to the vote after {step} within {self._timeout}: {error}")
        if 0 < int(votes.item()) < dist.get_world_size(self._group):
            _stop(f"{step} succeeded on {int(votes.item())} of {dist.get_world_size(self._group)} ranks")


def _stop(reason: str) -> None:
    logger.critical("PoC stops this engine: %s. Unpaired collectives cannot be repaired.", reason)
    # The process must not run another collective, nor unwind through code that would: vLLM's executor sees
    # the dead worker and takes the server down.
    os._exit(70)
