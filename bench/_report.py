"""What the benches share: the machine's description, timing, a table on the screen and a file of results."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"

Row = Mapping[str, Any]


def machine() -> dict[str, Any]:
    """The processor and, where there is one, the GPU that the bench runs on."""
    described: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "architecture": platform.machine(),
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


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


def print_table(rows: Sequence[Row]) -> None:
    """Print rows of the same columns, numbers to the right."""
    columns = list(rows[0])
    cells = [columns, *[[_cell(row[column]) for column in columns] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def write_results(
    bench: str, target: str, *, about: str, rows: Sequence[Row], packages: Sequence[str]
) -> Path:
    """Write `results/<bench>-<target>-<date>.json`.

    Args:
        bench: The bench's name.
        target: What kind of machine, e.g. `cpu` or `h200`.
        about: One sentence on what the rows are, units included.
        rows: The results.
        packages: Distributions whose versions matter.

    Returns:
        The file.
    """
    today = datetime.now(UTC).date().isoformat()
    path = RESULTS / f"{bench}-{target}-{today}.json"
    results = {
        "bench": bench,
        "about": about,
        "date": today,
        "machine": machine(),
        "versions": versions(*packages),
        "rows": [dict(row) for row in rows],
    }
    path.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _nothing() -> None:
    pass


def _cpu_model() -> str:
    # `platform.processor()` is empty on many Linux systems.
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
