"""Everything that only a GPU can show, on a machine without a network: correctness first, then times.

`make gpu`, or `python3 -P bench/gpu/run.py`. Nothing is installed: PyTorch with CUDA, Triton, transformers,
SciPy and pytest with hypothesis must be there, vLLM may be. Stages run one after the other, each for so many
seconds at most, and write their results as they come; up to `noise` they take about 8 minutes on an H100. The
environment:

- HALLMARK_GPU_RESULTS: the folder for results and logs; `.gpu/results` of the checkout.
- HALLMARK_SMOLLM2: what `make gpu-parts` made, the trained model in parts and the packages that read it;
  `.gpu/smollm2`. Those packages need psutil, PyYAML and tqdm.
- STAGES: which stages, in which order; all of them.
- SMALL=1: the same on a CPU, in sizes that take seconds.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # `python -P` leaves the script's own folder out
sys.path.insert(0, str(HERE.parent))

ROOT = HERE.parents[1]
_KILL_SECONDS = 5.0
_COLUMNS = 12


@dataclass(frozen=True)
class Step:
    """One process of a stage.

    Attributes:
        command: What Python is given.
        seconds: How long it may take.
        needs: Modules without which it is left out.
        needs_path: A file or folder without which it is left out.
    """

    command: tuple[str, ...]
    seconds: int
    needs: tuple[str, ...] = ()
    needs_path: Path | None = None

    def lacks(self) -> str | None:
        """Return what is missing of what it needs; None where all is there."""
        for module in self.needs:
            if find_spec(module) is None:
                return module
        if self.needs_path is not None and not self.needs_path.exists():
            return f"{self.needs_path}, which make gpu-parts fetches"
        return None


@dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Attributes:
        stage: The stage's name.
        step: The step's command, without paths.
        seconds: How long it took.
        ended: `right`, or what went wrong.
    """

    stage: str
    step: str
    seconds: float
    ended: str

    @property
    def is_right(self) -> bool:
        """Whether it did what it should, or was rightly left out."""
        return self.ended.startswith(("right", "left out"))


def stages(is_small: bool) -> dict[str, tuple[Step, ...]]:
    """Return every stage by its name, in order."""
    from _smollm2 import where

    def script(name: str, *arguments: str) -> tuple[str, ...]:
        return (str(HERE / name), *arguments)

    def engine(*arguments: str, seconds: int = 120) -> Step:
        return Step(script("engine.py", *arguments), seconds, ("vllm",))

    # Small ways take a random model.
    trained = None if is_small else where()

    def noise(way: str, *needs: str) -> Step:
        return Step(script("noise.py", "run", way), 120, needs, trained)

    # pytest-benchmark, where it is installed, warns beside xdist, and a warning is an error here.
    options = ("-p", "no:cacheprovider", "-p", "no:benchmark", "-q", "--tb=short")
    if is_small:
        files = ("tests/kernels/test_philox.py", "tests/kernels/test_project_residual.py")
        return {
            "machine": (Step(script("machine.py"), 60),),
            "tests": (Step(("-m", "pytest", *options, "-m", "not gpu and not slow", *files), 120),),
            "kernels": (Step(script("kernel_times.py"), 120),),
            "forward": (Step(script("forward.py"), 240),),
            "engine": (engine("demo", "eager"),),
            "noise": (noise("transformers"), Step(script("noise.py", "compare"), 60)),
        }
    # Most of the tests' time is compilation, on the CPU: several processes where pytest can.
    processes = ("-n", "8") if find_spec("xdist") is not None else ()
    return {
        "machine": (Step(script("machine.py"), 60),),
        "tests": (
            Step(("-m", "pytest", *options, *processes, "-m", "gpu and not slow", "tests/kernels"), 160),
        ),
        "kernels": (Step(script("kernel_times.py"), 90),),
        "forward": (Step(script("forward.py"), 150),),
        "engine": (
            engine("0.6B", "eager", "--attention", "FLASH_ATTN"),
            engine("8B", "compiled", "--attention", "FLASH_ATTN", "--runner", "2"),
        ),
        "families": (
            Step(
                ("-m", "pytest", *options, "-m", "gpu", "tests/poc/engine/test_model_families.py"),
                400,
                ("vllm", "pytest"),
            ),
        ),
        "noise": (
            noise("transformers"),
            noise("vllm-FLASH_ATTN", "vllm"),
            noise("vllm-TRITON_ATTN", "vllm"),
            Step(script("noise.py", "compare"), 60, needs_path=trained),
        ),
        "engines": (
            engine("32B", "eager", "--attention", "FLASH_ATTN", seconds=200),
            engine("8B", "eager", "--attention", "FLASH_ATTN", "--runner", "2"),
            engine("0.6B", "eager", "--attention", "TRITON_ATTN", "--runner", "2"),
        ),
        # A server and its API: what the command line needs is not on every machine that computes.
        "demo": (Step(("-m", "hallmark.server", "demo"), 400, ("vllm", "typer")),),
    }


