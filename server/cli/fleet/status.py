"""`hallmark fleet status`: what all nodes are doing."""

from hallmark.server.cli.consoles import AsJson
from hallmark.server.cli.fleet.client import Timeout, ask_all
from hallmark.server.cli.fleet.inventory import InventoryFile, read_inventory
from hallmark.server.cli.fleet.view import print_answers

__all__ = ["status"]


def status(file: InventoryFile, timeout: Timeout = 10.0, as_json: AsJson = False) -> None:
    """Show what the nodes of a fleet are doing.

    A line a node, and the rate, verdicts and callbacks of all together. Exit code: 0 all have answered,
    2 some have not.
    """
    print_answers(ask_all(read_inventory(file), timeout, "GET", "/status"), is_json=as_json)
