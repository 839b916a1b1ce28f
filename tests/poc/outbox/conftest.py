from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where an outbox may be kept: a file that is not there yet."""
    return tmp_path / "outbox.db"
