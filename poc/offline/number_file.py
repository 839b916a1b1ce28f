"""A file of numbers that have been recomputed, so that a verification can be interrupted.

Lines of JSON: the first says what the file is; then, for every arithmetic that was at work, one that
describes it in full and names it by the SHA-256 of the description; then, batch by batch, what was computed
under such a name. A line is on disk before the next batch begins. The end of a line that was being written
when the process was killed is cut off; anything else that is not ours is refused and left as it is.

The first line has the number of the format. A change of the lines is a new format. The code that brings it
goes on reading files of the older ones, and a file of a newer one is refused. Format 1 had distances of the
protocol hallmark/1, which are of no use any more: it is refused too.
"""

import fcntl
import hashlib
import json
import math
import os
import stat
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from hallmark.poc.core.checks import is_integer
from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.protocol.nonces import NonceKey

__all__ = ["Arithmetic", "NumberFile"]

Arithmetic = Mapping[str, str | int | float | bool]
"""Everything that a number depends on beside the public key and the nonce."""

_KIND: Final = "recomputed distances"
_FORMAT: Final = 2
_HEADER: Final = compact_json({"hallmark": _KIND, "format": _FORMAT}) + b"\n"


class NumberFile:
    """The numbers of one file, which no other process may use meanwhile.

    Args:
        path: The file; made where it is not there, for this user's eyes only.

    Raises:
        FieldError: It is not a file of this kind, belongs to another user, is in use, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: defaultdict[str, dict[NonceKey, Sequence[float]]] = defaultdict(dict)
        self._described: set[str] = set()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        except OSError as exc:
            raise self._refusal(
                f"a file that can be written ({exc.strerror}); --no-state keeps none"
            ) from exc
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let others use it."""
        os.close(self._descriptor)

    def known(self, arithmetic: Arithmetic) -> Mapping[NonceKey, Sequence[float]]:
        """Return what has been computed with this arithmetic; NaN where that failed."""
        return self._known[_name(arithmetic)]

    def add(
        self, arithmetic: Arithmetic, keys: Sequence[NonceKey], numbers: Sequence[Sequence[float]]
    ) -> None:
        """Keep a batch; it is on disk when this returns.

        Raises:
            StateError: It cannot be written.
        """
        name = _name(arithmetic)
        lines = b""
        if name not in self._described:
            lines += compact_json({"name": name, "arithmetic": dict(arithmetic)}) + b"\n"
        rows = [
            [key, nonce, [*of_nonce] if all(map(math.isfinite, of_nonce)) else None]
            for (key, nonce), of_nonce in zip(keys, numbers, strict=True)
        ]
        lines += compact_json({"name": name, "numbers": rows}) + b"\n"
        try:
            self._write(lines)
        except OSError as exc:
            raise StateError(
                f"{self._path} cannot be written: {exc.strerror}; --no-state keeps none"
            ) from exc
        self._described.add(name)
        self._known[name].update(zip(keys, numbers, strict=True))

    def _open(self) -> None:
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            # Whoever writes this file decides verdicts.
            raise self._refusal("a plain file that belongs to you")
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise self._refusal("a file that no other hallmark command is using now") from exc
        with open(self._descriptor, "rb", closefd=False) as file:
            content = file.read()
        if not content.startswith(_HEADER):
            if not _HEADER.startswith(content):
                raise self._refusal(_allowed_instead_of(content))
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self._write(_HEADER)
            return
        size = self._read(content)
        os.ftruncate(self._descriptor, size)
        os.lseek(self._descriptor, size, os.SEEK_SET)

    def _read(self, content: bytes) -> int:
        """Read the lines after the first; returns how many bytes of the file are whole lines."""
        size = len(_HEADER)
        lines = content[size:].splitlines(keepends=True)
        for number, line in enumerate(lines, start=2):
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("the line has no end")
                self._take(json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError) as exc:
                if number == len(lines) + 1:
                    break
                raise self._refusal(
                    f"a file that hallmark verify has written; line {number} is damaged, delete the file"
                ) from exc
            size += len(line)
        return size

    def _take(self, entry: Any) -> None:
        if "arithmetic" in entry:
            if _name(entry["arithmetic"]) != entry["name"]:
                raise ValueError("the name is of another arithmetic")
            self._described.add(entry["name"])
            return
        if entry["name"] not in self._described:
            raise ValueError("the numbers are of no known arithmetic")
        batch: dict[NonceKey, Sequence[float]] = {}
        for key, nonce, numbers in entry["numbers"]:
            if not isinstance(key, str) or not is_integer(nonce):
                raise ValueError("not a public key and a nonce")
            values = (math.nan,) if numbers is None else tuple(map(float, numbers))
            if numbers is not None and not (values and all(map(math.isfinite, values))):
                raise ValueError("not the numbers of a nonce")
            batch[key, nonce] = values
        self._known[entry["name"]].update(batch)

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fsync(self._descriptor)

    def _refusal(self, allowed: str) -> FieldError:
        return FieldError("--state", str(self._path), allowed)


def _allowed_instead_of(content: bytes) -> str:
    """Return what a file may be that begins with another line than ours."""
    with suppress(ValueError, RecursionError):
        match json.loads(content.partition(b"\n")[0]):
            case {"hallmark": str(kind), "format": 1} if kind == _KIND:
                return (
                    "a file of numbers; this one has distances of the protocol hallmark/1, which is no "
                    "longer computed: delete it"
                )
            case {"hallmark": str(kind), "format": int(number)} if kind == _KIND and number > _FORMAT:
                return (
                    f"a file of formats up to {_FORMAT}; a newer Hallmark wrote this one, in format {number}"
                )
    return "a file that hallmark verify has written, or one that is not there yet"


def _name(arithmetic: Arithmetic) -> str:
    text = json.dumps(arithmetic, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
