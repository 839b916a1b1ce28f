"""The runtime: what a round is, what is drawn for it, how it is run, and how claims are judged.

The names below are imported when they are first used: those that need PyTorch would make every command line
wait for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hallmark.poc.callbacks import CallbackSender
    from hallmark.poc.config import PoCConfig, PoCState
    from hallmark.poc.fraud import ValidatedBatch, Verdict, judge
    from hallmark.poc.manager import PoCManager
    from hallmark.poc.projection import RandomProjection
    from hallmark.poc.proof import ProofBatch
    from hallmark.poc.round import Round
    from hallmark.poc.settings import Settings

__all__ = [
    "CallbackSender",
    "PoCConfig",
    "PoCManager",
    "PoCState",
    "ProofBatch",
    "RandomProjection",
    "Round",
    "Settings",
    "ValidatedBatch",
    "Verdict",
    "judge",
]

_MODULES = {
    "CallbackSender": "callbacks",
    "PoCConfig": "config",
    "PoCManager": "manager",
    "PoCState": "config",
    "ProofBatch": "proof",
    "RandomProjection": "projection",
    "Round": "round",
    "Settings": "settings",
    "ValidatedBatch": "fraud",
    "Verdict": "fraud",
    "judge": "fraud",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
