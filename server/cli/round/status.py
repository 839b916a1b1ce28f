"""`hallmark round status`: what the server is doing."""

import json
from collections.abc import Mapping
from typing import Any

from hallmark.server.cli.client import ApiKey, PoCClient, ServerUrl
from hallmark.server.cli.consoles import AsJson, print_or_drop, results, show

__all__ = ["print_status", "status"]


def status(url: ServerUrl, as_json: AsJson = False, api_key: ApiKey = None) -> None:
    """Show what the server is doing.

    Its round, counters, rate and callbacks. A terminal of 120 columns or more shows more, --json everything.
    """
    with PoCClient(url, api_key) as client:
        print_status(client.get("/status"), as_json=as_json)


def print_status(status: Mapping[str, Any], *, as_json: bool = False) -> None:
    """Print a status.

    Args:
        status: As the server gave it.
        as_json: All of it, on one line as JSON, instead of a view of what matters to people.
    """
    if as_json:
        print_or_drop(json.dumps(status))
        return
    from hallmark.server.cli.round.view import view

    console = results()
    show(console, view(status, console))
