"""`hallmark verify` with the small model."""

from pathlib import Path

import pytest
from command_line import Cli, Result
from offline_proofs import SHORT


@pytest.fixture
def verify(cli: Cli, directory: Path) -> Cli:
    """Runs the command with the small model and short batches; later options override."""

    def run(*arguments: object) -> Result:
        return cli("verify", "--model", directory, *SHORT, *arguments)

    return run
