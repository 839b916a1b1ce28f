"""A status as a terminal shows it: what matters in its phase, with units, in 80 columns and 24 lines."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hallmark.server.cli.consoles import WIDE
from hallmark.server.cli.round.goal import Goal
from hallmark.server.cli.round.trend import Trend
from hallmark.server.cli.tables import name_table, text
from hallmark.server.cli.words import counted, size, span, yes_or_no

__all__ = ["line", "view"]

_COLOURS = {"GENERATING": "green", "VALIDATING": "cyan", "STOPPED": "yellow"}
_BAR_COLUMNS = 24

_Row = tuple[str, RenderableType]


def line(status: Mapping[str, Any], goal: Goal | None = None) -> str:
    """Return a status as one line, for a log."""
    parts = [status["state"]]
    if _is_about_verdicts(status):
        parts += [f"{name} {shown}" for name, shown in _verdicts(status)]
    else:
        parts += [
            f"checked {counted(status['total_checked'], 'nonce')}",
            f"valid {status['total_valid']:,}",
            f"{status['rate_per_second']:,.1f} nonces/s",
        ]
    if goal is not None:
        parts.append(f"{_percent(status, goal):.0f}% of {goal}")
    parts.append(f"callbacks {_callbacks(status['callbacks'])}")
    if status["reason"]:
        parts.append(status["reason"])
    return text("  ".join(parts)).plain


def view(
    status: Mapping[str, Any], console: Console, *, trend: Trend | None = None, goal: Goal | None = None
) -> Table:
    """Return a status as a table of names and values.

    Args:
        status: As the server gave it.
        console: Where it is shown; with 120 columns or more there are more rows.
        trend: Of the looks before it, where it is watched.
        goal: Where the round is to be stopped.
    """
    is_ascii = console.options.ascii_only
    rows = [*_round(status), *_progress(status, trend, goal, is_ascii=is_ascii), *_delivery(status)]
    if console.width >= WIDE:
        rows += _details(status)
    return name_table(rows)


def _round(status: Mapping[str, Any]) -> Iterator[_Row]:
    state, config = status["state"], status["config"]
    shown = Text().append_text(text(state, _COLOURS.get(state, "")))
    if config is None:
        shown.append(": no round is set")
    else:
        shown.append(f" {'after' if state == 'STOPPED' else 'for'} {span(status['elapsed_seconds'])}")
    if status["reason"]:
        shown.append_text(text(f": {status['reason']}"))
    yield "state", shown
    if status["is_stuck"]:
        waited = span(status["seconds_since_progress"])
        yield "stuck", Text(f"yes, the engine has not answered for {waited}", style="red")
    if config is not None:
        yield "block", f"{config['block_height']}, {config['block_hash']}"
        yield "public key", config["public_key"]
    interrupted = status["interrupted_round"]
    if interrupted is not None and not interrupted["is_resumed"]:
        yield (
            "interrupted",
            f"a round of block {interrupted['block_height']} of {interrupted['public_key']}, after "
            f"{counted(interrupted['total_checked'], 'nonce')}: "
            f"{interrupted['reason'] or 'the server ended'}",
        )


def _progress(
    status: Mapping[str, Any], trend: Trend | None, goal: Goal | None, *, is_ascii: bool
) -> Iterator[_Row]:
    """Yield what the phase has done; of the other phase nothing."""
    if status["config"] is None:
        return
    queue = status["validation"]
    is_validating = _is_about_verdicts(status)
    if is_validating:
        for name, shown in _verdicts(status):
            yield name, f"{shown} since the server's start" if name == "judged" else shown
        rate = queue["nonces_per_second"]
        yield from _stalls(queue)
    else:
        yield from _generated(status)
        rate = status["rate_per_second"]
    if trend is not None and trend.rate is not None:
        rate = trend.rate
    if rate is not None and (is_validating or status["total_checked"]):
        curve = "" if trend is None else f"  {trend.curve(is_ascii=is_ascii)}"
        yield "rate", f"{rate:,.1f} nonces/s{curve.rstrip()}"
    if goal is not None:
        yield "until", _goal(status, goal, rate or 0.0)


def _is_about_verdicts(status: Mapping[str, Any]) -> bool:
    """Tell whether a round validates, or has: one that has stopped shows what it was about."""
    has_judged = bool(status["validation"]["completed_jobs"]) and not status["total_checked"]
    return status["state"] == "VALIDATING" or (status["state"] == "STOPPED" and has_judged)


def _generated(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    config = status["config"]
    if config.get("node_count") is not None:
        groups = (
            f", group {config['group_id']} of {config['n_groups']}" if config.get("n_groups", 1) > 1 else ""
        )
        yield "node", f"{config['node_id']} of {config['node_count']}{groups}"
    yield "checked", counted(status["total_checked"], "nonce")
    checked, valid = status["total_checked"], status["total_valid"]
    yield "valid", counted(valid, "nonce") + (f", {valid / checked:.2%} of them" if checked else "")
    if status["total_failed"]:
        yield "failed", counted(status["total_failed"], "nonce")


def _verdicts(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    queue = status["validation"]
    failed = f", {queue['failed_nonces']:,} failed" if queue["failed_nonces"] else ""
    yield (
        "judged",
        f"{counted(queue['completed_jobs'], 'batch')}, {counted(queue['checked_nonces'], 'nonce')}{failed}",
    )
    yield (
        "waiting",
        f"{counted(queue['queued_jobs'], 'batch')}, {counted(queue['queued_nonces'], 'nonce')}",
    )


def _stalls(slices: Mapping[str, Any]) -> Iterator[_Row]:
    """Yield what chat feels of it; nothing before there was any."""
    if slices["share_used"] is not None:
        yield (
            "beside chat",
            f"{slices['share_used']:.0%} of the engine's time, of {slices['share']:.0%} allowed",
        )
    stall = slices["stall_ms"]
    if stall["max"] is not None:
        met = (
            ""
            if slices["max_stall_is_met"] is None
            else f", within the limit: {yes_or_no(slices['max_stall_is_met'])}"
        )
        yield "stalls", f"{stall['p99']:.1f} ms (99th percentile), longest {stall['max']:.1f} ms{met}"


def _goal(status: Mapping[str, Any], goal: Goal, rate: float) -> Table:
    left = goal.seconds_left(status, rate)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row(
        ProgressBar(total=100.0, completed=_percent(status, goal), width=_BAR_COLUMNS),
        f"{_percent(status, goal):.0f}% of {goal}",
        "" if left is None or status["state"] == "STOPPED" else f"{span(left)} left",
    )
    return table


def _percent(status: Mapping[str, Any], goal: Goal) -> float:
    return min(100.0, 100.0 * goal.reached(status) / goal.amount)


def _delivery(status: Mapping[str, Any]) -> Iterator[_Row]:
    callbacks, config = status["callbacks"], status["config"] or {}
    url = config.get("callback_url")
    if url is not None or any(callbacks[name] for name in ("queued", "delivered", "dropped", "dead_letters")):
        yield "callbacks", _callbacks(callbacks)
    if url is not None:
        yield "receiver", url
    elif config and not _is_about_verdicts(status):
        # Verdicts are answered as well; what is found goes nowhere else.
        yield "receiver", "none"
    # Of what has been delivered since then nobody need know.
    if callbacks["last_error"] and (callbacks["queued"] or callbacks["dead_letters"]):
        yield "last error", text(callbacks["last_error"], "red")


def _callbacks(callbacks: Mapping[str, Any]) -> str:
    parts = [f"{callbacks['delivered']:,} delivered"]
    waits = f"{callbacks['queued']:,} waiting"
    if callbacks["queued"] and callbacks["oldest_age"] is not None:
        waits += f" (the oldest for {span(callbacks['oldest_age'])})"
    parts.append(waits)
    if callbacks["dropped"]:
        parts.append(f"{callbacks['dropped']:,} given up")
    if callbacks["dead_letters"]:
        parts.append(f"{counted(callbacks['dead_letters'], 'dead letter')}")
    return ", ".join(parts)


def _details(status: Mapping[str, Any]) -> Iterator[_Row]:
    """Yield what a wide terminal has room for."""
    config = status["config"]
    if config is not None:
        yield "batches", f"{counted(config['batch_size'], 'nonce')} of {counted(config['seq_len'], 'row')}"
        yield "valid rate", f"{status['valid_rate']:.6g} (r_target {status['r_target']:.6g})"
        if config.get("round"):
            yield "settings", config["round"]
        if status["batches"]["seconds_each"] is not None:
            yield "a batch", f"{status['batches']['seconds_each']:.3g} s of the engine"
        if status["projection"]["bytes"]:
            yield "projections", f"{size(status['projection']['bytes'])} on each rank"
    inference = status["inference"]
    yield "inference", counted(inference["connections"], "connection")
    yield "outbox", f"{status['callbacks']['outbox']}, {size(status['callbacks']['bytes'])}"
    if status["numerics"]:
        yield "numerics", ", ".join(f"{name} {_plain(value)}" for name, value in status["numerics"].items())


def _plain(value: object) -> str:
    return yes_or_no(value) if isinstance(value, bool) else str(value)
