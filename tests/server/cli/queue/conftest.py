"""The small model, a prover that has it, and an empty database for receivers."""

from pathlib import Path

import pytest
from offline_proofs import Prover
from postgresql_server import PostgresServer

from hallmark.server.models.small import build_small_model


@pytest.fixture(scope="package")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("queue") / "model"
    build_small_model(path)
    return path


@pytest.fixture(scope="package")
def prover(directory: Path) -> Prover:
    return Prover(directory)


@pytest.fixture
def url(postgresql: PostgresServer) -> str:
    return postgresql.new_database()
