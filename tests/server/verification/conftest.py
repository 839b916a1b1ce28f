"""Receivers' stores in PostgreSQL."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from hallmark.server.receiver.store import BatchStore


@pytest.fixture
def store(url: str) -> Iterator[BatchStore]:
    with closing(BatchStore(url)) as store:
        yield store
