"""Folders that little fits into."""

import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A folder that little fits into, and what makes room in it."""

    path: Path
    make_room: Callable[[], None]


@contextmanager
def small_file_system(path: Path, size: int) -> Iterator[SmallDisk]:
    """What is written beyond its size in bytes fails with ENOSPC."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "hallmark", path], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")

    def remount() -> None:
        subprocess.run(["mount", "-o", f"remount,size={64 * size}", path], check=True)

    try:
        yield SmallDisk(path, remount)
    finally:
        subprocess.run(["umount", path], check=True)


@contextmanager
def small_files(path: Path, size: int) -> Iterator[SmallDisk]:
    """What is written to a file beyond a size in bytes fails with EFBIG, as on a disk that gives errors."""
    path.mkdir()
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN, "Python itself ignores it"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield SmallDisk(path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
