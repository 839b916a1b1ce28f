"""Running the command line inside the test."""

import sys

import pytest
from command_line import Cli, Result

from hallmark.server.__main__ import main


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs `hallmark` with the given arguments; may be called from a thread, one at a time."""
    monkeypatch.delenv("HALLMARK_API_KEY", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["hallmark", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        code = exit_.value.code
        return Result(code if isinstance(code, int) else 0, out, err)

    return run
