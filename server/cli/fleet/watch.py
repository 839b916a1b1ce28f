"""`hallmark fleet watch`: follow the rounds of all nodes until they end."""

import asyncio
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

from hallmark.server.cli.client import ServerError
from hallmark.server.cli.consoles import AsJson, is_terminal, print_or_drop, results, say
from hallmark.server.cli.fleet.answers import Answer
from hallmark.server.cli.fleet.client import FleetClient, Timeout
from hallmark.server.cli.fleet.inventory import FleetNode, InventoryFile, read_inventory
from hallmark.server.cli.fleet.view import as_json as json_lines
from hallmark.server.cli.fleet.view import check, line, live_view
from hallmark.server.cli.round.trend import Trend
from hallmark.server.cli.round.watch import Interval

__all__ = ["watch"]

_RUNNING: Final = ("GENERATING", "VALIDATING")
_PATIENCE_SECONDS: Final = 30.0
_SERVERS_OWN: Final = 500

_Show = Callable[[Collection[Answer]], bool]
"""Shows a look at the fleet; returns whether anybody still reads."""


def watch(
    file: InventoryFile, interval: Interval = 1.0, timeout: Timeout = 10.0, as_json: AsJson = False
) -> None:
    """Follow the rounds of a fleet until all have ended.

    On a terminal the view is redrawn, elsewhere each look is a line. Ctrl-C ends the watching; the rounds go
    on. A node that does not answer is asked again for half a minute. Exit code: 0 all have answered at the
    end, 2 some have not.
    """
    nodes = read_inventory(file)
    watched = [_WatchedNode(node) for node in nodes]
    try:
        _follow(watched, FleetClient(timeout), interval, as_json=as_json)
    except KeyboardInterrupt:
        say(f"the rounds go on; end them with hallmark fleet stop {file}")
        raise
    check([each.answer for each in watched])


class _WatchedNode:
    """A node that is asked again and again.

    Attributes:
        answer: Its latest; an error in the place of what it has answered before.
    """

    def __init__(self, node: FleetNode) -> None:
        self._node = node
        self._trend = Trend()
        self._silent_since: float | None = None
        self.answer = Answer(node)

    @property
    def may_run(self) -> bool:
        """Whether its round may run: it was not asked yet, too, or has been silent for a short time."""
        if self.answer.error is None:
            return self.answer.state in (*_RUNNING, "ASKED")
        error = self.answer.error
        is_refused = isinstance(error, ServerError) and error.status < _SERVERS_OWN
        waited = 0.0 if self._silent_since is None else time.monotonic() - self._silent_since
        return not is_refused and waited < _PATIENCE_SECONDS

    async def follow(self, client: FleetClient, interval: float) -> None:
        """Ask it until cancelled."""
        while True:
            self._take(await client.ask(self._node, "GET", "/status"), time.monotonic())
            await asyncio.sleep(interval)

    def _take(self, answer: Answer, now: float) -> None:
        if answer.error is not None:
            self._silent_since = now if self._silent_since is None else self._silent_since
        else:
            self._silent_since = None
        if answer.status is not None and answer.figures is not None:
            self._trend.add(answer.status, now)
            if answer.figures.rate is not None and self._trend.rate is not None:
                answer = replace(answer, figures=replace(answer.figures, rate=self._trend.rate))
        self.answer = answer


def _follow(watched: list[_WatchedNode], client: FleetClient, interval: float, *, as_json: bool) -> None:
    """Show the fleet until no node may run any more, or nobody reads on."""
    if as_json or not is_terminal(sys.stdout):

        def show(answers: Collection[Answer]) -> bool:
            return print_or_drop("\n".join(json_lines(answers)) if as_json else line(answers))

        asyncio.run(_looks(watched, client, interval, show))
        return
    from rich.live import Live

    console = results()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:

        def redraw(answers: Collection[Answer]) -> bool:
            live.update(live_view(answers, console), refresh=True)
            return True

        asyncio.run(_looks(watched, client, interval, redraw))


async def _looks(watched: list[_WatchedNode], client: FleetClient, interval: float, show: _Show) -> None:
    """Ask each node in a task of its own, and show the latest of all: one that hangs holds up no look."""
    async with client:
        tasks = [asyncio.create_task(each.follow(client, interval)) for each in watched]
        try:
            is_over = False
            while not is_over:
                await asyncio.wait(tasks, timeout=interval, return_when=asyncio.FIRST_EXCEPTION)
                for task in tasks:
                    if task.done():
                        task.result()
                is_over = not any(each.may_run for each in watched)
                is_over |= not show([each.answer for each in watched])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
