"""Which cores the ranks of a server are to run on."""

import os
from itertools import cycle, islice


def cores_for(ranks: int) -> str:
    """A value of `VLLM_CPU_OMP_THREADS_BIND`: each rank has one of two cores that this process may use."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    assert len(cores) == 2, f"several ranks need two cores; this process may use {cores}"
    return "|".join(map(str, islice(cycle(cores), ranks)))
