#!/usr/bin/env python3
"""Lay a release of vLLM over the installed build for CPUs: `vllm_overlay.py VERSION DIRECTORY`.

Builds for CPUs come later than releases. The Python files of a release run over the compiled extension of
the build before it, as long as the operators they call are there: enough to try a round on the day of a
release. Put the directory into PYTHONPATH.
"""

import argparse
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _release import fetch

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements" / "next.txt"


def main() -> None:
    """Make the overlay that the command line names, anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", help="a release such as 0.33.0")
    parser.add_argument("directory", type=Path, help="made anew")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.directory, ignore_errors=True)
    make_overlay(arguments.version, arguments.directory)


def make_overlay(version: str, directory: Path) -> None:
    """Write a release's Python files, links to the installed extension, and what the release needs beside it.

    Args:
        version: The release.
        directory: Where to; it must not exist.
    """
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("vLLM is not installed: the overlay lies over its build for CPUs")
    installed = Path(next(iter(spec.submodule_search_locations)))
    release = fetch(version)
    directory.mkdir(parents=True)
    for name in release.wheel.namelist():
        if name.startswith("vllm/") and not name.endswith(".so"):
            release.wheel.extract(name, directory)
    for extension in installed.rglob("*.so"):
        link = directory / "vllm" / extension.relative_to(installed)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(extension)
    # vLLM takes itself for a build for CPUs where its version says so.
    metadata = directory / f"vllm-{version}+cpu.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", directory, "--requirement", REQUIREMENTS], check=True)


if __name__ == "__main__":
    main()
