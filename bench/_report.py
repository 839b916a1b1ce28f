"""What the benches share: the machine's description, timing, a table on the screen and a file of results."""

import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import triton

RESULTS = Path(__file__).parent / "results"

Row = Mapping[str, Any]


def machine() -> dict[str, Any]:
    """Return the processor and, where there is one, the GPU that the bench runs on."""
    described: dict[str, Any] = {
        "cpu": _cpu_line("model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "architecture": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16_instructions": _bf16_instructions(),
    }
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties()
        described["gpu"] = gpu.name
        described["gpu_bytes"] = gpu.total_memory
        described["multiprocessors"] = gpu.multi_processor_count
        described["cuda"] = torch.version.cuda or f"hip {torch.version.hip}"
        described["driver"] = _driver_version()
    return described


def device() -> torch.device:
    """Return where the benches that run on both run here."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def target() -> str:
    """Return what kind of machine this is, for the name of a results file.

    `cpu`, or the GPU's, e.g. `h200`.
    """
    if not torch.cuda.is_available():
        return "cpu"
    words = re.findall(r"[a-z0-9]+", torch.cuda.get_device_name().lower())
    return "-".join(word for word in words if word not in ("nvidia", "amd", "instinct"))


def versions(*distributions: str) -> dict[str, str]:
    """Versions of Python and of the installed distributions; one that is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def seconds_side_by_side(
    contenders: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    synchronise: Callable[[], None] | None = None,
) -> dict[str, list[float]]:
    """Time contenders in turns, so that what disturbs the machine disturbs all of them alike.

    Each runs once beforehand, untimed.

    Returns:
        The seconds of each run, by contender.
    """
    wait = synchronise or _nothing
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            wait()
            start = time.perf_counter()
            run()
            wait()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median_seconds(contenders: Mapping[str, Callable[[], object]], *, repeats: int = 7) -> dict[str, float]:
    """Return the median time of each contender, all measured in this process.

    On a GPU by Triton's `do_bench`, which times with events and empties the L2 cache before each run: for
    work that takes longer than the host needs to launch it. On a CPU by turns.
    """
    if torch.cuda.is_available():
        return {
            name: float(triton.testing.do_bench(run, warmup=10, rep=60, return_mode="median")) / 1e3
            for name, run in contenders.items()
        }
    seconds = seconds_side_by_side(contenders, repeats=repeats)
    return {name: statistics.median(runs) for name, runs in seconds.items()}


def print_table(rows: Sequence[Row]) -> None:
    """Print rows, numbers to the right; a column that a row lacks stays empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *[[_cell(row.get(column, "")) for column in columns] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def write_results(
    bench: str,
    target: str,
    *,
    about: str,
    rows: Sequence[Row],
    packages: Sequence[str],
    directory: Path = RESULTS,
    **more: object,
) -> Path:
    """Write `<bench>-<target>-<date>.json`; rows of other models that this machine wrote there today stay.

    A row's model is what it has of `model`, `mode`, `attention` and `runner`.

    Args:
        bench: The bench's name.
        target: What kind of machine, e.g. `cpu` or `h200`.
        about: One sentence on what the rows are, units included.
        rows: The results.
        packages: Distributions whose versions matter.
        directory: Where to; `results/` of the benches.
        **more: Further keys of the file, e.g. ceilings measured in the same run.

    Returns:
        The file.
    """
    today = datetime.now(UTC).date().isoformat()
    path = directory / f"{bench}-{target}-{today}.json"
    made_by = {"machine": machine(), "versions": versions(*packages)}
    results = {
        "bench": bench,
        "about": about,
        "date": today,
        **made_by,
        **more,
        "rows": [*_rows_of_other_models(path, made_by, rows), *(dict(row) for row in rows)],
    }
    path.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\nwritten to {os.path.relpath(path)}")
    return path


def _rows_of_other_models(path: Path, made_by: Mapping[str, Any], rows: Sequence[Row]) -> list[Row]:
    if not path.is_file():
        return []
    earlier = json.loads(path.read_text(encoding="utf-8"))
    if any(earlier[key] != value for key, value in made_by.items()):
        return []
    models = {_model(row) for row in rows}
    return [row for row in earlier["rows"] if "model" in row and _model(row) not in models]


def _model(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in ("model", "mode", "attention", "runner"))


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _nothing() -> None:
    pass


def _driver_version() -> str:
    driver = Path("/proc/driver/nvidia/version")
    if not driver.is_file():
        return "unknown"
    found = re.search(r"\b\d+\.\d+(?:\.\d+)?\b", driver.read_text(encoding="utf-8"))
    return found[0] if found else "unknown"


def _bf16_instructions() -> str:
    """Return the instructions that multiply bf16 numbers, as Linux calls them."""
    flags = _cpu_line("flags").split()
    return " ".join(flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags) or "none"


def _cpu_line(name: str) -> str:
    # `platform.processor()` is empty on many Linux systems.
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return ""
