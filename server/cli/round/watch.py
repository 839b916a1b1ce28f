"""`hallmark round watch`: follow a round until it ends."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import typer

from hallmark.poc.core.errors import StateError
from hallmark.server.cli.client import ApiKey, PoCClient, ServerUrl, UnreachableError
from hallmark.server.cli.consoles import AsJson, print_or_drop, results
from hallmark.server.cli.round.goal import Goal

__all__ = ["Interval", "follow", "watch"]

Interval = Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Seconds between two looks.")]

_RUNNING: Final = ("GENERATING", "VALIDATING")
_PATIENCE_SECONDS: Final = 30.0


def watch(
    url: ServerUrl,
    interval: Interval = 1.0,
    as_json: AsJson = False,
    api_key: ApiKey = None,
) -> None:
    """Follow a round until it ends.

    On a terminal the view is redrawn, elsewhere each look is a line. Ctrl-C ends the watching; the round goes
    on. A server that does not answer is asked again for half a minute.
    """
    with PoCClient(url, api_key) as client:
        follow(client, interval, as_json=as_json)


def follow(client: PoCClient, interval: float, *, as_json: bool = False, goal: Goal | None = None) -> None:
    """Show the status again and again, until the round has ended.

    Args:
        client: Of the server.
        interval: Seconds between two looks.
        as_json: Show a line of JSON for each look.
        goal: Where to stop the round.

    Raises:
        StateError: The round ended before its goal, or another one has taken its place.
        UnreachableError: The server has not answered for half a minute.
    """
    looks = _looks(client, interval, goal)
    try:
        _show(looks, goal, as_json=as_json)
    except KeyboardInterrupt:
        # Not on standard output, which may be JSON for a program.
        print(f"the round goes on; end it with hallmark round stop {client.url}", file=sys.stderr)
        raise


def _show(looks: Iterator[Mapping[str, Any]], goal: Goal | None, *, as_json: bool) -> None:
    from rich.live import Live

    from hallmark.server.cli.round.trend import Trend
    from hallmark.server.cli.round.view import line, view

    console = results()
    if as_json or not console.is_terminal:
        for status in looks:
            is_read = print_or_drop(json.dumps(status) if as_json else line(status, goal))
            # A goal has to be reached though nobody looks on.
            if not is_read and goal is None:
                return
        return
    trend = Trend()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for status in looks:
            trend.add(status, time.monotonic())
            live.update(view(status, console, trend=trend, goal=goal), refresh=True)


def _looks(client: PoCClient, interval: float, goal: Goal | None) -> Iterator[Mapping[str, Any]]:
    """Yield the status again and again, at last the first one that is not of a running round."""
    first: Mapping[str, Any] | None = None
    while True:
        status = client.get("/status") if first is None else _patiently(client)
        if first is None:
            first = status
        elif goal is not None and _identity(status) not in (None, _identity(first)):
            raise StateError("another round has taken the place of the one that --until is about")
        is_running = status["state"] in _RUNNING
        if is_running and goal is not None and goal.is_reached(status):
            status = client.post("/stop")["pow_status"]
            is_running = False
        yield status
        if not is_running:
            if goal is not None and not goal.is_reached(status):
                raise StateError(f"the round ended before {goal}: {status['reason'] or status['state']}")
            return
        time.sleep(interval)


def _patiently(client: PoCClient) -> Mapping[str, Any]:
    """Ask a server that has answered before, and may be starting again."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            status: Mapping[str, Any] = client.get("/status")
            return status
        except UnreachableError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(1.0)


def _identity(status: Mapping[str, Any]) -> tuple[object, ...] | None:
    """What tells a round from another one."""
    config = status["config"]
    if config is None:
        return None
    return tuple(
        config.get(name) for name in ("block_hash", "block_height", "public_key", "node_id", "round")
    )
