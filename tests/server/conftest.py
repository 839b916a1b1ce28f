"""Running the command line inside the test."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Cli, Result
from offline_proofs import Prover
from postgresql_server import PostgresServer, running

from hallmark.server.__main__ import main
from hallmark.server.models.small import build_small_model
from hallmark.server.receiver.database import Address


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs `hallmark` with the given arguments; may be called from a thread, one at a time."""
    for variable in ("HALLMARK_API_KEY", "HALLMARK_RECEIVER_DATABASE"):
        monkeypatch.delenv(variable, raising=False)
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


@pytest.fixture
def other_vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that Python finds as the package `vllm`, in the place of the installed one."""
    package = tmp_path / "packages" / "vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.syspath_prepend(package.parent)
    return package


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model."""
    path = tmp_path_factory.mktemp("small") / "model"
    build_small_model(path)
    return path


@pytest.fixture(scope="session")
def prover(directory: Path) -> Prover:
    """A node that has it."""
    return Prover(directory)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    """A PostgreSQL server, for databases that each test makes for itself."""
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    """Where batches may be kept: a file that is not there yet, or an empty database."""
    if request.param == "sqlite":
        return tmp_path / "receiver.db"
    url: str = request.getfixturevalue("url")
    return url


@pytest.fixture
def url(postgresql: PostgresServer) -> str:
    """An empty database."""
    return postgresql.new_database()
