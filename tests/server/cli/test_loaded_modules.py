"""Commands import what they use: nobody waits for PyTorch to read a page of help."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"fastapi", "numpy", "scipy", "torch", "transformers", "triton", "uvicorn", "vllm"}

_RUN = """
import json, sys
from hallmark.server.__main__ import main
try:
    main()
except SystemExit:
    pass
print(json.dumps([*sys.modules]), file=open(sys.argv[-1], "w"))
"""


def loaded(folder: Path, *arguments: str, **environment: str) -> set[str]:
    """The heavy packages that a process of the command line has imported when it ends."""
    file = folder / "modules.json"
    script = _RUN.replace("sys.argv[-1]", repr(str(file)))
    subprocess.run(
        [sys.executable, "-P", "-c", script, *arguments],
        env={**os.environ, "HOME": str(folder), **environment},
        capture_output=True,
        check=True,
    )
    return HEAVY & {*json.loads(file.read_text())}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("completion", "bash"),
        ("secret",),
        ("round", "status", "http://127.0.0.1:1"),
        ("round", "watch", "http://127.0.0.1:1"),
        ("round", "stop", "http://127.0.0.1:1"),
        ("fleet", "start", "--help"),
        ("fleet", "status", "none.toml"),
        ("outbox", "list"),
        ("queue", "order", "--help"),
        ("queue", "status", "--database", "postgresql://127.0.0.1:1/db"),
        ("receiver", "list"),
        ("serve", "--help"),
        ("verify", "--help"),
        ("worker", "--help"),
        ("calibrate", "--help"),
        ("demo", "--help"),
        ("doctor", "--help"),
        ("rond",),
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_loaded(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert loaded(tmp_path, *arguments) == set()


def test_nor_for_completion(tmp_path: Path) -> None:
    asked = {"_HALLMARK_COMPLETE": "complete_bash", "COMP_WORDS": "hallmark rou", "COMP_CWORD": "1"}
    assert loaded(tmp_path, **asked) == set()


def test_a_target_loads_what_it_computes_with(tmp_path: Path) -> None:
    """That the test would see what is loaded."""
    assert loaded(tmp_path, "target", "--hidden-size", "64", "--valid-rate", "0.1") == {"numpy", "scipy"}
