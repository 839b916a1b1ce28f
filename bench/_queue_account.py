"""The account at the end: every batch is there once and has one verdict, and records are of the verdicts."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from _queue_batches import CHEAT, Delivery
from ordered_batches import SETTINGS

from hallmark.poc.verdict.prover_record import ProverRecord, ScoredBatch
from hallmark.server.receiver.database import Connection
from hallmark.server.receiver.store import BatchStore
from hallmark.server.verification.progress import order_provers, order_rows

__all__ = ["account", "record_problems"]


def account(
    store: BatchStore, batches: Sequence[Delivery], acknowledged: Mapping[str, set[int]]
) -> tuple[dict[str, int], list[str]]:
    """Hold what is in the database against what was delivered.

    Args:
        store: The store, on which nobody works any more.
        batches: What was delivered.
        acknowledged: The ids that senders were told, by webhook-id.

    Returns:
        Counts, and what is not as it should be.
    """
    with store.database.reading() as connection:
        counts, problems = _of_batches(connection, batches, acknowledged)
        of_jobs, of_verdicts = _of_jobs(connection)
    counts |= of_jobs
    problems += of_verdicts
    problems += _of_provers(store, {batch.block for batch in batches})
    problems += record_problems(store)
    return counts, problems


def _of_batches(
    connection: Connection, batches: Sequence[Delivery], acknowledged: Mapping[str, set[int]]
) -> tuple[dict[str, int], list[str]]:
    rows = connection.execute(
        "SELECT webhook_id, batches.id, body, deliveries, verdict, error,"
        " (SELECT count(*) FROM verifications AS its WHERE its.batch = batches.id)"
        " FROM batches LEFT JOIN verifications ON batch = batches.id WHERE kind = 'generated' ORDER BY id"
    ).fetchall()
    stored = {webhook_id: row for webhook_id, *row in rows}
    problems = []
    if len(stored) != len(rows) or stored.keys() != {batch.webhook_id for batch in batches}:
        problems.append(f"{len(batches)} batches were delivered, {len(rows)} are there")
    lost = verdicts = without = 0
    for batch in batches:
        ids = acknowledged.get(batch.webhook_id, set())
        row = stored.get(batch.webhook_id)
        if row is None or ids != {row[0]} or json.loads(row[1]) != batch.body:
            lost += 1
            problems.append(f"{batch.webhook_id} was acknowledged as {ids} and is not there as it was sent")
            continue
        identifier, _, _, verdict, error, planned = row
        verdicts += verdict is not None
        without += error is not None
        if planned != 1 or (verdict is None) == (error is None):
            lost += 1
            problems.append(f"batch {identifier} has verdict {verdict} and error {error!r}")
        elif (verdict is not None) != batch.can_be_judged:
            problems.append(f"batch {identifier} has verdict {verdict} and error {error!r}: it should not")
    counts = {
        "acknowledged": len(acknowledged),
        "verdicts": verdicts,
        "without a verdict": without,
        "lost": lost,
        "delivered again": sum(row[2] - 1 for row in stored.values()),
    }
    return counts, problems


def _of_jobs(connection: Connection) -> tuple[dict[str, int], list[str]]:
    """Count jobs, and verdicts of which there are two."""
    jobs, again, leases, still_open, given_up = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE attempts > 1), CAST(sum(attempts) AS BIGINT),"
        " count(*) FILTER (WHERE ended_at IS NULL),"
        " count(*) FILTER (WHERE ended_at IS NOT NULL AND numbers IS NULL) FROM jobs"
    ).fetchone()
    rows = connection.execute("SELECT id, body FROM batches WHERE kind = 'validated'").fetchall()
    judged = Counter(json.loads(body)["verification"]["batch"] for _, body in rows)
    known = dict(connection.execute("SELECT verdict, batch FROM verifications WHERE verdict > 0").fetchall())
    doubled = sum(judged.values()) - len(judged)
    problems = []
    if doubled:
        twice = [batch for batch, count in judged.items() if count > 1]
        problems.append(f"batches have more than one verdict: {twice}")
    if {id_: json.loads(body)["verification"]["batch"] for id_, body in rows} != known:
        problems.append("verdicts are stored that are of no batch, or of another one")
    if still_open or given_up:
        problems.append(f"{still_open} jobs are open, {given_up} were given up")
    counts = {"doubled": doubled, "jobs": jobs, "leases": leases, "jobs leased again": again}
    return counts, problems


def _of_provers(store: BatchStore, blocks: set[str]) -> list[str]:
    """Tell whom an order convicted, or did not conclude on, against what is true."""
    problems = []
    orders = order_rows(store.database)
    if {order["block_hash"] for order in orders} != blocks:
        problems.append("a block has no order")
    for order in orders:
        told = order_provers(store.database, order["order"])
        is_open = [each["public_key"] for each in told if each["open_batches"] or not each["conclusion"]]
        convicted = [
            each["public_key"]
            for each in told
            if each["conclusion"] and each["conclusion"]["verdict"] == "fraud"
        ]
        expected = [each["public_key"] for each in told if each["public_key"] == CHEAT]
        if is_open or convicted != expected:
            problems.append(f"order {order['order']} left {is_open} open and convicted {convicted}")
    return problems


def record_problems(store: BatchStore) -> list[str]:
    """Tell whose record is not that of its verdicts, in the order of their ids."""
    computed: dict[str, ProverRecord] = {}
    seen: dict[tuple[str, str], set[int]] = {}
    for summary in store.summaries(kind="validated"):
        stored = store.get(summary["id"])
        assert stored is not None
        scored = ScoredBatch.of_body(stored["body"])
        key = scored.public_key
        before = seen.setdefault((key, scored.block_hash), set())
        new = scored.ratios.keys() - before
        record = computed.get(key, ProverRecord(public_key=key))
        computed[key] = record.after(scored, new, opens_round=not before)
        before |= new
    found = {record.public_key: record for record in _records(store)}
    problems = [
        f"the record of {key!r} is {found.get(key)}, and of its verdicts {computed.get(key)}"
        for key in sorted(found.keys() | computed.keys())
        if found.get(key) != computed.get(key)
    ]
    convicted = {key for key, record in found.items() if record.is_fraud(SETTINGS["fraud_threshold"])}
    if convicted != {CHEAT}:
        problems.append(f"the records convict {sorted(convicted)}")
    return problems


def _records(store: BatchStore) -> Iterator[ProverRecord]:
    last = ""
    while page := store.provers(after=last):
        yield from page
        last = page[-1].public_key
