"""`hallmark queue export`: the batches of an order, so that others can repeat its draw."""

from typing import Annotated

import typer

from hallmark.poc.core.errors import FieldError
from hallmark.server.cli.json_lines import write_lines
from hallmark.server.cli.queue.queue_database import QueueDatabase, opened

__all__ = ["export"]


def export(
    order: Annotated[int, typer.Argument(metavar="ORDER", help="Its number, as status shows it.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; - is standard output.")],
    database: QueueDatabase,
) -> None:
    """Write the batches of an order to a file.

    So others can repeat its draw. There is a JSON object on each line. Give it to hallmark verify with the
    order's settings, its draw, and its randomness as --seed.
    """
    from hallmark.server.verification.orders import OrderBook

    with opened(database) as store:
        batches = OrderBook(store.database).batches(order)
        if not batches:
            raise FieldError("ORDER", order, "an order that a worker has planned")
        write_lines(file, filter(None, map(store.get, batches)), None, "batch")
