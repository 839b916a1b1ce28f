"""Ranks vote on real process groups: united they go on, divided they stop."""

import subprocess
import sys
from pathlib import Path

import pytest

RANK = """
import sys
from datetime import timedelta
import torch.distributed as dist
from hallmark.poc.engine.agreement import Agreement

rank, store, vote = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
if vote != "absent":
    Agreement(dist.group.WORLD, timedelta(seconds=5)).confirm(vote == "yes", "a step")
    print("went on", flush=True)
    # Workers live on after a vote; one that ended here would close the others' connections.
    sys.stdin.read()
else:
    # A rank that is stuck: alive, but it does not come to the vote.
    import time
    time.sleep(10)
"""
STOPPED = 70


def vote(tmp_path: Path, *votes: str) -> list[tuple[int, str, str]]:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", RANK, str(rank), str(tmp_path / "store"), word],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, word in enumerate(votes)
    ]
    lines = [process.stdout.readline().strip() for process in ranks if process.stdout is not None]
    outcomes = []
    for process, line in zip(ranks, lines, strict=True):
        _, err = process.communicate(timeout=60)
        outcomes.append((process.returncode, line, err))
    return outcomes


@pytest.mark.parametrize("word", ["yes", "no"])
def test_ranks_that_agree_go_on(tmp_path: Path, word: str) -> None:
    assert [(code, out) for code, out, _ in vote(tmp_path, word, word)] == [(0, "went on")] * 2


def test_ranks_that_are_divided_stop(tmp_path: Path) -> None:
    for code, out, err in vote(tmp_path, "yes", "no"):
        assert (code, out) == (STOPPED, "")
        assert "a step succeeded on 1 of 2 ranks" in err


def test_a_rank_stops_when_another_does_not_come(tmp_path: Path) -> None:
    code, out, err = vote(tmp_path, "yes", "absent")[0]
    assert (code, out) == (STOPPED, "")
    assert "did not come to the vote after a step" in err
