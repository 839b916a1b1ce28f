"""What has become of orders, for whoever looks on."""

import json
from collections.abc import Sequence
from typing import Any

from hallmark.server.receiver.database import StoreDatabase

__all__ = ["order_provers", "order_rows"]


def order_rows(database: StoreDatabase, order: int | None = None) -> list[dict[str, Any]]:
    """Return each order with what has become of it, the first first.

    Args:
        database: The receivers'.
        order: Only this one.
    """
    only = "" if order is None else " WHERE id = :order"
    of_jobs = "" if order is None else " WHERE order_id = :order"
    wanted = {"order": order}
    with database.reading() as connection:
        orders = connection.execute(
            "SELECT id, block_hash, ordered_at, planned_at, draw, last_batch, delivered_before, dtype"  # noqa: S608
            f" FROM orders{only} ORDER BY id",
            wanted,
        ).fetchall()
        jobs = connection.execute(
            "SELECT order_id, count(*), count(ended_at),"  # noqa: S608  # constants
            " count(*) FILTER (WHERE ended_at IS NOT NULL AND numbers IS NULL),"
            " count(*) FILTER (WHERE ended_at IS NULL AND worker IS NOT NULL AND leased_until > now())"
            f" FROM jobs{of_jobs} GROUP BY order_id",
            wanted,
        ).fetchall()
        provers = connection.execute(
            "SELECT order_id, count(*), count(*) FILTER (WHERE conclusion IS NULL),"  # noqa: S608  # constants
            " count(*) FILTER (WHERE CAST(conclusion AS JSON) ->> 'verdict' = 'fraud')"
            f" FROM ordered_provers{of_jobs} GROUP BY order_id",
            wanted,
        ).fetchall()
        verdicts = connection.execute(
            "SELECT order_id, count(*), count(verdict), count(*) FILTER (WHERE fraud_detected),"  # noqa: S608
            " count(verifications.error) FROM verifications"
            " JOIN ordered_provers ON ordered_provers.id = prover"
            f" LEFT JOIN batches ON batches.id = verdict{of_jobs} GROUP BY order_id",
            wanted,
        ).fetchall()
    counts = [{key: [*values] for key, *values in rows} for rows in (jobs, provers, verdicts)]
    return [_status(row, *(of_order.get(row[0], [0] * 4) for of_order in counts)) for row in orders]


def order_provers(database: StoreDatabase, order: int) -> list[dict[str, Any]]:
    """Return what the batches of each prover of an order come to together, in the order of their keys."""
    with database.reading() as connection:
        rows = connection.execute(
            "SELECT public_key, n_open, sample, conclusion FROM ordered_provers WHERE order_id = :id"
            " ORDER BY public_key",
            {"id": order},
        ).fetchall()
    return [
        {
            "public_key": key,
            "open_batches": n_open,
            "sample": json.loads(sample) or None,
            "conclusion": None if conclusion is None else json.loads(conclusion),
        }
        for key, n_open, sample, conclusion in rows
    ]


def _status(
    row: Sequence[Any], jobs: Sequence[int], provers: Sequence[int], verdicts: Sequence[int]
) -> dict[str, Any]:
    identifier, block, ordered_at, planned_at, draw, last, before, dtype = row
    return {
        "order": identifier,
        "block_hash": block,
        "ordered_at": ordered_at,
        "planned_at": planned_at,
        "draw": json.loads(draw),
        "last_batch": last,
        "delivered_before": before,
        "dtype": dtype,
        **dict(zip(("batches", "verdicts", "fraud_verdicts", "no_verdict"), verdicts, strict=False)),
        **dict(zip(("provers", "provers_open", "provers_convicted"), provers, strict=False)),
        **dict(zip(("jobs", "jobs_ended", "jobs_given_up", "jobs_leased"), jobs, strict=False)),
    }
