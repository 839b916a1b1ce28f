"""Find the programs of Debian that the tests run, or fetch them.

    python -P tools/debian_programs.py

It takes what is on this machine's path. A Prometheus that is missing it downloads and unpacks in
`.cache/debian`: that needs no rights and starts no service, as installing it would. systemd's tools it
installs where it may, as in a container; other machines have them.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["program"]

_UNPACKED: Final = Path(__file__).parents[1] / ".cache" / "debian"
_PROMETHEUS: Final = ("prometheus", "promtool")
_SYSTEMD: Final = ("systemd-analyze", "systemd-sysusers")


def program(name: str) -> str:
    """Return the path of a program.

    Raises:
        FileNotFoundError: It is neither on this machine's path nor fetched.
    """
    found = _find(name)
    if found is None:
        raise FileNotFoundError(f"{name} is missing: make programs fetches it")
    return found


def main() -> None:
    """Fetch what is missing; end with a sentence where it cannot be had."""
    if not all(map(_find, _PROMETHEUS)):
        print("The tests of the alert rules need Prometheus: fetching Debian's package", flush=True)
        if not (_download("prometheus") or (_update() and _download("prometheus"))):
            sys.exit("no Prometheus for the tests: put prometheus and promtool on the path")
    if not all(map(_find, _SYSTEMD)):
        print("The tests of the units need systemd-analyze: installing Debian's systemd", flush=True)
        install = ("apt-get", "install", "--quiet", "--quiet", "--yes", "--no-install-recommends", "systemd")
        if not (_run(install) or (_update() and _run(install))):
            sys.exit("no systemd-analyze for the tests: install systemd")


def _find(name: str) -> str | None:
    unpacked = _UNPACKED / "usr" / "bin" / name
    return shutil.which(name) or (str(unpacked) if unpacked.exists() else None)


def _update() -> bool:
    """Read the lists of packages, which a fresh container has not; returns whether that worked."""
    return _run(("apt-get", "update", "--quiet", "--quiet"))


def _download(package: str) -> bool:
    """Download and unpack a package; returns whether that worked."""
    _UNPACKED.mkdir(parents=True, exist_ok=True)
    if not _run(("apt-get", "download", "--quiet", "--quiet", package)):
        return False
    [archive] = _UNPACKED.glob(f"{package}_*.deb")
    unpacked = _run(("dpkg-deb", "--extract", str(archive), str(_UNPACKED)))
    archive.unlink()
    return unpacked


def _run(command: Sequence[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    directory = _UNPACKED if _UNPACKED.exists() else None
    done = subprocess.run(
        command,
        check=False,
        cwd=directory,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return done.returncode == 0


if __name__ == "__main__":
    main()
