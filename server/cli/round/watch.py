"""`hallmark round watch`: follow a round until it ends."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import typer

from hallmark.poc.core.errors import StateError
from hallmark.server.cli.client import ApiKey, PoCClient, ServerError, ServerUrl, UnreachableError
from hallmark.server.cli.consoles import AsJson, is_terminal, print_or_drop, results, say
from hallmark.server.cli.round.goal import Goal
from hallmark.server.cli.words import span

__all__ = ["RUNNING", "Interval", "follow", "watch"]

Interval = Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Seconds between two looks.")]

RUNNING: Final = ("GENERATING", "VALIDATING")
"""States of a round that goes on."""

_NO_ANSWER: Final = "NO ANSWER"
_PATIENCE_SECONDS: Final = 30.0
_SHORTEST_SECONDS: Final = 0.1
_SERVERS_OWN: Final = 500

_STARTING_SECONDS: Final = 600.0
"""A large model is loaded again by then."""


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


def follow(
    client: PoCClient,
    interval: float,
    *,
    as_json: bool = False,
    goal: Goal | None = None,
    first: Mapping[str, Any] | None = None,
) -> None:
    """Show the status again and again, until the round has ended.

    Args:
        client: Of the server.
        interval: Seconds between two looks.
        as_json: Show a line of JSON for each look.
        goal: Where to stop the round.
        first: The status with which the round began; None asks for it.

    Raises:
        StateError: The round ended before its goal, or another one has taken its place.
        ServerError: The server refuses.
        UnreachableError: It has not answered for half a minute; for ten, where there is a goal.
    """
    goes_on = f"the round goes on; end it with hallmark round stop {client.url}"
    try:
        _show(_looks(client, interval, goal, first), goal, as_json=as_json)
    except KeyboardInterrupt:
        say(goes_on)
        raise
    except (ServerError, UnreachableError) as exc:
        if goal is not None:
            exc.add_note(f"if {goes_on}")
        raise


def _show(looks: Iterator[Mapping[str, Any]], goal: Goal | None, *, as_json: bool) -> None:
    from rich.live import Live

    from hallmark.server.cli.round.trend import Trend
    from hallmark.server.cli.round.view import line, view

    if as_json or not is_terminal(sys.stdout):
        for status in looks:
            is_read = print_or_drop(json.dumps(status) if as_json else line(status, goal))
            # A goal has to be reached though nobody looks on.
            if not is_read and goal is None:
                return
        return
    console, trend = results(), Trend()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for status in looks:
            trend.add(status, time.monotonic())
            live.update(view(status, console, trend=trend, goal=goal), refresh=True)


def _looks(
    client: PoCClient, interval: float, goal: Goal | None, first: Mapping[str, Any] | None
) -> Iterator[Mapping[str, Any]]:
    """Yield the status again and again, at last the first one that is not of a running round."""
    begun = client.get("/status") if first is None else first
    status = begun
    while True:
        is_running = status["state"] in RUNNING
        if is_running and goal is not None and goal.is_reached(status):
            status = client.post("/stop")["pow_status"]
            is_running = False
        yield status
        if not is_running:
            if goal is not None and not goal.is_reached(status):
                raise StateError(f"the round ended before {goal}: {status['reason'] or status['state']}")
            return
        time.sleep(_pause(status, interval, goal))
        before = status
        for status in _patiently(client, before, _STARTING_SECONDS if goal else _PATIENCE_SECONDS):
            if status["state"] == _NO_ANSWER:
                yield status
        if goal is not None and _is_another(status, begun, before):
            raise StateError("another round has taken the place of the one that --until is about")


def _pause(status: Mapping[str, Any], interval: float, goal: Goal | None) -> float:
    """Return how long to wait for the next look: not beyond the goal."""
    left = None if goal is None else goal.seconds_left(status, status["rate_per_second"])
    return interval if left is None else min(interval, max(left, _SHORTEST_SECONDS))


def _patiently(client: PoCClient, last: Mapping[str, Any], patience: float) -> Iterator[Mapping[str, Any]]:
    """Ask a server that has answered before, and may be starting again.

    Yields:
        The last status with a state that says that there is no answer, as long as that is so; then the
        present one.
    """
    begun = time.monotonic()
    while True:
        try:
            status: Mapping[str, Any] = client.get("/status")
        except (ServerError, UnreachableError) as exc:
            waited, problem = time.monotonic() - begun, str(exc)
            if waited >= patience or (isinstance(exc, ServerError) and exc.status < _SERVERS_OWN):
                raise
        else:
            yield status
            return
        yield {**last, "state": _NO_ANSWER, "reason": f"asked again for {span(waited)}: {problem}"}
        time.sleep(1.0)


def _is_another(status: Mapping[str, Any], begun: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Tell whether a status is of another round than those before it."""
    configs = [each["config"] for each in (status, begun)]
    if None in configs:
        return False
    # A server that starts again may take other batches.
    asked, wanted = ({**config, "batch_size": None} for config in configs)
    return asked != wanted or status["total_checked"] < before["total_checked"]
