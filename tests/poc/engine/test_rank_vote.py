"""Ranks vote on real process groups: united they go on, divided they stop."""

import subprocess
import sys
from pathlib import Path

import pytest

RANK = """
import os, sys
from datetime import timedelta
import torch.distributed as dist
from hallmark.poc.engine.rank_vote import RankVote

rank, store, method, outcome, patience = int(sys.argv[1]), *sys.argv[2:5], float(sys.argv[5])
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)

def step():
    if outcome == "fails":
        raise ValueError("it failed here")
    return "went on"

if outcome != "is stuck":
    try:
        said = getattr(RankVote(dist.group.WORLD, timedelta(seconds=patience)), method)("a step", step)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
else:
    said = "is stuck"
print(said, flush=True)
# Workers live on after a vote; one that ended here would close the others' connections.
sys.stdin.read()
# Gloo's threads may abort a process that is torn down while the other one closes.
os._exit(0)
"""
STOPPED = 70


def take(tmp_path: Path, method: str, *steps: str, patience: float = 60.0) -> list[tuple[int, str, str]]:
    store = str(tmp_path / "store")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", RANK, str(rank), store, method, step, str(patience)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, step in enumerate(steps)
    ]
    lines = [process.stdout.readline().strip() for process in ranks if process.stdout is not None]
    outcomes = []
    for process, line in zip(ranks, lines, strict=True):
        _, err = process.communicate(timeout=60)
        outcomes.append((process.returncode, line, err))
    return outcomes


METHODS = ("without_collectives", "with_collectives")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("step", "said"), [("succeeds", "went on"), ("fails", "ValueError: it failed here")])
def test_ranks_that_agree_go_on(tmp_path: Path, method: str, step: str, said: str) -> None:
    assert [(code, out) for code, out, _ in take(tmp_path, method, step, step)] == [(0, said)] * 2


def test_a_failure_before_the_first_collective_is_a_failure_of_all(tmp_path: Path) -> None:
    outcomes = take(tmp_path, "without_collectives", "succeeds", "fails")
    assert [(code, out) for code, out, _ in outcomes] == [
        (0, "EngineError: a step succeeded on 1 of 2 ranks"),
        (0, "ValueError: it failed here"),
    ]


def test_ranks_that_are_divided_after_it_stop(tmp_path: Path) -> None:
    for code, out, err in take(tmp_path, "with_collectives", "succeeds", "fails"):
        assert (code, out) == (STOPPED, "")
        assert "a step succeeded on 1 of 2 ranks" in err


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_stops_when_another_does_not_come(tmp_path: Path, method: str) -> None:
    code, out, err = take(tmp_path, method, "succeeds", "is stuck", patience=2)[0]
    assert (code, out) == (STOPPED, "")
    assert "did not come to the vote after a step" in err


def test_a_device_that_never_answers_stops_the_process() -> None:
    """`/health` would stay green behind a worker that waits for ever."""
    code = """
from datetime import timedelta
from hallmark.poc.engine.rank_vote import RankVote

RankVote(None, timedelta(seconds=0.3)).wait_for_device(lambda: False)
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == STOPPED
    assert "the device has not finished a batch within 0:00:00.3" in done.stderr