def link_packages(site: Path) -> None:
    """Make `hallmark` importable from a folder by links, with the metadata by which vLLM finds the plugin."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for name, folder in pyproject["tool"]["setuptools"]["package-dir"].items():
        link = site.joinpath(*name.split("."))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(ROOT / folder)
    project = pyproject["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    lines = [
        line
        for group, entries in groups.items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_stage(
    name: str, steps: Sequence[Step], results: Path, environment: dict[str, str]
) -> Iterator[Outcome]:
    """Run a stage's steps one after the other, and yield how each ended.

    Args:
        name: the stage's.
        steps: its steps.
        results: the folder for its log.
        environment: of its processes.
    """
    with (results / f"{name}.log").open("w", encoding="utf-8") as log:
        for step in steps:
            label = " ".join(part.removeprefix(f"{HERE}/") for part in step.command)
            print(f"\n=== {name}: {label} (at most {step.seconds} s)", flush=True)
            lacking = step.lacks()
            if lacking is not None:
                yield Outcome(name, label, 0.0, f"left out: no {lacking}")
                continue
            begun = time.perf_counter()
            ended = _run(step, log, environment)
            yield Outcome(name, label, time.perf_counter() - begun, ended)


def _run(step: Step, log: TextIO, environment: dict[str, str]) -> str:
    """Run one process to its end or its limit, its output here and in the log; say how it ended."""
    process = subprocess.Popen(
        [sys.executable, "-P", *step.command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    late = threading.Event()

    def end() -> None:
        late.set()
        _kill(process.pid, signal.SIGTERM)
        time.sleep(_KILL_SECONDS)
        _kill(process.pid, signal.SIGKILL)

    timer = threading.Timer(step.seconds, end)
    timer.start()
    try:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                print(line, end="", flush=True)
                print(line, end="", file=log, flush=True)
        code = process.wait()
    finally:
        # What is left of the step's processes would hold the GPU's memory while the next one runs.
        timer.cancel()
        _kill(process.pid, signal.SIGKILL)
        timer.join()
    if late.is_set():
        return f"ended after {step.seconds} s"
    return "right" if code == 0 else f"exit code {code}"


def _kill(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def print_summary(outcomes: Sequence[Outcome], results: Path, begun: float) -> None:
    """Print what each stage has found since a time, and how each step ended."""
    from _report import print_table
    from _results import scalars

    for path in sorted(results.glob("gpu_*.json")):
        if path.stat().st_mtime < begun:
            continue
        rows = [scalars(row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
        print(f"\n## {path.name}")
        print_table(rows if len(rows[0]) <= _COLUMNS else _turned(rows))
    print("\n## Stages")
    print_table(
        [
            {"stage": one.stage, "step": one.step, "seconds": round(one.seconds, 1), "ended": one.ended}
            for one in outcomes
        ]
    )
    print(f"\nResults and logs are in {os.path.relpath(results)}")


def _turned(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return a line for each column: a wide table that a terminal can show."""
    columns = dict.fromkeys(column for row in rows for column in row)
    return [
        {"": column, **{str(i): row.get(column, "") for i, row in enumerate(rows, start=1)}}
        for column in columns
    ]


def main() -> int:
    """Run the stages; return 0 where all of them are right."""
    from _environment import OFFLINE
    from _results import is_small, results_folder

    known = stages(is_small())
    chosen = os.environ.get("STAGES", "").split() or list(known)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        print(f"STAGES: {', '.join(unknown)} is not allowed; allowed: {', '.join(known)}", file=sys.stderr)
        return 2
    results, begun = results_folder().resolve(), time.time()
    outcomes: list[Outcome] = []
    with TemporaryDirectory() as directory:
        site = Path(directory)
        link_packages(site)
        environment = {
            **OFFLINE,
            "OMP_NUM_THREADS": "2",
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
            "HALLMARK_GPU_RESULTS": str(results),
        }
        for name in chosen:
            outcomes += run_stage(name, known[name], results, environment)
    print_summary(outcomes, results, begun)
    return 0 if all(outcome.is_right for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
