"""Which versions are at work on a node."""

from functools import cache
from importlib.metadata import version

from hallmark.poc.rounds.manager import PoCManager

__all__ = ["versions_at_work"]


def versions_at_work(manager: PoCManager) -> dict[str, str | int | bool | None]:
    """Return the versions of Hallmark, vLLM and PyTorch; None of what the engine does not have."""
    numerics = manager.engine.numerics
    return {
        "hallmark_version": _installed(),
        "vllm_version": numerics.get("vllm"),
        "torch_version": numerics.get("torch"),
    }


@cache
def _installed() -> str:
    return version("hallmark-poc")
