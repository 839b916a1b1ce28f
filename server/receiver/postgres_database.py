"""A store of batches in a PostgreSQL database, for any number of receivers at once."""

from collections.abc import Mapping
from typing import Any, Final

from hallmark.poc.core.errors import DatabaseError, FieldError
from hallmark.poc.core.postgresql import PostgresDatabase, PostgresSchema
from hallmark.server.receiver.database import OUTCOME, Connection, Kind

__all__ = ["SCHEMA", "PostgresStoreDatabase"]

_LONGEST_KEY: Final = 1024
"""Bytes of a text that an index takes, two of them in one entry; no key, hash or id is nearly as long."""

# A transaction may commit after one with a higher id. So each holds an advisory lock on every id that it was
# given, taken with the id under another lock: by these is known which ids are still to come. 1212960085 is
# the key of that other lock, the id plus 2^62 that of an id's.
_VERSION_1: Final = """
CREATE SEQUENCE batch_ids;
CREATE FUNCTION next_batch_id() RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    new_id BIGINT;
BEGIN
    PERFORM pg_advisory_lock(1212960085);
    new_id := nextval('batch_ids');
    PERFORM pg_advisory_xact_lock(new_id + 4611686018427387904);
    PERFORM pg_advisory_unlock(1212960085);
    RETURN new_id;
END $$;
CREATE FUNCTION settled_batch_id() RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    settled BIGINT;
BEGIN
    PERFORM pg_advisory_lock(1212960085);
    SELECT least(
        (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM batch_ids),
        (SELECT min((classid::BIGINT << 32 | objid::BIGINT) - 4611686018427387904) - 1 FROM pg_locks
         WHERE locktype = 'advisory' AND objsubid = 1 AND classid::BIGINT BETWEEN 1073741824 AND 2147483647
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
    ) INTO settled;
    PERFORM pg_advisory_unlock(1212960085);
    RETURN settled;
END $$;
CREATE TABLE batches (
    id BIGINT PRIMARY KEY DEFAULT next_batch_id(),
    kind TEXT NOT NULL,
    webhook_id TEXT UNIQUE,
    request_id TEXT,
    content TEXT NOT NULL UNIQUE,
    received_at DOUBLE PRECISION NOT NULL,
    deliveries BIGINT NOT NULL DEFAULT 1,
    public_key TEXT COLLATE "C" NOT NULL,
    block_hash TEXT COLLATE "C" NOT NULL,
    block_height BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    n_nonces BIGINT NOT NULL,
    nonces BIGINT[] NOT NULL,
    fraud_detected BOOLEAN,
    probability_honest DOUBLE PRECISION,
    n_invalid BIGINT,
    is_read SMALLINT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX batches_by_key ON batches (public_key, block_hash, kind);
CREATE INDEX batches_by_block ON batches (block_hash, kind);
CREATE INDEX unread_verdicts ON batches (id) WHERE kind = 'validated' AND is_read = 0;
CREATE TABLE provers (
    public_key TEXT COLLATE "C" PRIMARY KEY,
    rounds BIGINT NOT NULL,
    batches BIGINT NOT NULL,
    nonces BIGINT NOT NULL,
    log_stakes TEXT NOT NULL,
    log_largest_wealth DOUBLE PRECISION NOT NULL,
    uncounted TEXT NOT NULL
);
CREATE TABLE counted_rounds (
    id BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    public_key TEXT COLLATE "C" NOT NULL,
    block_hash TEXT COLLATE "C" NOT NULL,
    UNIQUE (public_key, block_hash)
);
CREATE TABLE counted_nonces (
    round BIGINT NOT NULL REFERENCES counted_rounds (id),
    nonce BIGINT NOT NULL,
    PRIMARY KEY (round, nonce)
);
CREATE VIEW outlines AS SELECT id, kind, webhook_id, request_id, received_at, deliveries, public_key,
    block_hash, block_height, node_id, n_nonces, fraud_detected, probability_honest, n_invalid
    FROM batches;
CREATE VIEW claims AS SELECT kind, public_key, block_hash, unnest(nonces) AS nonce FROM batches;
"""
# Standing verification: `hallmark.server.verification` says what each is for.
_VERSION_2: Final = """
CREATE TABLE orders (
    id BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    ordered_at DOUBLE PRECISION NOT NULL,
    block_hash TEXT COLLATE "C" NOT NULL,
    settings TEXT NOT NULL,
    draw TEXT NOT NULL,
    last_batch BIGINT NOT NULL,
    delivered_before DOUBLE PRECISION,
    dtype TEXT,
    planned_at DOUBLE PRECISION,
    model TEXT,
    arithmetic TEXT
);
CREATE INDEX orders_by_block ON orders (block_hash);
CREATE TABLE ordered_provers (
    id BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    order_id BIGINT NOT NULL REFERENCES orders (id),
    public_key TEXT COLLATE "C" NOT NULL,
    n_open BIGINT NOT NULL,
    sample TEXT NOT NULL,
    conclusion TEXT,
    UNIQUE (order_id, public_key)
);
CREATE INDEX unconcluded_provers ON ordered_provers (id) WHERE n_open = 0 AND conclusion IS NULL;
CREATE TABLE verifications (
    batch BIGINT PRIMARY KEY REFERENCES batches (id),
    prover BIGINT NOT NULL REFERENCES ordered_provers (id),
    nonces BIGINT[] NOT NULL,
    not_together BIGINT[] NOT NULL,
    n_open BIGINT NOT NULL,
    error TEXT,
    verdict BIGINT REFERENCES batches (id)
);
CREATE INDEX verifications_by_prover ON verifications (prover);
CREATE TABLE jobs (
    id BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    order_id BIGINT NOT NULL REFERENCES orders (id),
    provers BIGINT[] NOT NULL,
    nonces BIGINT[] NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    worker TEXT,
    leased_until TIMESTAMPTZ,
    numbers DOUBLE PRECISION[],
    error TEXT,
    ended_at DOUBLE PRECISION
);
CREATE INDEX open_jobs ON jobs (id) WHERE ended_at IS NULL;
CREATE INDEX jobs_by_order ON jobs (order_id);
CREATE TABLE job_batches (
    batch BIGINT NOT NULL REFERENCES verifications (batch),
    job BIGINT NOT NULL REFERENCES jobs (id),
    PRIMARY KEY (batch, job)
);
CREATE INDEX batches_by_job ON job_batches (job);
"""
SCHEMA: Final = PostgresSchema("store of batches", DatabaseError, (_VERSION_1, _VERSION_2))


