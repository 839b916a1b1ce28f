"""The notes of a release: the tag's own section, or a sentence why there is none."""

import subprocess
import sys
import tomllib

import pytest
from checkout import ROOT
from release_notes import ReleaseError, notes, version

CHANGELOG = """# Changelog

## [Unreleased]

## [1.1.0] - 2027-01-02

### Added

- Two things.

## [1.0.0] - 2026-12-01

## [0.9.0]

- The first one.
"""
PROJECT = '[project]\nversion = "1.1.0"\n'


def test_the_notes_are_the_section_of_that_version_alone() -> None:
    assert notes("1.1.0", CHANGELOG) == "### Added\n\n- Two things."


@pytest.mark.parametrize(
    ("release", "complaint"),
    [
        ("1.2.0", "no section for 1.2.0"),
        ("1.1", "no section for 1.1"),
        ("1.0.0", "says nothing about 1.0.0"),
        ("0.9.0", r"no date for 0\.9\.0: ## \[0\.9\.0\] - YYYY-MM-DD"),
        ("Unreleased", "no date"),
    ],
)
def test_a_version_without_notes_is_no_release(release: str, complaint: str) -> None:
    with pytest.raises(ReleaseError, match=complaint):
        notes(release, CHANGELOG)


@pytest.mark.parametrize("tag", ["1.1.0", "v1.1", "v1.1.0rc1", "v2.0.0"])
def test_a_tag_of_another_version_is_no_release(tag: str) -> None:
    assert version("v1.1.0", PROJECT) == "1.1.0"
    with pytest.raises(ReleaseError, match=f"the tag {tag} is not v1.1.0"):
        version(tag, PROJECT)


def release_notes(tag: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", ROOT / "tools" / "release_notes.py", tag],
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_version_of_the_project_can_be_released() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    done = release_notes(f"v{project['version']}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("### ")


def test_a_refusal_is_one_sentence_and_no_notes() -> None:
    done = release_notes("v99.0.0")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("the tag v99.0.0 is not v")
    assert len(done.stderr.splitlines()) == 1
