"""`hallmark receiver list`: the batches that a receiver has."""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from hallmark.server.cli.consoles import WIDE, AsJson, print_or_drop, results, show
from hallmark.server.cli.receiver.options import DEFAULT_DATABASE, BlockHash, Database, KindOption, PublicKey

__all__ = ["list_"]

_COLUMNS: Final = ("id", "kind", "height", "nonces", "age", "duplicates")
_NUMBERS: Final = frozenset({"id", "height", "nonces", "age", "duplicates", "node"})


def list_(
    database: Database = DEFAULT_DATABASE,
    kind: KindOption = None,
    public_key: PublicKey = None,
    block_hash: BlockHash = None,
    as_json: AsJson = False,
) -> None:
    """Show the batches that came, in the order of their arrival.

    Duplicates are deliveries beyond the first. A wide terminal shows the block's hash, the node and the id of
    the first delivery too. The receiver may run or not.
    """
    from hallmark.server.cli.receiver.batch_file import filters, opened

    wanted = filters(kind, public_key, block_hash)
    with opened(database) as store:
        found = [*store.summaries(**wanted)]
    if as_json:
        print_or_drop(json.dumps(found))
    elif found:
        _print(found, time.time())
    else:
        is_filtered = any(value is not None for value in wanted.values())
        print_or_drop("there are no batches that match" if is_filtered else "there are no batches")


def _print(found: Iterable[Mapping[str, Any]], now: float) -> None:
    from hallmark.server.cli.tables import new_table, text
    from hallmark.server.cli.words import span

    console = results()
    wide = console.width >= WIDE
    more = ("node", "block hash", "webhook id") if wide else ()
    table = new_table(
        *_COLUMNS, *more, "public key", numbers=_NUMBERS, folds=("block hash", "webhook id", "public key")
    )
    for batch in found:
        table.add_row(
            str(batch["id"]),
            batch["kind"],
            str(batch["block_height"]),
            f"{batch['n_nonces']:,}",
            span(now - batch["received_at"]),
            f"{batch['deliveries'] - 1:,}",
            *(
                (str(batch["node_id"]), text(batch["block_hash"]), text(batch["webhook_id"] or "-"))
                if wide
                else ()
            ),
            text(batch["public_key"]),
        )
    show(console, table)
