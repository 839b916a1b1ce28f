"""The wheel as it is built: names, types, entry points, and nothing that shadows another package."""

import subprocess
import sys
import zipfile
from configparser import ConfigParser
from importlib.metadata import entry_points

import pytest
from checkout import ROOT, copy_of_the_checkout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    source = copy_of_the_checkout(folder / "source")
    subprocess.run(
        [sys.executable, "-P", "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source],
        check=True,
        capture_output=True,
    )
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_everything_is_inside_the_namespace(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}
    assert tops == {"hallmark"}, "a top-level `kernels` would be taken for Hugging Face's package"


def test_every_module_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    modules = {
        f"hallmark/{path.relative_to(ROOT)}"
        for folder in ("kernels", "poc", "server")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert modules <= set(wheel.namelist())


def test_the_package_is_typed_and_licensed(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    for part in ("kernels", "poc", "server"):
        assert f"hallmark/{part}/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_entry_points_are_declared_and_load(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    declared = ConfigParser()
    declared.read_string(wheel.read(name).decode())
    assert declared["console_scripts"]["hallmark"] == "hallmark.server.__main__:main"
    for group, key in (("vllm.general_plugins", "hallmark"), ("vllm.endpoint_plugins", "hallmark_api")):
        assert declared[group][key]
        (installed,) = entry_points(group=group, name=key)
        assert installed.value == declared[group][key]
        assert callable(installed.load())
