"""What a person sees on terminals of 80x24 and 160x50 is what was looked at: help, results, common errors."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import screens
from python_path import with_support

SHOWN = [name for name, _ in screens.screens()]
SIZES = [f"{columns}x{lines}" for columns, lines in screens.SIZES]


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of today, taken by a process without threads."""
    folder = tmp_path_factory.mktemp("screens")
    subprocess.run(
        [sys.executable, "-P", screens.__file__, folder],
        env={**os.environ, "PYTHONPATH": with_support(), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    return folder


@pytest.mark.xdist_group("screens")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SHOWN)
def test_a_screen_shows_what_was_looked_at(taken: Path, size: str, name: str) -> None:
    """`PYTHONPATH=tests/support python -P tests/support/screens.py` takes the pictures anew."""
    shown = (taken / size / f"{name}.txt").read_text()
    assert shown == (screens.FOLDER / size / f"{name}.txt").read_text()


@pytest.mark.parametrize("size", SIZES)
def test_there_is_no_picture_of_what_is_gone(size: str) -> None:
    assert {each.stem for each in (screens.FOLDER / size).iterdir()} == {*SHOWN}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [name for name in SHOWN if not name.startswith("help-hallmark")])
def test_nothing_is_cut(size: str, name: str) -> None:
    """Typer ends a cut line with three dots, rich with one sign; keys in tables are written out below."""
    shown = (screens.FOLDER / size / f"{name}.txt").read_text()
    assert not re.search(r"\w\.\.\.$", shown, re.MULTILINE)
    for head, tail in re.findall(r"(\w{8})…(\w{7})", shown):
        assert re.search(rf"{head}\w+{tail}", shown)
    assert shown.count("…") == len(re.findall(r"\w{8}…\w{7}", shown))


@pytest.mark.parametrize("name", [name for name in SHOWN if name.startswith("view-")])
def test_a_wide_terminal_shows_no_less(name: str) -> None:
    narrow, wide = (
        {*re.findall(r"\w+", (screens.FOLDER / size / f"{name}.txt").read_text())} for size in SIZES
    )
    # What is folded is broken somewhere, and p-values stand in columns instead of a sentence.
    lost = {word for word in narrow - wide if not any(word in other for other in wide)} - {"values"}
    assert lost == set()


def test_the_first_lines_of_a_screen_say_what_matters() -> None:
    """Views that are followed have to fit on the smaller screen as a whole."""
    for name in ("view-round-watch", "view-round-status-stuck", "view-round-status-validating"):
        assert len((screens.FOLDER / "80x24" / f"{name}.txt").read_text().splitlines()) <= 23
