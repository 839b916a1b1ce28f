"""`hallmark verify` with the small model."""

from pathlib import Path

import pytest
from command_line import Cli, Result
from offline_proofs import SHORT, Prover

from hallmark.poc.protocol.proof import ProofBatch


@pytest.fixture
def verify(cli: Cli, directory: Path) -> Cli:
    """Runs the command with the small model and short batches; later options override."""

    def run(*arguments: object) -> Result:
        return cli("verify", "--model", directory, *SHORT, *arguments)

    return run


@pytest.fixture(scope="module")
def honest(request: pytest.FixtureRequest, prover: Prover) -> ProofBatch:
    """An honest batch of the first nonces, as many as the file's HONEST_NONCES says."""
    return prover.prove(range(request.module.HONEST_NONCES))
