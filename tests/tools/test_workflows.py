"""The workflows of CI: they are sound, call the Makefile, and agree with what they repeat."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from checkout import ROOT

WORKFLOWS: Final = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS: Final = frozenset(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in load(path)["jobs"].values():
        yield from job.get("steps", [])


def commands(path: Path) -> list[list[str]]:
    return [shlex.split(line) for step in steps(path) for line in step.get("run", "").splitlines()]


def made(command: list[str]) -> set[str]:
    """The targets of a call of make: no option, no variable, nothing behind a redirection."""
    words = command[1 : command.index(">") if ">" in command else None]
    return {word for word in words if not word.startswith("-") and "=" not in word}


def test_an_audit_finds_nothing() -> None:
    """It reads each file by GitHub's schema, and looks for unpinned actions and for rights too wide."""
    zizmor = Path(sys.executable).parent / "zizmor"
    done = subprocess.run(
        [zizmor, "--offline", "--no-progress", "--strict-collection", ROOT / ".github"],
        check=False,
        capture_output=True,
        text=True,
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_command_is_a_target_of_the_makefile(path: Path) -> None:
    for command in commands(path):
        if command[0] == "make":
            assert made(command)
            assert made(command) <= TARGETS, command
        else:
            assert command[0] in {".ci/run", "gh"}, f"put it into the Makefile: {command}"


def test_what_ci_runs_is_the_check_and_the_tests() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("make")] == ["make check", "make test"]
    assert [".ci/run"] in commands(ROOT / ".github" / "workflows" / "ci.yml")


def test_every_python_that_the_package_names_is_tried() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    named = {found[1] for each in classifiers if (found := re.fullmatch(r".* :: Python :: (3\.\d+)", each))}
    jobs = load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    matrix = set(jobs["python"]["strategy"]["matrix"]["python-version"])
    [whole] = [
        step["with"]["python-version"]
        for step in jobs["test"]["steps"]
        if "setup-python" in step.get("uses", "")
    ]
    assert named == matrix | {whole}
    assert whole not in matrix


def test_files_and_folders_that_are_named_exist() -> None:
    for path in WORKFLOWS:
        for step in steps(path):
            named = step.get("with", {}).get("cache-dependency-path")
            assert named is None or (ROOT / named).is_file()
    for update in load(ROOT / ".github" / "dependabot.yml")["updates"]:
        for folder in update.get("directories", [update.get("directory")]):
            assert (ROOT / folder.lstrip("/")).is_dir(), folder


def test_the_hook_formats_as_make_check_does() -> None:
    """Two versions of Ruff may format a file in two ways."""
    [revision] = [
        repository["rev"]
        for repository in load(ROOT / ".pre-commit-config.yaml")["repos"]
        if repository["repo"].endswith("/ruff-pre-commit")
    ]
    pins = (ROOT / "requirements" / "cpu.txt").read_text(encoding="utf-8").splitlines()
    assert f"ruff=={revision.removeprefix('v')}" in pins
