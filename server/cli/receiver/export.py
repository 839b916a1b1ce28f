"""`hallmark receiver export`: batches with their bodies, for hallmark verify and others."""

import json
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.server.cli.consoles import print_or_drop, say
from hallmark.server.cli.receiver.options import (
    DEFAULT_DATABASE,
    BlockHash,
    Database,
    KindOption,
    PublicKey,
)
from hallmark.server.cli.words import counted

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

    with opened(database) as store:
        matching = _matching(store, ids, filters(kind, public_key, block_hash))
        first = next(matching, None)
        if first is None:
            nothing = StateError(f"no batch of {database} matches; nothing is written")
            nothing.add_note("hallmark receiver list shows what there is")
            raise nothing
        batches = filter(None, map(store.get, chain((first,), matching)))
        if file == "-":
            count = _write(batches, print_or_drop)
        else:
            _check_target(Path(file), database)
            try:
                with open(file, "w", encoding="utf-8", opener=_open_private) as target:
                    count = _write(batches, lambda line: print(line, file=target))
            except OSError as exc:
                raise FieldError("FILE", file, f"a path to write to ({exc.strerror})") from exc
    say(f"{counted(count, 'batch')} written to {'standard output' if file == '-' else file}")


def _matching(store: "BatchStore", ids: Collection[int] | None, wanted: "Filters") -> Iterator[int]:
    """Return the ids of the batches that match, in their order.

    Raises:
        FieldError: There are others among the ids than those of batches.
    """
    from hallmark.server.cli.receiver.batch_file import summaries

    if not ids:
        return (batch["id"] for batch in summaries(store, wanted))
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


def _check_target(target: Path, database: Path) -> None:
    """Refuse to write over the batches themselves.

    Raises:
        FieldError: The target is the database.
    """
    if target.exists() and target.samefile(database):
        raise FieldError("FILE", str(target), "another file than that of the receiver")


def _open_private(path: str, flags: int) -> int:
    """Open a file for this user's eyes only, one that was there too: proofs are nobody else's business."""
    descriptor = os.open(path, flags, 0o600)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.fchmod(descriptor, 0o600)
    return descriptor


def _write(batches: Iterable[dict[str, Any]], write: Callable[[str], object]) -> int:
    count = 0
    for count, batch in enumerate(batches, start=1):  # noqa: B007  # it is returned
        write(json.dumps(batch))
    return count
