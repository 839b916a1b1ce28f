"""`make gpu`, small and on a CPU: every stage does its work, and one that does not is told and ended."""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from run import Outcome, Step, link_packages, run_stage, stages

ROOT = Path(__file__).parents[3]
ENVIRONMENT = dict(os.environ)


def gpu(results: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "SMALL": "1", "HALLMARK_GPU_RESULTS": str(results), **variables}
    command = [sys.executable, "-P", "bench/gpu/run.py"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def steps(results: Path, *some: Step) -> list[Outcome]:
    return list(run_stage("stage", some, results, ENVIRONMENT))


def test_every_stage_runs_on_a_cpu(tmp_path: Path) -> None:
    done = gpu(tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    found = {path.name.partition("-")[0]: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert {"gpu_kernels", "gpu_forward", "gpu_engine", "noise_pairs"} <= found.keys()
    for results in found.values():
        assert results["rows"]
    assert {row["op"] for row in found["gpu_kernels"]["rows"]} >= {"embed_project", "norm_sums"}
    (engine,) = found["gpu_engine"]["rows"]
    assert (engine["again_differ"], engine["sliced_differ"], engine["completions_differ"]) == (0, 0, 0)
    assert engine["slices"] > 0
    assert {path.stem for path in tmp_path.glob("*.log")} == stages(is_small=True).keys()
    table = done.stdout.partition("## Stages")[2]
    assert table.count("right") == sum(map(len, stages(is_small=True).values()))


def test_a_stage_that_is_not_known_is_refused(tmp_path: Path) -> None:
    done = gpu(tmp_path, STAGES="machine kernel")
    assert done.returncode == 2
    assert "STAGES: kernel is not allowed; allowed: machine, tests, kernels" in done.stderr


def test_what_fails_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    failing = Step(("-c", "print('so far'); raise SystemExit(3)"), 60)
    found = steps(tmp_path, failing, Step(("-c", "print('the rest')"), 60))
    assert [outcome.ended for outcome in found] == ["exit code 3", "right"]
    assert [outcome.is_right for outcome in found] == [False, True]
    assert (tmp_path / "stage.log").read_text() == "so far\nthe rest\n"


def test_what_takes_too_long_is_ended_with_its_processes(tmp_path: Path) -> None:
    code = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
    (found,) = steps(tmp_path, Step(("-c", code), 20))
    assert found.ended == "ended after 20 s"
    child = int((tmp_path / "stage.log").read_text())
    deadline = time.monotonic() + 60
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_lacks_a_module_is_left_out(tmp_path: Path) -> None:
    assert find_spec("no_such_module") is None
    lacking = Step(("-c", "raise SystemExit(1)"), 60, ("sys", "no_such_module"))
    (found,) = steps(tmp_path, lacking)
    assert (found.ended, found.is_right) == ("left out: no no_such_module", True)


def test_what_lacks_the_trained_model_is_left_out(tmp_path: Path) -> None:
    model = tmp_path / "smollm2"
    step = Step(("-c", "pass"), 60, needs_path=model)
    (found,) = steps(tmp_path, step)
    assert found.ended == f"left out: no {model}, which make gpu-parts fetches"
    model.mkdir()
    assert [outcome.ended for outcome in steps(tmp_path, step)] == ["right"]


def test_linked_packages_and_the_plugin_are_found(tmp_path: Path) -> None:
    link_packages(tmp_path)
    code = (
        "import hallmark.kernels; from importlib.metadata import distribution;"
        "print(hallmark.kernels.__file__);"
        "print(sorted(point.group for point in distribution('hallmark-poc').entry_points))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    file, groups = done.stdout.splitlines()
    assert Path(file).resolve() == ROOT / "kernels" / "__init__.py"
    assert "vllm.general_plugins" in groups


def test_stages_are_known_where_hallmark_is_not_importable_yet() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'bench' / 'gpu')!r}); sys.modules['hallmark'] = None;"
        "import run; print(len(run.stages(False)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(stages(is_small=False))


@pytest.mark.parametrize("small", [True, False])
def test_the_essential_stages_come_first(small: bool) -> None:
    assert list(stages(small))[:5] == ["machine", "tests", "kernels", "forward", "engine"]
