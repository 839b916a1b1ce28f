"""Whether a folder's file system does what an outbox needs: locks that keep others out, and shared memory."""

import errno
import fcntl
import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["problem_of_folder", "problem_of_mounts"]

_MOUNTS: Final = Path("/proc/self/mountinfo")
# A write lock on the whole file, for the descriptor: struct flock of Linux, with 8 bytes in an offset.
_WHOLE_FILE: Final = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_HELD_BY_ANOTHER: Final = frozenset({errno.EAGAIN, errno.EACCES})
_PAGE: Final = mmap.PAGESIZE


def problem_of_folder(folder: Path) -> str | None:
    """Try a folder with a file of its own, which is gone afterwards.

    Returns:
        What is wrong with its file system, as the end of a sentence about it; None where nothing is.

    Raises:
        OSError: Nothing can be written there.
    """
    # The size is allocated before it is mapped: a page without room on the disk would end the process.
    with _opened_twice(folder) as (one, other):
        os.pwrite(one, bytes(_PAGE), 0)
        problem = (
            _flock_problem(one, other) or _record_lock_problem(one, other) or _mapping_problem(one, other)
        )
    if problem is None and _MOUNTS.exists():
        status = folder.stat()
        device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
        problem = problem_of_mounts(_MOUNTS.read_text(errors="replace"), device)
    return problem


def problem_of_mounts(mounts: str, device: str) -> str | None:
    """Find what no trial on this machine can tell: an NFS mount whose locks other machines do not see.

    Args:
        mounts: The text of `/proc/self/mountinfo`.
        device: Major and minor number of the device in question, as there.

    Returns:
        As `problem_of_folder`.
    """
    for line in mounts.splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2:3] != [device]:
            continue
        kind, *rest = source.split()
        options = rest[-1].split(",") if rest else []
        local = [option for option in options if option == "nolock" or option.startswith("local_lock=")]
        if kind in ("nfs", "nfs4") and not {*local} <= {"local_lock=none"}:
            return f"keeps its locks to this machine ({kind}, {', '.join(local)})"
    return None


@contextmanager
def _opened_twice(folder: Path) -> Iterator[tuple[int, int]]:
    """Yield a new file without a name, opened two times, as two processes would have it."""
    one, name = tempfile.mkstemp(prefix=".hallmark-", dir=folder)
    try:
        try:
            other = os.open(name, os.O_RDWR)
        finally:
            os.unlink(name)
        try:
            yield one, other
        finally:
            os.close(other)
    finally:
        os.close(one)


def _flock_problem(one: int, other: int) -> str | None:
    """Try the lock by which a server has its outbox."""
    try:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        return f"has no locks (flock: {exc.strerror})"
    try:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as exc:
        return f"has no locks (flock: {exc.strerror})"
    else:
        return "has locks that keep nobody out (flock)"
    finally:
        fcntl.flock(one, fcntl.LOCK_UN)


def _record_lock_problem(one: int, other: int) -> str | None:
    """SQLite's locks; those of a descriptor are held against each other as those of two processes are."""
    if sys.platform != "linux":
        return None
    try:
        fcntl.fcntl(one, fcntl.F_OFD_SETLK, _WHOLE_FILE)
    except OSError as exc:
        # EINVAL: a kernel without this kind, which tells nothing of the file system.
        return None if exc.errno == errno.EINVAL else f"has no locks (fcntl: {exc.strerror})"
    try:
        fcntl.fcntl(other, fcntl.F_OFD_SETLK, _WHOLE_FILE)
    except OSError as exc:
        return None if exc.errno in _HELD_BY_ANOTHER else f"has no locks (fcntl: {exc.strerror})"
    return "has locks that keep nobody out (fcntl)"


def _mapping_problem(one: int, other: int) -> str | None:
    """Try the memory by which SQLite's processes share the index of the write-ahead log."""
    try:
        with mmap.mmap(one, _PAGE) as written, mmap.mmap(other, _PAGE) as read:
            written[:1] = b"x"
            if read[:1] == b"x":
                return None
    except OSError as exc:
        return f"does not let files be mapped into memory ({exc.strerror})"
    return "does not show one process what another has written (mmap)"
