"""What lies in an outbox: of a server that was killed, that runs, or that is done."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory


def left_in(outbox: Path) -> tuple[int, int]:
    """Callbacks and findings in the outbox of a server that was killed, and that the file is in order.

    It is read from a copy: what it has to go through at the next start is left as it is.
    """
    with TemporaryDirectory() as directory:
        copy = Path(directory) / outbox.name
        for ending in ("", "-wal"):
            if (path := Path(f"{outbox}{ending}")).exists():
                shutil.copyfile(path, f"{copy}{ending}")
        if not copy.exists():
            return 0, 0
        with closing(sqlite3.connect(copy)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return counted(copy)


def counted(outbox: Path) -> tuple[int, int]:
    """Callbacks and findings in an outbox, which a server may have at the moment."""
    if not outbox.exists():
        return 0, 0
    with closing(_reading(outbox)) as database:
        if not database.execute("PRAGMA user_version").fetchone()[0]:
            return 0, 0
        callbacks: int = database.execute("SELECT count(*) FROM deliveries").fetchone()[0]
        findings: int = database.execute("SELECT count(*) FROM findings").fetchone()[0]
    return callbacks, findings


def ever_queued(outbox: Path) -> int:
    """Return how many callbacks have ever been in an outbox."""
    with closing(_reading(outbox)) as database:
        row = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'deliveries'").fetchone()
    return 0 if row is None else int(row[0])


def _reading(outbox: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{outbox.absolute().as_uri()}?mode=ro", uri=True)