class PostgresStoreDatabase(PostgresDatabase):
    """The tables of a store in a PostgreSQL database.

    Args:
        url: Where it is.
        makes: As for `BatchStore`.

    Raises:
        DatabaseError: As of `BatchStore`.
        UnsupportedError: psycopg is not installed.
    """

    row_lock = " FOR UPDATE"

    def __init__(self, url: str, *, makes: bool) -> None:
        super().__init__(SCHEMA, url, makes=makes)

    def elements(self, parameter: str) -> str:
        """As `StoreDatabase` has it."""
        return f"json_array_elements_text(CAST({parameter} AS JSON)) AS entry (value)"

    def settled(self, connection: Connection) -> int:
        """Return the latest id below which no transaction is under way, of any receiver."""
        settled: int = connection.execute("SELECT settled_batch_id()").fetchone()[0]
        return settled

    def own_columns(self, kind: Kind, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the nonces, and what a verdict came to: not all JSON is such that PostgreSQL can read it."""
        outcome = {name: body[name] for name in OUTCOME} if kind == "validated" else {}
        return {"nonces": body["nonces"], **outcome}

    def check_key(self, field: str, value: str) -> None:
        """As `StoreDatabase` has it."""
        if "\0" in value or len(value.encode()) > _LONGEST_KEY:
            allowed = f"text of up to {_LONGEST_KEY} bytes without the character of code 0, by this receiver"
            raise FieldError(field, value, allowed)

    def free_bytes(self) -> int | None:
        """Return None: the disk is another machine's business."""
        return None
