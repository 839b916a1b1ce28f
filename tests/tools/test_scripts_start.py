"""Scripts of the checkout start by the commands that the documents name them with."""

import os
import re
import subprocess
import sys

import pytest
from checkout import ROOT

PAGES = (ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
NAMED = sorted(
    {
        script
        for page in PAGES
        for script in re.findall(r"python -P ((?:tools|bench)/[\w/]+\.py)", page.read_text(encoding="utf-8"))
    }
)
OF_MAKE = ["tools/vllm_overlay.py"]

# Some write documents or run for minutes: only what comes before that is run, all that they import.
_START = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='started')"


def test_the_documents_name_scripts() -> None:
    assert "tools/check_vllm_release.py" in NAMED


@pytest.mark.parametrize("script", sorted({*NAMED, *OF_MAKE}))
def test_a_script_finds_its_neighbours(script: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", _START, script]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
