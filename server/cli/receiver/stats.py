"""`hallmark receiver stats`: how much came, and what verdicts over time say of each prover."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from hallmark.server.cli.consoles import WIDE, AsJson, print_or_drop, results, show
from hallmark.server.cli.receiver.options import DEFAULT_DATABASE, BlockHash, Database, PublicKey

if TYPE_CHECKING:
    from rich.table import Table

    from hallmark.server.receiver.store import BatchStore

__all__ = ["stats"]

_PAGE: Final = 1000
_COUNTS: Final = ("batches", "nonces", "duplicates")
_COLUMNS: Final = ("blocks", "batches", "nonces", "not counted", "p-value", "fraud")
_NUMBERS: Final = frozenset({"blocks", "batches", "nonces", "not counted", "p-value", "log10 wealth"})


def stats(
    database: Database = DEFAULT_DATABASE,
    public_key: PublicKey = None,
    block_hash: BlockHash = None,
    as_json: AsJson = False,
) -> None:
    """Show totals, and what verdicts say of each prover.

    A nonce counts once for its block and prover. Duplicates are deliveries beyond the first. The verdicts of
    a prover are taken together over all blocks; a p-value below 0.01 is fraud. The receiver may run or not.
    """
    from hallmark.server.cli.receiver.batch_file import opened

    with opened(database) as store:
        totals = store.stats(public_key=public_key, block_hash=block_hash)
        provers = [*_provers(store, public_key)]
    if as_json:
        print_or_drop(json.dumps({"totals": totals, "provers": provers}))
        return
    console = results()
    show(console, _totals(totals), "")
    if provers:
        show(console, _verdicts(provers, is_wide=console.width >= WIDE))
    else:
        print_or_drop("there are no verdicts")


def _provers(store: "BatchStore", public_key: str | None) -> Iterator[dict[str, Any]]:
    """Yield the record of each prover, as `GET /provers` gives it."""
    from hallmark.poc.protocol.config import DEFAULT_THRESHOLD

    last = ""
    while page := store.provers(public_key=public_key, after=last, limit=_PAGE):
        yield from (record.as_dict(DEFAULT_THRESHOLD) for record in page)
        last = page[-1].public_key


def _totals(totals: Mapping[str, Mapping[str, int]]) -> "Table":
    from hallmark.server.cli.tables import new_table

    table = new_table("kind", *_COUNTS, numbers=_COUNTS)
    for kind, counts in totals.items():
        table.add_row(kind, *(f"{counts[name]:,}" for name in _COUNTS))
    return table


def _verdicts(provers: Iterable[Mapping[str, Any]], *, is_wide: bool) -> "Table":
    from hallmark.server.cli.tables import new_table, text
    from hallmark.server.cli.words import yes_or_no

    more = ("log10 wealth", "why not counted") if is_wide else ()
    table = new_table(
        *_COLUMNS, *more, "public key", numbers=_NUMBERS, folds=("why not counted", "public key")
    )
    for prover in provers:
        table.add_row(
            f"{prover['rounds']:,}",
            f"{prover['batches']:,}",
            f"{prover['nonces']:,}",
            f"{sum(prover['uncounted'].values()):,}",
            f"{prover['p_value']:.2g}",
            yes_or_no(prover["fraud_detected"]),
            *((f"{prover['log10_wealth']:.1f}", _reasons(prover["uncounted"])) if is_wide else ()),
            text(prover["public_key"]),
        )
    return table


def _reasons(uncounted: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in uncounted.items()) or "-"
