"""`hallmark fleet start`: set one round on all nodes and start it."""

from hallmark.poc.protocol.config import Concern
from hallmark.server.cli.consoles import AsJson
from hallmark.server.cli.fleet.client import Timeout, ask_all
from hallmark.server.cli.fleet.inventory import InventoryFile, read_inventory
from hallmark.server.cli.fleet.view import print_answers
from hallmark.server.cli.options import Stated, takes_settings
from hallmark.server.cli.round.start import Phase, StartedPhase, check_finite

__all__ = ["start"]


@takes_settings([concern for concern in Concern if concern not in (Concern.PARTITION, Concern.NODE)])
def start(
    file: InventoryFile,
    stated: Stated,
    phase: StartedPhase = Phase.GENERATE,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Set one round on all nodes of a fleet and start it.

    They share the nonces: node_id is a node's place in the inventory, node_count their number.

    All are asked at once, and one that fails keeps no other from starting. Give the same command again when
    it is back: the others go on with the round. Exit code: 0 all have started, 2 some have not.
    """
    nodes = read_inventory(file)
    check_finite(stated)
    answers = ask_all(nodes, timeout, "POST", phase.path, lambda node: {**stated, **node.share})
    print_answers(answers, is_json=as_json)
