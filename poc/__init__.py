"""The runtime: what a round is, what is drawn for it, how it is run, and how claims are judged.

The names below are imported when they are first used: those that need PyTorch would make every command line
wait for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hallmark.poc.protocol.config import PoCConfig, PoCState
    from hallmark.poc.protocol.proof import ProofBatch
    from hallmark.poc.protocol.round import Round
    from hallmark.poc.settings.settings import Settings
    from hallmark.poc.specification import CallbackSender, PoCManager, RandomProjection
    from hallmark.poc.verdict.judge import ValidatedBatch, Verdict, judge

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
    "CallbackSender": "specification",
    "PoCConfig": "protocol.config",
    "PoCManager": "specification",
    "PoCState": "protocol.config",
    "ProofBatch": "protocol.proof",
    "RandomProjection": "specification",
    "Round": "protocol.round",
    "Settings": "settings.settings",
    "ValidatedBatch": "verdict.judge",
    "Verdict": "verdict.judge",
    "judge": "verdict.judge",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
