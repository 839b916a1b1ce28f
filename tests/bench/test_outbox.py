"""The bench of the outbox, shortened; it fails where a batch is lost, repeated or out of order."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_batches_for_receivers_that_are_down_arrive_once_they_are_up() -> None:
    command = [sys.executable, "-P", "bench/outbox.py", "--batches", "200", "--no-results"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "200 callbacks are kept for the next start" in ran.stderr
    for phase in ("queue, both receivers down", "start on what is queued", "one up", "both up"):
        assert phase in ran.stdout
