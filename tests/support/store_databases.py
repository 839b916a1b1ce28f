"""What tests do to a store's database behind its back, whichever it is."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from hallmark.server.receiver.database import Address

__all__ = ["broken_inserts", "execute"]


def execute(address: Address, *statements: str) -> list[Any]:
    """Run statements; return the rows of the last one."""
    rows: list[Any] = []
    if isinstance(address, Path):
        with closing(sqlite3.connect(address, isolation_level=None)) as database:
            for statement in statements:
                rows = database.execute(statement).fetchall()
    else:
        with psycopg.connect(address, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description else []
    return rows


@contextmanager
def broken_inserts(address: Address, table: str) -> Iterator[None]:
    """Let every insert into a table fail."""
    if isinstance(address, Path):
        body = "BEGIN SELECT raise(ABORT, 'broken'); END"
        execute(address, f"CREATE TRIGGER broken BEFORE INSERT ON {table} {body}")
        yield
        execute(address, "DROP TRIGGER broken")
    else:
        execute(
            address,
            "CREATE FUNCTION broken() RETURNS TRIGGER LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'broken'; END $$",
            f"CREATE TRIGGER broken BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION broken()",
        )
        yield
        execute(address, "DROP FUNCTION broken CASCADE")
