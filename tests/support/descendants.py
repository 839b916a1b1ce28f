"""Which processes a process has started, and theirs."""

import time
from collections import defaultdict
from pathlib import Path


def descendants(pid: int) -> set[int]:
    """Ids of all processes below a running one."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children[int(fields[1])].append(int(stat.parent.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        below = children[waiting.pop()]
        found.update(below)
        waiting.extend(below)
    return found


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] not in "ZX"


def wait_until_gone(pids: set[int]) -> None:
    """Return when none of the processes runs; the test's timeout is the limit."""
    while any(map(runs, pids)):
        time.sleep(0.1)
