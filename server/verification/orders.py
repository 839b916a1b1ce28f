"""The orders that were given, and their plans."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.server.receiver.database import Connection, StoreDatabase
from hallmark.server.verification.judging import of_nothing
from hallmark.server.verification.order import Draw, Order
from hallmark.server.verification.planning import Plan, StoredBatch

__all__ = ["OrderBook", "read_orders"]

_ORDER: Final = (
    "id",
    "block_hash",
    "settings",
    "draw",
    "last_batch",
    "delivered_before",
    "dtype",
    "model",
    "arithmetic",
)
_COLUMNS: Final = ", ".join(_ORDER)

_SETTLING_SECONDS: Final = 10.0

_WAITING: Final = (
    "kind = 'generated' AND block_hash = :block_hash AND batches.id <= :last_batch"
    " AND (CAST(:delivered_before AS DOUBLE PRECISION) IS NULL OR received_at < :delivered_before)"
    " AND NOT EXISTS (SELECT FROM verifications WHERE batch = batches.id)"
)
"""The batches of an order, before it is planned."""


class OrderBook:
    """The orders of one database; safe to use beside other processes.

    Args:
        database: The receivers', PostgreSQL.
        clock: Seconds on a clock that never goes back.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        database: StoreDatabase,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._clock = clock
        self._now = now

    def place(
        self,
        block_hash: str,
        settings: Mapping[str, Any],
        draw: Draw,
        *,
        delivered_before: float | None = None,
        dtype: str | None = None,
    ) -> tuple[Order, bool]:
        """Order that what has been delivered for a block is verified, and no order has yet.

        Args:
            block_hash: The block.
            settings: Of the round, as a body of `/init` has them.
            draw: What is recomputed.
            delivered_before: As of `Order`.
            dtype: As of `Order`; None: what most provers say that they computed in.

        Returns:
            The order, and whether it is new: one that was given before is given once.

        Raises:
            FieldError: The block is none that can be looked up.
            StateError: No batch waits, an earlier order of the block is not planned yet, or one has stated
                the randomness with other settings.
            DatabaseError: The database cannot be written.
        """
        self._database.check_key("block_hash", block_hash)
        self._wait_for_deliveries()
        with self._database.transaction() as connection:
            connection.execute("LOCK TABLE orders IN SHARE ROW EXCLUSIVE MODE")
            row = {
                "ordered_at": self._now(),
                "block_hash": block_hash,
                "settings": json.dumps(dict(settings), sort_keys=True),
                "draw": json.dumps(draw.as_dict()),
                "last_batch": self._database.settled(connection),
                "delivered_before": delivered_before,
            }
            row["dtype"] = dtype or _dtype_of_most(connection, row)
            for before in read_orders(connection, "block_hash = :block_hash", row):
                if before.draw.randomness == draw.randomness:
                    same = (before.settings, before.draw, before.delivered_before, before.dtype)
                    if same == (settings, draw, delivered_before, dtype or before.dtype):
                        return before, False
                    raise StateError(
                        f"order {before.id} has stated the randomness {draw.randomness!r} for this block: "
                        "what has come since may have been chosen to suit it; state a later one"
                    )
            open_orders = "block_hash = :block_hash AND planned_at IS NULL"
            if not _is_any_waiting(connection, row):
                raise StateError(f"no batch of block {block_hash!r} waits for a verdict")
            if [*read_orders(connection, open_orders, row)]:
                raise StateError(
                    f"an order of block {block_hash!r} is not planned yet: start a worker, then order what "
                    "it leaves"
                )
            names = ", ".join(row)
            values = ", ".join(f":{name}" for name in row)
            [identifier] = connection.execute(
                f"INSERT INTO orders ({names}) VALUES ({values}) RETURNING id",  # noqa: S608  # constants
                row,
            ).fetchone()
            [order] = read_orders(connection, "id = :id", {"id": identifier})
            return order, True

    def _wait_for_deliveries(self) -> None:
        """Wait until what has an id by now is committed or given up, for ten seconds at most."""
        with self._database.reading() as connection:
            used = connection.execute("SELECT last_value FROM batch_ids WHERE is_called").fetchone()
        latest = 0 if used is None else used[0]
        deadline = self._clock() + _SETTLING_SECONDS
        while self._clock() < deadline:
            with self._database.reading() as connection:
                if self._database.settled(connection) >= latest:
                    return
            time.sleep(_SETTLING_SECONDS / 100)

    def batches(self, order: int) -> list[int]:
        """Return the ids of the batches of a planned order, in the order of their arrival."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT batch FROM verifications JOIN ordered_provers ON ordered_provers.id = prover"
                " WHERE order_id = :order ORDER BY batch",
                {"order": order},
            ).fetchall()
        return [batch for (batch,) in rows]

    def cancel(self, order: int) -> None:
        """Take back an order that is not planned.

        Raises:
            FieldError: There is no such order, or it is planned: its verdicts will come.
        """
        with self._database.transaction() as connection:
            cancelled = connection.execute(
                "DELETE FROM orders WHERE id = :id AND planned_at IS NULL", {"id": order}
            ).rowcount
        if not cancelled:
            raise FieldError("ORDER", order, "an order that no worker has planned yet")

    def unplanned(self) -> list[Order]:
        """Return the orders that nobody has planned, the first first."""
        with self._database.reading() as connection:
            return [*read_orders(connection, "planned_at IS NULL", {})]

    def waiting(self, order: Order) -> list[StoredBatch]:
        """Return the batches of an order that is not planned, in the order of their arrival."""
        wanted = {
            "block_hash": order.block_hash,
            "last_batch": order.last_batch,
            "delivered_before": order.delivered_before,
        }
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT id, public_key, body FROM batches WHERE {_WAITING} ORDER BY id",  # noqa: S608
                wanted,
            ).fetchall()
        return [StoredBatch(id=id_, public_key=key, body=json.loads(body)) for id_, key, body in rows]

    def enter(self, order: Order, plan: Plan, model: str | None, arithmetic: str) -> bool:
        """Enter the plan of an order; return whether it was the first.

        Args:
            order: The order.
            plan: Its plan.
            model: As of `Order`.
            arithmetic: As of `Order`.
        """
        with self._database.transaction() as connection:
            known = {"id": order.id, "now": self._now(), "model": model, "arithmetic": arithmetic}
            planned = connection.execute(
                "UPDATE orders SET planned_at = :now, model = :model, arithmetic = :arithmetic"
                " WHERE id = :id AND planned_at IS NULL",
                known,
            ).rowcount
            if planned:
                _enter(connection, order.id, plan)
            return bool(planned)


def read_orders(connection: Connection, condition: str, parameters: Mapping[str, Any]) -> Iterator[Order]:
    """Read the orders that fulfil a condition, by their numbers."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM orders WHERE {condition} ORDER BY id",  # noqa: S608  # constants
        parameters,
    ).fetchall()
    return (Order.of_row(dict(zip(_ORDER, row, strict=True))) for row in rows)


