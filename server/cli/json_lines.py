"""Files of proofs that commands write: a JSON object on each line, for this user's eyes only."""

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hallmark.poc.core.errors import FieldError
from hallmark.server.cli.consoles import print_or_drop, say
from hallmark.server.cli.words import counted

__all__ = ["write_lines"]


def write_lines(file: str, entries: Iterable[Any], source: Path | None, noun: str) -> None:
    """Write entries to a file, in the place of what is in it, and say how many there were.

    Args:
        file: Its path; - is standard output, as long as somebody reads it.
        entries: The objects.
        source: The file that they are read from; None where that is none.
        noun: What one of them is called.

    Raises:
        FieldError: The file cannot be written, or is the source itself.
    """
    count = _write(file, entries, source)
    say(f"{counted(count, noun)} written to {'standard output' if file == '-' else file}")


def _write(file: str, entries: Iterable[Any], source: Path | None) -> int:
    count = 0
    if file == "-":
        for entry in entries:
            if not print_or_drop(json.dumps(entry)):
                break
            count += 1
        return count
    # SQLite's own files beside it belong to it.
    sources = [] if source is None else [f"{source}{end}" for end in ("", "-wal", "-shm")]
    if os.path.exists(file) and any(os.path.samefile(file, each) for each in filter(os.path.exists, sources)):
        raise FieldError("FILE", file, "another file than the one that is read")
    try:
        with open(file, "w", encoding="utf-8", opener=_open_private) as target:
            for entry in entries:
                print(json.dumps(entry), file=target)
                count += 1
    except OSError as exc:
        raise FieldError("FILE", file, f"a path to write to ({exc.strerror})") from exc
    return count


def _open_private(path: str, flags: int) -> int:
    """Open a file for nobody else, one that was there too: proofs are nobody else's business."""
    descriptor = os.open(path, flags, 0o600)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.fchmod(descriptor, 0o600)
    return descriptor
