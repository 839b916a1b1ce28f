"""Processes that end with the one that started them, as vLLM's engine with its API server."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from descendants import runs, wait_until_gone

# A child as vLLM starts its engine, by a thread that has ended since: the process is what counts.
PARENT = """
import multiprocessing, pathlib, signal, sys, threading, time
from hallmark.poc.engine.orphan import end_with_parent

def child(path, ignores):
    if ignores:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(2):
        end_with_parent(patience=0.5)
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("hallmark-parent-watch") == 1, names
    print(multiprocessing.current_process().pid, flush=True)
    time.sleep(600)

if __name__ == "__main__":
    process = multiprocessing.get_context(sys.argv[1]).Process(
        target=child, args=(None, sys.argv[2] == "ignores"), daemon=True
    )
    starter = threading.Thread(target=process.start)
    starter.start()
    starter.join()
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["spawn", "fork"])
@pytest.mark.parametrize("reaction", ["ends", "ignores"])
def test_a_child_ends_when_its_parent_is_killed_and_not_before(
    tmp_path: Path, how: str, reaction: str
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen(
        [sys.executable, "-P", str(script), how, reaction], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert runs(child), "the thread that started it has ended"
            parent.kill()
            wait_until_gone({child})
        finally:
            parent.kill()
            if runs(child):
                os.kill(child, signal.SIGKILL)


def test_a_process_that_nobody_started_by_multiprocessing_is_left_alone() -> None:
    script = (
        "import threading; from hallmark.poc.engine.orphan import end_with_parent; end_with_parent(); "
        "assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-P", "-c", script], check=True)
