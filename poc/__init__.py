"""The runtime: what a round is, what is drawn for it, how it is run, and how claims are judged.

The names below are imported when they are first used: those that need PyTorch would make every command line
wait for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hallmark.poc.outbox.sender import CallbackSender
    from hallmark.poc.protocol.config import PoCConfig, PoCState
    from hallmark.poc.protocol.projection import RandomProjection
    from hallmark.poc.protocol.proof import ProofBatch
    from hallmark.poc.protocol.round import Round
    from hallmark.poc.rounds.manager import PoCManager
    from hallmark.poc.settings.settings import Settings
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
    "CallbackSender": "outbox.sender",
    "PoCConfig": "protocol.config",
    "PoCManager": "rounds.manager",
    "PoCState": "protocol.config",
    "ProofBatch": "protocol.proof",
    "RandomProjection": "protocol.projection",
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
