"""An outbox where locks do not lock: it is found at the start, and said in one sentence.

The library that a process is started with (`broken_locks.c`) answers for the kernel, which is what Python,
SQLite and FileLock all ask; nothing of them is replaced.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.poc.outbox.file_system import problem_of_folder, problem_of_mounts

_SOURCE = Path(__file__).parents[2] / "support" / "broken_locks.c"
_OPEN = """
import sys
from pathlib import Path
from hallmark.poc.core.errors import OutboxError
from hallmark.poc.outbox.database import OutboxDatabase

try:
    OutboxDatabase(Path(sys.argv[1])).close()
except OutboxError as exc:
    sys.exit(str(exc))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("library") / "broken_locks.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, _SOURCE, "-ldl"], check=True)
    return path


def opened(path: Path, library: Path, broken: str) -> str:
    """What a process says that opens an outbox where something is broken; empty where it has."""
    command = [sys.executable, "-P", "-c", _OPEN, str(path)]
    environment = {**os.environ, "LD_PRELOAD": str(library), "BROKEN": broken}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == bool(done.stderr), done.stderr
    return done.stderr.strip()


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("flock=ENOSYS", "has no locks (flock: Function not implemented)"),
        ("flock=ENOLCK", "has no locks (flock: No locks available)"),
        ("flock=EOPNOTSUPP", "has no locks (flock: Operation not supported)"),
        ("flock=OK", "has locks that keep nobody out (flock)"),
        ("fcntl=ENOLCK", "has no locks (fcntl: No locks available)"),
        ("fcntl=ENOSYS", "has no locks (fcntl: Function not implemented)"),
        ("fcntl=OK", "has locks that keep nobody out (fcntl)"),
        ("mmap=ENODEV", "does not let files be mapped into memory (No such device)"),
    ],
)
def test_where_locks_or_shared_memory_do_not_work_the_outbox_is_refused(
    tmp_path: Path, library: Path, broken: str, told: str
) -> None:
    path = tmp_path / "outbox.db"
    assert opened(path, library, broken) == (
        f"the outbox {path} lies on a file system that {told}: give it a place on a local disk with the "
        "setting outbox_path"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["outbox.db.lock"]
    # Nothing of it is left that would keep a server out where all is well.
    assert opened(path, library, "") == ""
    OutboxDatabase(path).close()


def test_a_folder_where_all_works_has_no_problem_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    assert problem_of_folder(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        ("nfs4", "rw,vers=4.2,hard,proto=tcp,local_lock=none,addr=10.0.0.1", None),
        (
            "nfs",
            "rw,vers=3,nolock,proto=tcp,local_lock=all",
            "keeps its locks to this machine (nfs, nolock, local_lock=all)",
        ),
        ("nfs", "rw,vers=3,local_lock=flock", "keeps its locks to this machine (nfs, local_lock=flock)"),
        ("nfs4", "rw,vers=4.2,local_lock=posix", "keeps its locks to this machine (nfs4, local_lock=posix)"),
        ("ext4", "rw,local_lock=all", None),
    ],
)
def test_locks_that_other_machines_do_not_see_are_known_by_the_mount(
    kind: str, options: str, told: str | None
) -> None:
    """No trial on one machine can find it out."""
    mounts = (
        "24 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n"
        f"99 24 0:52 /export /home\\040of rw,relatime shared:9 master:1 - {kind} server:/export {options}\n"
    )
    assert problem_of_mounts(mounts, "0:52") == told
    assert problem_of_mounts(mounts, "254:0") is None
    assert problem_of_mounts("", "0:52") is None
