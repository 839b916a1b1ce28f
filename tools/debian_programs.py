"""Find the programs of Debian that the tests run, or fetch them.

    python -P tools/debian_programs.py

It takes what is on this machine's path. A Prometheus that is missing it downloads and unpacks in
`.cache/debian`: that needs no rights and starts no service, as installing it would. PostgreSQL and systemd's
tools it installs where it may, as in a container; other machines have them.
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
_POSTGRESQL: Final = ("initdb", "pg_ctl", "postgres")
_POSTGRESQL_VERSIONS: Final = Path("/usr/lib/postgresql")
"""Where Debian has servers, each in its version's folder; none is on the path."""


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
        if not _install("systemd"):
            sys.exit("no systemd-analyze for the tests: install systemd")
    if not all(map(_find, _POSTGRESQL)):
        print("The tests of the receiver need PostgreSQL: installing Debian's", flush=True)
        if not _install("postgresql"):
            sys.exit(
                "no PostgreSQL for the tests: install it, or put initdb, pg_ctl and postgres on the path"
            )


def _find(name: str) -> str | None:
    found = shutil.which(name)
    folders = [_UNPACKED / "usr" / "bin", *(_POSTGRESQL_VERSIONS / v / "bin" for v in _postgresql_versions())]
    return found or next((str(folder / name) for folder in folders if (folder / name).exists()), None)


def _postgresql_versions() -> list[str]:
    """Return the versions of PostgreSQL that Debian has installed, the newest first."""
    found = (path.name for path in _POSTGRESQL_VERSIONS.glob("*") if path.name.isdecimal())
    return sorted(found, key=int, reverse=True)


def _install(package: str) -> bool:
    """Install a package; returns whether that worked."""
    command = ("apt-get", "install", "--quiet", "--quiet", "--yes", "--no-install-recommends", package)
    return _run(command) or (_update() and _run(command))


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
