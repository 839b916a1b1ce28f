"""Whether a receiver of callbacks can be reached from here, by the rules that callbacks are sent by."""

import asyncio
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime

import httpx

from hallmark.poc.webhooks.reach import why_unreachable
from hallmark.poc.webhooks.transport import callback_client
from hallmark.poc.webhooks.url import check_callback_url
from hallmark.server.doctor.clocks import problem_of_clock
from hallmark.server.doctor.finding import Finding

__all__ = ["examine_receiver"]


def examine_receiver(url: str, allowed_hosts: Collection[str] | None) -> Iterator[Finding]:
    """Ask a receiver once, without sending it anything, and compare its clock with this one.

    Args:
        url: Its base URL, as a round's callback_url.
        allowed_hosts: The setting `callback_allowed_hosts`.

    Raises:
        FieldError: Callbacks would not be sent there.
    """
    check_callback_url(url, allowed_hosts)
    error, date = asyncio.run(_ask(url))
    if error is not None:
        yield Finding.problem(
            "receiver", f"{url}: {error}", "start it, or look at what lies between: firewall, name, TLS"
        )
        return
    yield Finding.ok("receiver", f"{url} answers")
    difference = abs(date - time.time()) if date is not None else 0.0
    problem = problem_of_clock("receiver", difference)
    if problem is not None:
        yield problem


async def _ask(url: str) -> tuple[str | None, float | None]:
    """Return what kept an answer away, and when it was given, by the clock of who gave it."""
    dates: list[float] = []

    async def note(response: httpx.Response) -> None:
        # A date that is none tells nothing, and is no reason to find fault with the receiver.
        with suppress(KeyError, ValueError):
            dates.append(parsedate_to_datetime(response.headers["Date"]).timestamp())

    async with callback_client() as client:
        client.event_hooks["response"].append(note)
        error = await why_unreachable(client, url)
    return error, dates[0] if dates else None
