"""What a setting's measurement gave, kept in `.cache/soundness`, so that a run that is cut off goes on.

It is found again by what it was made from: the setting, the substitutes' sources, and PyTorch's version.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _architectures import CACHE

_SOURCES = ("models/_decoder.py", "attacks/_distill.py", "attacks/_substitutes.py")


def cached_rows(setting: Sequence[Any], measure: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of a setting, measured now unless they are kept.

    Args:
        setting: All that tells it from others; what JSON can write.
        measure: Gives its rows; numbers and text.
    """
    made_from = hashlib.sha256(json.dumps([*setting, torch.__version__]).encode())
    for source in _SOURCES:
        made_from.update((Path(__file__).parents[1] / source).read_bytes())
    path = CACHE / "rows" / f"{made_from.hexdigest()[:32]}.json"
    if path.is_file():
        rows: list[dict[str, Any]] = json.loads(path.read_text())
        return rows
    rows = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(rows))
    unfinished.rename(path)
    return rows
