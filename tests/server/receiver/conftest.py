from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from hallmark.server.receiver.app import create_app
from hallmark.server.receiver.database import Address


@pytest.fixture
def client(database: Address) -> Iterator[TestClient]:
    """A client of a receiver of its own."""
    with TestClient(create_app(database)) as client:
        yield client
