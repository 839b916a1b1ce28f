"""The small model, provers that have it, and receivers' stores with what they delivered."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from offline_proofs import Prover
from postgresql_server import PostgresServer

from hallmark.server.models.small import build_small_model
from hallmark.server.receiver.store import BatchStore


@pytest.fixture(scope="package")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verification") / "model"
    build_small_model(path)
    return path


@pytest.fixture(scope="package")
def prover(directory: Path) -> Prover:
    return Prover(directory)


@pytest.fixture
def url(postgresql: PostgresServer) -> str:
    """An empty database."""
    return postgresql.new_database()


@pytest.fixture
def store(url: str) -> Iterator[BatchStore]:
    with closing(BatchStore(url)) as store:
        yield store
