"""The small model, a node that has it, and `hallmark verify` with it."""

from pathlib import Path

import pytest
from command_line import Cli, Result
from offline_proofs import SHORT, Prover

from hallmark.server.models.small import build_small_model


@pytest.fixture(scope="package")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("offline") / "model"
    build_small_model(path)
    return path


@pytest.fixture(scope="package")
def prover(directory: Path) -> Prover:
    return Prover(directory)


@pytest.fixture
def verify(cli: Cli, directory: Path) -> Cli:
    """Runs the command with the small model and short batches; later options override."""

    def run(*arguments: object) -> Result:
        return cli("verify", "--model", directory, *SHORT, *arguments)

    return run
