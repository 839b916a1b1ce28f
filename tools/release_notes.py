"""Print a release's section of CHANGELOG.md: `python -P tools/release_notes.py v0.1.0`.

It fails in a sentence, with code 1, where the tag is not the version of pyproject.toml, or where the
changelog has no dated section for it or an empty one. It needs nothing but Python: a release runs it before
anything is installed.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path
from typing import Final

__all__ = ["ReleaseError", "notes", "version"]

ROOT: Final = Path(__file__).parents[1]
_SECTION: Final = re.compile(r"^## \[([^\]]+)\](.*)\n", re.MULTILINE)
_DATE: Final = re.compile(r" - \d{4}-\d{2}-\d{2}")


class ReleaseError(ValueError):
    """Tell why a tag is no release."""


def version(tag: str, project: str) -> str:
    """Return the version that a tag names.

    Args:
        tag: The tag, `v` and the version.
        project: The text of pyproject.toml.

    Raises:
        ReleaseError: It is not the project's version.
    """
    found: str = tomllib.loads(project)["project"]["version"]
    if tag != f"v{found}":
        raise ReleaseError(f"the tag {tag} is not v{found}, the version of pyproject.toml")
    return found


def notes(release: str, changelog: str) -> str:
    """Return the text below a version's heading, up to the next version's.

    Raises:
        ReleaseError: There is no such section, it has no date, or it is empty.
    """
    sections = list(_SECTION.finditer(changelog))
    ends = [section.start() for section in sections[1:]] + [len(changelog)]
    for section, end in zip(sections, ends, strict=True):
        if section[1] != release:
            continue
        if not _DATE.fullmatch(section[2]):
            raise ReleaseError(f"CHANGELOG.md has no date for {release}: ## [{release}] - YYYY-MM-DD")
        text = changelog[section.end() : end].strip()
        if not text:
            raise ReleaseError(f"CHANGELOG.md says nothing about {release}")
        return text
    raise ReleaseError(f"CHANGELOG.md has no section for {release}")


def main() -> None:
    """Print the notes of the tag that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tag", help="v and the version")
    tag: str = parser.parse_args().tag
    try:
        release = version(tag, (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        print(notes(release, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))
    except ReleaseError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
