"""`hallmark round status`: what the server is doing."""

from typing import Annotated

import typer

from hallmark.server.cli.client import ApiKey, PoCClient, ServerUrl
from hallmark.server.cli.round.watch import Interval, Watch, print_status, watch_status

__all__ = ["status"]


def status(
    url: ServerUrl,
    api_key: ApiKey = None,
    watch: Watch = False,
    interval: Interval = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the server's whole answer.")] = False,
) -> None:
    """Show the round's state, counters and rate."""
    with PoCClient(url, api_key) as client:
        if watch:
            watch_status(client, interval, as_json=as_json)
        else:
            print_status(client.get("/status"), as_json=as_json)
