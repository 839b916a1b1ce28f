"""What `/status` shows of a manager."""

from dataclasses import asdict

from hallmark.poc.protocol.config import PoCState
from hallmark.poc.protocol.round_spec import NO_FIRST
from hallmark.poc.protocol.status import ConfigShown, InterruptedRoundShown, RoundStatus
from hallmark.poc.rounds.active_round import ActiveRound
from hallmark.poc.rounds.batch_times import BatchTimes
from hallmark.poc.rounds.manager import PoCManager
from hallmark.poc.rounds.slices import SliceTimes

__all__ = ["snapshot"]


def snapshot(manager: PoCManager) -> RoundStatus:
    """Return a snapshot of a manager, ready for JSON.

    `stats` is null unless the state is GENERATING, `config` unless there has been a round.
    """
    active, settings = manager.active, manager.settings
    statistics = active.statistics if active is not None else None
    rate = statistics.rate_per_second if statistics is not None else 0.0
    waited = _seconds_since_progress(manager)
    checked = statistics.total_checked if statistics is not None else 0
    return {
        "status": manager.state.value,
        "state": manager.state.value,
        "is_model_initialized": active is not None and active.is_open,
        "reason": active.reason if active is not None else None,
        "has_failed": active is not None and active.has_failed,
        "total_checked": checked,
        "total_valid": statistics.total_valid if statistics is not None else 0,
        "total_failed": statistics.total_failed if statistics is not None else 0,
        "elapsed_seconds": statistics.elapsed_seconds if statistics is not None else 0.0,
        "rate_per_second": rate,
        "seconds_since_progress": waited,
        "is_stuck": waited is not None and waited >= settings.stuck_after,
        "valid_nonces": statistics.valid_nonces if statistics is not None else [],
        "valid_distances": statistics.valid_distances if statistics is not None else [],
        "r_target": active.round.r_target if active is not None else None,
        "valid_rate": active.round.valid_rate if active is not None else None,
        "config": _config(active) if active is not None else None,
        "stats": (
            {"total_processed": checked, "nonces_per_second": rate}
            if manager.state is PoCState.GENERATING
            else None
        ),
        "projection": {
            "enabled": active is not None and active.round.config.use_random_projection,
            "bytes": (active.memory_bytes or 0) if active is not None else 0,
        },
        "batches": (active.watch.times if active is not None else BatchTimes()).stats,
        "validation": {
            **manager.queue.stats,
            "share": settings.validation_share,
            "max_stall_ms": settings.max_stall_ms,
            **(active.scheduler.stats if active is not None else SliceTimes().stats(settings.max_stall_ms)),
        },
        "inference": {
            "connections": manager.activity.connections,
            "quiet_connections": manager.activity.quiet_connections,
            "is_active": manager.activity.is_active,
            "longest_loop_hold_ms": _milliseconds(None if active is None else active.loop_holds.longest),
        },
        "callbacks": manager.outbox.stats(),
        "interrupted_round": _interrupted(manager),
        "numerics": dict(manager.engine.numerics if active is None or active.ended else active.numerics),
    }


def _config(active: ActiveRound) -> ConfigShown:
    """Return the request with what the model decided put in its place."""
    round_ = active.round
    return {
        **asdict(round_.config),
        "r_target": round_.r_target,
        "valid_rate": round_.valid_rate,
        **asdict(round_.definition),
        "first": "none" if round_.definition.first == NO_FIRST else round_.definition.first,
        "honest_sigma": round_.honest_sigma,
        "batch_size": round_.batch_size,
        "requested_batch_size": round_.config.batch_size,
        "hidden_size": round_.hidden_size,
        "round": round_.digest,
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _interrupted(manager: PoCManager) -> InterruptedRoundShown | None:
    """Return the round in which the last server ended, and how far its walk had come."""
    interrupted, active = manager.interrupted, manager.active
    if interrupted is None:
        return None
    return {
        "block_hash": interrupted.config.block_hash,
        "block_height": interrupted.config.block_height,
        "public_key": interrupted.config.public_key,
        "node_id": interrupted.config.node_id,
        "callback_url": interrupted.config.callback_url,
        "round": interrupted.digest,
        "phase": interrupted.phase.value,
        "total_checked": interrupted.position,
        "total_valid": interrupted.valid,
        "total_failed": interrupted.failed,
        "begun_at": interrupted.begun_at,
        "updated_at": interrupted.updated_at,
        "reason": interrupted.reason,
        "is_resumed": active is not None and active.resumes is interrupted,
    }


def _seconds_since_progress(manager: PoCManager) -> float | None:
    """Return how long the engine has not answered although there is work; None where there is none."""
    active = manager.active
    if active is None or active.ended:
        return None
    judging = manager.state is PoCState.VALIDATING and manager.queue.stats["queued_jobs"] > 0
    if active.is_open and manager.state is not PoCState.GENERATING and not judging:
        return None
    return active.watch.seconds_since_progress
