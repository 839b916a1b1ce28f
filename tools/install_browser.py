"""Find the browser that the tests of the live pages drive, or install one.

    python -P tools/install_browser.py

It takes the Chromium or Chrome of this machine, or the one that HALLMARK_CHROMIUM names. Where there is none,
it installs Debian's package where it may, as in a container, and else lets Playwright fetch its own into the
user's cache.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

__all__ = ["chromium"]

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_APT: Final = (
    ("apt-get", "update", "--quiet", "--quiet"),
    ("apt-get", "install", "--quiet", "--quiet", "--yes", "--no-install-recommends", "chromium"),
)


def chromium() -> str | None:
    """Return the browser of this machine; None leaves it to Playwright, which finds its own."""
    return os.environ.get("HALLMARK_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


def main() -> None:
    """Install a browser where there is none; end with a sentence where none can be had."""
    if chromium() is not None:
        return
    if shutil.which("apt-get") and os.geteuid() == 0:
        print("The tests of the live pages need a browser: installing Debian's chromium", flush=True)
        if all(_run(command) for command in _APT) and chromium() is not None:
            return
    if not _run((sys.executable, "-P", "-m", "playwright", "install", "chromium")):
        sys.exit(
            "no browser for the tests of the live pages: install chromium, or name one in HALLMARK_CHROMIUM"
        )


def _run(command: Sequence[str]) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(command, check=False, env=environment, stdout=subprocess.DEVNULL).returncode == 0


if __name__ == "__main__":
    main()
