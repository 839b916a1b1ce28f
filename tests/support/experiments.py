"""Experiments of bench/soundness/experiments in their shortened form."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def shortened(name: str, directory: Path) -> dict[str, Any]:
    """Run an experiment with the smallest models into a folder, and return what it wrote there."""
    script = f"bench/soundness/experiments/{name}.py"
    command = [sys.executable, "-P", script, "--small", "--output", str(directory)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (directory / f"{name}.svg").stat().st_size > 0
    (path,) = directory.glob(f"soundness_{name}-*.json")
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert results["small"] is True
    return results
