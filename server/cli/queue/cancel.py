"""`hallmark queue cancel`: take back an order."""

from typing import Annotated

import typer

from hallmark.server.cli.consoles import print_or_drop
from hallmark.server.cli.queue.queue_database import QueueDatabase, opened

__all__ = ["cancel"]


def cancel(
    order: Annotated[int, typer.Argument(metavar="ORDER", help="Its number, as status shows it.")],
    database: QueueDatabase,
) -> None:
    """Take back an order that no worker has planned yet.

    No worker plans one whose settings fit none of the batches; each says why.
    """
    from hallmark.server.verification.orders import OrderBook

    with opened(database) as store:
        OrderBook(store.database).cancel(order)
    print_or_drop(f"order {order} is cancelled")
