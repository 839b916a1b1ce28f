"""`hallmark queue order`: have what was delivered for a block verified."""

import json
import math
from datetime import datetime
from typing import Annotated

import typer

from hallmark.poc.core.checks import check_float, check_text
from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.config import Concern
from hallmark.server.cli.consoles import AsJson, print_or_drop, say
from hallmark.server.cli.offline import sampling
from hallmark.server.cli.options import RoundFile, Stated, named_by_option, round_body, takes_settings
from hallmark.server.cli.queue.queue_database import QueueDatabase, opened

__all__ = ["order"]


@takes_settings([Concern.JUDGEMENT, Concern.PARTITION, Concern.COMPUTATION], {"model": "served_model"})
def order(
    block: Annotated[str, typer.Argument(metavar="BLOCK_HASH", help="The block that provers computed for.")],
    database: QueueDatabase,
    randomness: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="What decides which nonces are drawn: nothing that provers could know when they delivered, "
            "such as the hash of a later block. It is kept with each verdict.",
        ),
    ],
    stated: Stated,
    round_file: RoundFile = None,
    sample: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Recompute only so many nonces of each batch.")
    ] = None,
    power: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Recompute as many nonces of each prover as convict --cheat with this probability.",
        ),
    ] = None,
    cheat: sampling.CheatError = None,
    cheat_share: sampling.CheatShare = None,
    delivered_before: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only what was received before: the time of the later block, in seconds since the epoch or "
            "as 2026-11-28T12:00:00Z.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="What the provers computed in; by default what most of them say. Workers with another one "
            "leave the order."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Have what was delivered for a block verified.

    It is about the batches that receivers have by now and no earlier order has. Without --sample or --power
    all nonces are recomputed. What comes later needs an order with another randomness. The same order again
    changes nothing.

    Workers recompute: hallmark worker. Verdicts come into the receivers' database, like those of servers.
    """
    from hallmark.poc.offline.model import DTYPES
    from hallmark.poc.offline.rounds import check_round
    from hallmark.server.verification.order import Draw
    from hallmark.server.verification.orders import OrderBook

    chosen = sampling.sampling(sample, power, cheat, cheat_share, None, sequential=False)
    body = round_body(round_file, stated)
    check_round(body)
    with named_by_option():
        draw = Draw(
            randomness=check_text("randomness", randomness),
            nonces=chosen.count,
            power=None if chosen.search is None else chosen.search.power,
            cheat=None if chosen.search is None else chosen.search.cheat.error,
            cheat_share=1.0 if chosen.search is None else chosen.search.cheat.share,
        )
    if dtype is not None and dtype not in DTYPES:
        raise FieldError("--dtype", dtype, ", ".join(DTYPES))
    before = None if delivered_before is None else _seconds(delivered_before)
    with opened(database) as store:
        given, is_new = OrderBook(store.database).place(
            block, {**body, "block_hash": block}, draw, delivered_before=before, dtype=dtype
        )
    if before is None:
        say("No --delivered-before: who delivered after the randomness was known is drawn like all others.")
    if as_json:
        print_or_drop(json.dumps({**given.as_dict(), "is_new": is_new}))
        return
    print_or_drop(f"order {given.id}" + ("" if is_new else " had been given before"))
    say("Workers recompute it: hallmark worker. See what comes of it: hallmark queue status.")


def _seconds(text: str) -> float:
    """Read a time, in seconds since the epoch.

    Raises:
        FieldError: It is none, or has no time zone.
    """
    allowed = "seconds since the epoch, or a time such as 2026-11-28T12:00:00Z"
    try:
        return check_float("--delivered-before", float(text), least=0.0, most=math.inf, allowed=allowed)
    except FieldError:
        raise
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat(text)
    except ValueError as exc:
        raise FieldError("--delivered-before", text, allowed) from exc
    if time.tzinfo is None:
        raise FieldError("--delivered-before", text, f"{allowed}, with its time zone")
    return time.timestamp()
