"""What has become of orders, for whoever looks on."""

import json
from collections.abc import Sequence
from typing import Any

from hallmark.server.receiver.database import StoreDatabase

__all__ = ["order_provers", "order_rows"]


def order_rows(database: StoreDatabase) -> list[dict[str, Any]]:
    """Return each order with what has become of it, the first first."""
    with database.reading() as connection:
        rows = connection.execute(
            "SELECT orders.id, block_hash, ordered_at, planned_at, draw, last_batch, delivered_before,"
            " (SELECT count(*) FROM ordered_provers WHERE order_id = orders.id),"
            " (SELECT count(*) FROM ordered_provers WHERE order_id = orders.id AND n_open > 0),"
            " (SELECT count(*) FROM ordered_provers WHERE order_id = orders.id"
            "  AND CAST(conclusion AS JSON) ->> 'verdict' = 'fraud'),"
            " (SELECT count(*) FROM jobs WHERE order_id = orders.id),"
            " (SELECT count(*) FROM jobs WHERE order_id = orders.id AND ended_at IS NOT NULL),"
            " (SELECT count(*) FROM jobs WHERE order_id = orders.id AND ended_at IS NOT NULL"
            "  AND numbers IS NULL),"
            " (SELECT count(*) FROM jobs WHERE order_id = orders.id AND ended_at IS NULL"
            "  AND leased_until > now() AND worker IS NOT NULL)"
            " FROM orders ORDER BY orders.id"
        ).fetchall()
        verdicts = connection.execute(
            "SELECT order_id, count(*), count(verdict), count(*) FILTER (WHERE fraud_detected),"
            " count(verifications.error) FROM verifications"
            " JOIN ordered_provers ON ordered_provers.id = prover"
            " LEFT JOIN batches ON batches.id = verdict GROUP BY order_id"
        ).fetchall()
    of_order = {identifier: counts for identifier, *counts in verdicts}
    return [_status(row, of_order.get(row[0], (0, 0, 0, 0))) for row in rows]


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


def _status(row: Sequence[Any], counts: Sequence[int]) -> dict[str, Any]:
    identifier, block, ordered_at, planned_at, draw, last, before, provers, open_, convicted, *jobs = row
    of_jobs = dict(zip(("jobs", "jobs_ended", "jobs_given_up", "jobs_leased"), jobs, strict=True))
    batches, verdicts, fraud, refused = counts
    return {
        "order": identifier,
        "block_hash": block,
        "ordered_at": ordered_at,
        "planned_at": planned_at,
        "draw": json.loads(draw),
        "last_batch": last,
        "delivered_before": before,
        "batches": batches,
        "verdicts": verdicts,
        "fraud_verdicts": fraud,
        "no_verdict": refused,
        "provers": provers,
        "provers_open": open_,
        "provers_convicted": convicted,
        **of_jobs,
    }
