"""A node with the small model."""

import pytest
from offline_proofs import Prover

from hallmark.server.models.small import build_small_model


@pytest.fixture(scope="package")
def prover(tmp_path_factory: pytest.TempPathFactory) -> Prover:
    path = tmp_path_factory.mktemp("proving") / "model"
    build_small_model(path)
    return Prover(path)
