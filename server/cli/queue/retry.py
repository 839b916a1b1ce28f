"""`hallmark queue retry`: have workers try again what they gave up."""

from typing import Annotated

import typer

from hallmark.server.cli.consoles import print_or_drop
from hallmark.server.cli.queue.queue_database import QueueDatabase, opened
from hallmark.server.cli.words import counted

__all__ = ["retry"]


def retry(
    order: Annotated[int, typer.Argument(metavar="ORDER", help="Its number, as status shows it.")],
    database: QueueDatabase,
) -> None:
    """Have workers try again what they gave up.

    A job is given up after five attempts.
    """
    from hallmark.server.verification.jobs import JobQueue

    with opened(database) as store:
        count = JobQueue(store).retry(order)
    print_or_drop(f"{counted(count, 'job')} open again")
