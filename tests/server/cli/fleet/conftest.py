from pathlib import Path

import pytest
from command_line import Cli
from fleets import Fleet


@pytest.fixture
def fleet(cli: Cli, tmp_path: Path) -> Fleet:
    return Fleet(cli, tmp_path / "fleet.toml")
