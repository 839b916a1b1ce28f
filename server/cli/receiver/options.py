"""The options that several commands of `hallmark receiver` have."""

from enum import StrEnum
from typing import Annotated, Final

import typer

__all__ = [
    "DATABASE_VARIABLE",
    "DEFAULT_DATABASE",
    "BatchKind",
    "BlockHash",
    "Database",
    "KindOption",
    "PublicKey",
]

DEFAULT_DATABASE: Final = "hallmark-receiver.db"
DATABASE_VARIABLE: Final = "HALLMARK_RECEIVER_DATABASE"
"""Says where batches are kept, to all that read or write them, without a password on the command line."""


class BatchKind(StrEnum):
    """Which callback brought a batch."""

    GENERATED = "generated"
    VALIDATED = "validated"


Database = Annotated[
    str,
    typer.Option(
        metavar="FILE|URL",
        envvar=DATABASE_VARIABLE,
        show_envvar=True,
        help="The SQLite file that a receiver keeps batches in, or the URL of its PostgreSQL database.",
    ),
]
KindOption = Annotated[BatchKind | None, typer.Option("--kind", help="Only what this callback brought.")]
PublicKey = Annotated[str | None, typer.Option(metavar="K", help="Only of this prover.")]
BlockHash = Annotated[str | None, typer.Option(metavar="H", help="Only of this block.")]
