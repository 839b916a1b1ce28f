"""The options that several commands of `hallmark receiver` have."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

__all__ = ["DEFAULT_DATABASE", "BatchKind", "BlockHash", "Database", "KindOption", "PublicKey"]

DEFAULT_DATABASE: Final = Path("hallmark-receiver.db")


class BatchKind(StrEnum):
    """Which callback brought a batch."""

    GENERATED = "generated"
    VALIDATED = "validated"


Database = Annotated[Path, typer.Option(metavar="FILE", help="The file that a receiver keeps batches in.")]
KindOption = Annotated[BatchKind | None, typer.Option("--kind", help="Only what this callback brought.")]
PublicKey = Annotated[str | None, typer.Option(metavar="K", help="Only of this prover.")]
BlockHash = Annotated[str | None, typer.Option(metavar="H", help="Only of this block.")]
