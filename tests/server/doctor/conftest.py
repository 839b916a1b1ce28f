import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from other_user import public_folder

from hallmark.poc.settings.settings import API_KEY_VARIABLE, WEBHOOK_SECRETS_VARIABLE

_SUPPORT = Path(__file__).parents[2] / "support"


@pytest.fixture(autouse=True)
def _of_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user's environment that says nothing, and a home in which nothing is."""
    for name in (
        API_KEY_VARIABLE,
        WEBHOOK_SECRETS_VARIABLE,
        "TRITON_CACHE_DIR",
        "TRITON_HOME",
        "VLLM_CACHE_ROOT",
        "VLLM_PLUGINS",
        "XDG_CACHE_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users may enter."""
    with public_folder() as path:
        yield path


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a library of a C file among the tests' helpers, for LD_PRELOAD."""

    def compile_(name: str) -> Path:
        path = tmp_path_factory.mktemp("library") / f"{name}.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", path, _SUPPORT / f"{name}.c", "-ldl"], check=True)
        return path

    return compile_
