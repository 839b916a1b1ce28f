"""What `hallmark demo` refuses before it starts anything."""

from pathlib import Path

import pytest
from command_line import Cli

pytestmark = pytest.mark.server


def test_a_directory_that_cannot_be_written_to_is_a_sentence(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (Path("/proc/x"), Path("/proc/self"), tmp_path / "file", tmp_path / "file" / "below"):
        result = cli("demo", "--directory", path)
        assert result.code == 2
        assert result.err.startswith(f"hallmark: --directory: '{path}' is not allowed; allowed: a folder")
        assert len(result.err.splitlines()) == 1
