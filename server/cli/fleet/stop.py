"""`hallmark fleet stop`: end the round on all nodes."""

from hallmark.server.cli.consoles import AsJson
from hallmark.server.cli.fleet.client import Timeout, ask_all
from hallmark.server.cli.fleet.inventory import InventoryFile, read_inventory
from hallmark.server.cli.fleet.view import print_answers

__all__ = ["stop"]


def stop(file: InventoryFile, timeout: Timeout = 30.0, as_json: AsJson = False) -> None:
    """End the round on all nodes of a fleet.

    What was found and not yet delivered is still sent. Exit code: 0 all have stopped, 2 some did not answer.
    """
    print_answers(ask_all(read_inventory(file), timeout, "POST", "/stop"), is_json=as_json)
