"""`hallmark receiver export`: batches with their bodies, for hallmark verify and others."""

from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.core.postgresql import without_password
from hallmark.server.cli.json_lines import write_lines
from hallmark.server.cli.receiver.options import (
    DEFAULT_DATABASE,
    BlockHash,
    Database,
    KindOption,
    PublicKey,
)

if TYPE_CHECKING:
    from hallmark.server.cli.receiver.batch_file import Filters
    from hallmark.server.receiver.store import BatchStore

__all__ = ["export"]


def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; - is standard output.")],
    ids: Annotated[
        list[int] | None,
        typer.Argument(metavar="ID", help="Only these, by their ids."),
    ] = None,
    database: Database = DEFAULT_DATABASE,
    kind: KindOption = None,
    public_key: PublicKey = None,
    block_hash: BlockHash = None,
) -> None:
    """Write batches with their bodies to a file.

    There is a JSON object on each line; hallmark verify and hallmark round validate read it. What was in the
    file is replaced. Nobody but you can read it. The receiver may run or not.
    """
    from hallmark.server.cli.receiver.batch_file import filters, opened
    from hallmark.server.receiver.database import address

    found = address(database)
    with opened(database) as store:
        matching = _matching(store, ids, filters(kind, public_key, block_hash))
        first = next(matching, None)
        if first is None:
            nothing = StateError(f"no batch of {without_password(database)} matches; nothing is written")
            nothing.add_note("hallmark receiver list shows what there is")
            raise nothing
        batches = filter(None, map(store.get, chain((first,), matching)))
        write_lines(file, batches, found if isinstance(found, Path) else None, "batch")


def _matching(store: "BatchStore", ids: Collection[int] | None, wanted: "Filters") -> Iterator[int]:
    """Return the ids of the batches that match, in their order.

    Raises:
        FieldError: There are others among the ids than those of batches.
    """
    if not ids:
        return (batch["id"] for batch in store.summaries(**wanted))
    chosen = sorted({*ids})
    unknown = [identifier for identifier in chosen if not _matches(store, identifier, {})]
    if unknown:
        raise FieldError("ID", unknown, "ids that hallmark receiver list shows")
    return (identifier for identifier in chosen if _matches(store, identifier, wanted))


def _matches(store: "BatchStore", identifier: int, wanted: "Filters") -> bool:
    if not 0 < identifier < 2**63:
        return False
    found = store.find(**wanted, after=identifier - 1, limit=1)
    return [batch["id"] for batch in found] == [identifier]
