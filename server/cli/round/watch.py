"""A status on the terminal: once, or followed as it changes."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from hallmark.server.cli.client import PoCClient

__all__ = ["Interval", "Watch", "print_status", "watch_status"]

Watch = Annotated[bool, typer.Option("--watch", help="Follow the round until it stops or Ctrl-C.")]
Interval = Annotated[float, typer.Option(min=0.1, help="Seconds between two looks with --watch.")]

_RUNNING = ("GENERATING", "VALIDATING")

# A table must fit on a screen to be watched; --json shows everything.
_LEFT_OUT = frozenset(
    {
        *("status", "stats", "valid_nonces", "valid_distances", "numerics"),
        *("callbacks.outbox", "callbacks.receivers", "callbacks.dropped_by_reason", "callbacks.bytes"),
        *("callbacks.in_flight", "callbacks.next_attempt", "projection.bytes"),
        *("batches.in_last_call", "batches.host_seconds_each", "inference.connections"),
        *("inference.quiet_connections", "inference.longest_loop_hold_ms"),
        *("validation.slices", "validation.slices_concurrent_with_inference", "validation.layer_ms"),
        *("validation.stall_ms.p50", "validation.failed_nonces"),
        # Older names of what is shown.
        *("callbacks.kept", "validation.slices_beside_inference"),
    }
)
_SHOWN_OF_CONFIG = frozenset({"block_hash", "block_height", "public_key", "batch_size", "seq_len"})


def print_status(status: Mapping[str, Any], *, as_json: bool = False) -> None:
    """Print a status.

    Args:
        status: As the server gave it.
        as_json: All of it, on one line as JSON, instead of a table of what matters to people.
    """
    if as_json:
        print(json.dumps(status))
    else:
        Console(soft_wrap=True).print(_table(status))


def watch_status(client: PoCClient, interval: float, *, as_json: bool = False) -> None:
    """Follow the status until the round has stopped; a table on a terminal, a line at a time elsewhere.

    Args:
        client: Of the server.
        interval: Seconds between two looks.
        as_json: A line of JSON each time.
    """
    try:
        _show_all(_look(client, interval), as_json=as_json)
    except KeyboardInterrupt:
        # Not on standard output, which may be JSON for a program.
        print(f"the round goes on; end it with hallmark round stop {client.url}", file=sys.stderr)
        raise


def _show_all(looks: Iterator[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for status in looks:
            print(json.dumps(status), flush=True)
    elif sys.stdout.isatty():
        with Live(_table(next(looks)), console=Console(), auto_refresh=False) as live:
            for status in looks:
                live.update(_table(status), refresh=True)
    else:
        for status in looks:
            print(_line(status), flush=True)


def _look(client: PoCClient, interval: float) -> Iterator[Mapping[str, Any]]:
    """Yield the status again and again, at last the first one that is not of a running round."""
    while True:
        status = client.get("/status")
        yield status
        if status["state"] not in _RUNNING:
            return
        time.sleep(interval)


def _line(status: Mapping[str, Any]) -> str:
    callbacks = status.get("callbacks") or {}
    parts = [
        status["state"],
        f"checked {status.get('total_checked', 0)}",
        f"valid {status.get('total_valid', 0)}",
        f"{status.get('rate_per_second', 0.0):.1f}/s",
        f"callbacks delivered {callbacks.get('delivered', 0)}, queued {callbacks.get('queued', 0)}",
    ]
    if status.get("reason"):
        parts.append(status["reason"])
    return "  ".join(parts)


def _table(status: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(status):
        table.add_row(name, escape(value))
    return table


def _rows(status: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields that change or name the round, as text; those of nested objects with dots."""
    for field, value in status.items():
        name = prefix + field
        if name in _LEFT_OUT or (prefix == "config." and field not in _SHOWN_OF_CONFIG):
            continue
        match value:
            case dict():
                yield from _rows(value, f"{name}.")
            case float():
                yield name, f"{value:.6g}"
            case None:
                yield name, "-"
            case _:
                yield name, str(value)