def _dtype_of_most(connection: Connection, wanted: Mapping[str, Any]) -> str | None:
    """Return what most provers of the batches that wait say that they computed in; None where none says."""
    rows = connection.execute(
        f"SELECT DISTINCT ON (public_key) public_key, body FROM batches WHERE {_WAITING}"  # noqa: S608
        " ORDER BY public_key, id",
        wanted,
    ).fetchall()
    stated = Counter(
        numerics["dtype"]
        for _, body in rows
        if (numerics := json.loads(body).get("numerics")) and isinstance(numerics.get("dtype"), str)
    )
    return stated.most_common(1)[0][0] if stated else None


def _is_any_waiting(connection: Connection, wanted: Mapping[str, Any]) -> bool:
    query = f"SELECT EXISTS (SELECT FROM batches WHERE {_WAITING})"  # noqa: S608  # constants
    return bool(connection.execute(query, wanted).fetchone()[0])


def _enter(connection: Connection, order: int, plan: Plan) -> None:
    """Enter a plan's rows."""
    open_batches = Counter(batch.public_key for batch in plan.batches if batch.error is None)
    all_batches = Counter(batch.public_key for batch in plan.batches)
    # Whoever locks the records of several provers does so in the order of their keys.
    keys = sorted(plan.samples)
    connection.execute(
        "INSERT INTO ordered_provers (order_id, public_key, n_open, sample, conclusion)"
        " SELECT :order, * FROM unnest("
        "CAST(:keys AS TEXT[]), CAST(:open AS BIGINT[]), CAST(:samples AS TEXT[]), CAST(:ends AS TEXT[]))",
        {
            "order": order,
            "keys": keys,
            "open": [open_batches[key] for key in keys],
            "samples": [json.dumps(plan.samples[key]) for key in keys],
            "ends": [None if open_batches[key] else json.dumps(of_nothing(all_batches[key])) for key in keys],
        },
    )
    provers = dict(
        connection.execute(
            "SELECT public_key, id FROM ordered_provers WHERE order_id = :order", {"order": order}
        ).fetchall()
    )
    # Lists of lists that are not of one length go as text.
    connection.execute(
        "INSERT INTO verifications (batch, prover, nonces, not_together, n_open, error)"
        " SELECT batch, prover, CAST(nonces AS BIGINT[]), CAST(apart AS BIGINT[]), n_open, error"
        " FROM unnest(CAST(:batches AS BIGINT[]), CAST(:provers AS BIGINT[]), CAST(:nonces AS TEXT[]),"
        " CAST(:apart AS TEXT[]), CAST(:open AS BIGINT[]), CAST(:errors AS TEXT[]))"
        " AS planned (batch, prover, nonces, apart, n_open, error)",
        {
            "batches": [batch.id for batch in plan.batches],
            "provers": [provers[batch.public_key] for batch in plan.batches],
            "nonces": [_array(batch.nonces) for batch in plan.batches],
            "apart": [_array(batch.not_together) for batch in plan.batches],
            "open": [len(batch.jobs) for batch in plan.batches],
            "errors": [batch.error for batch in plan.batches],
        },
    )
    jobs = []
    for job in plan.jobs:
        row = {
            "order": order,
            "provers": [provers[key] for key, _ in job],
            "nonces": [nonce for _, nonce in job],
        }
        insert = (
            "INSERT INTO jobs (order_id, provers, nonces) VALUES (:order, :provers, :nonces) RETURNING id"
        )
        jobs.append(connection.execute(insert, row).fetchone()[0])
    waits = [(batch.id, jobs[place]) for batch in plan.batches for place in batch.jobs]
    connection.execute(
        "INSERT INTO job_batches (batch, job)"
        " SELECT * FROM unnest(CAST(:batches AS BIGINT[]), CAST(:jobs AS BIGINT[]))",
        {"batches": [batch for batch, _ in waits], "jobs": [job for _, job in waits]},
    )


def _array(numbers: Iterable[int]) -> str:
    """Write a list as PostgreSQL does."""
    return f"{{{','.join(map(str, numbers))}}}"
