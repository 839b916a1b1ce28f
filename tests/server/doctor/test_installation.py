"""What is wrong with an installation, each made wrong for real: packages, entry points, caches."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from findings import only
from other_user import as_nobody
from small_disk import small_file_system

import hallmark.server
from hallmark.server.doctor.finding import Finding, examine
from hallmark.server.doctor.installation import (
    examine_caches,
    examine_hallmark,
    examine_plugins,
    examine_vllm,
)

TESTED = "install a version that is tested: 0.26 to 0.33"
ENTRY_POINTS = """
[vllm.general_plugins]
hallmark = {general}
[vllm.endpoint_plugins]
hallmark_api = {endpoint}
"""


def test_the_version_and_the_protocol() -> None:
    assert only(examine_hallmark()) == ("ok", "0.1.0, protocol hallmark/2", None)


def test_the_installed_vllm() -> None:
    outcome, says, _ = only(examine_vllm(allow_unsupported=False))
    assert outcome == "ok"
    assert says.endswith(", tested with 0.26 to 0.33; all that Hallmark uses is there")


def test_a_vllm_that_is_too_old(other_vllm: Path) -> None:
    (other_vllm / "_version.py").write_text("__version__ = version = '0.25.1'\n")
    for allowed in (False, True):
        told = "vLLM 0.25.1 is too old: it has no endpoint plugins. Hallmark is tested with 0.26 to 0.33"
        assert only(examine_vllm(allow_unsupported=allowed)) == ("problem", told, TESTED)


def test_a_newer_vllm_that_lacks_what_is_needed(other_vllm: Path) -> None:
    (other_vllm / "_version.py").write_text("__version__ = version = '0.34.0'\n")
    outcome, says, remedy = only(examine_vllm(allow_unsupported=False))
    assert (outcome, remedy) == ("problem", TESTED)
    assert "plugin.register needs WorkerBase in vllm/v1/worker/worker_base.py, which is not there" in says
    outcome, says, remedy = only(examine_vllm(allow_unsupported=True))
    assert (outcome, remedy) == ("warning", f"try it before you rely on it, or {TESTED}")
    assert "starts only because allow_unsupported_vllm is set" in says


def test_a_tested_vllm_whose_files_are_not_those_of_its_release(other_vllm: Path) -> None:
    (other_vllm / "_version.py").write_text("__version__ = version = '0.32.0'\n")
    outcome, says, remedy = only(examine_vllm(allow_unsupported=False))
    assert outcome == "problem"
    assert says.startswith("0.32.0 is tested, and lacks what that release has: ")
    assert remedy == "install it anew: its files were changed, or its installation was cut off"


def test_a_newer_vllm_that_has_every_part(other_vllm: Path) -> None:
    """The installed one's files under another version."""
    (other_vllm / "__init__.py").unlink()
    for file in (_site_packages() / "vllm").iterdir():
        if file.name != "_version.py":
            (other_vllm / file.name).symlink_to(file)
    (other_vllm / "_version.py").write_text("__version__ = version = '0.34.0'\n")
    outcome, says, remedy = only(examine_vllm(allow_unsupported=False))
    assert (outcome, remedy) == ("warning", f"try it before you rely on it, or {TESTED}")
    assert says.endswith("Every part of it that Hallmark uses is there, so it starts")


def _site_packages() -> Path:
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[1]


_EXAMINE_VLLM = """
import json
from hallmark.server.doctor.finding import examine
from hallmark.server.doctor.installation import examine_vllm
[finding] = examine("vllm", lambda: examine_vllm(allow_unsupported=False), "")
print(json.dumps([finding.outcome, finding.says, finding.remedy]))
"""


def test_an_environment_without_vllm(tmp_path: Path) -> None:
    """Every package of this one is in it but vLLM."""
    (tmp_path / "hallmark").mkdir()
    for name in ("kernels", "poc", "server"):
        (tmp_path / "hallmark" / name).symlink_to(Path(hallmark.server.__path__[0]).parent / name)
    for package in _site_packages().iterdir():
        if not package.name.startswith(("vllm", "__")):
            (tmp_path / package.name).symlink_to(package)
    done = subprocess.run(
        # Without the environment's own folder of packages.
        [sys.executable, "-S", "-P", "-c", _EXAMINE_VLLM],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=True,
        text=True,
    )
    told = f"vLLM is not installed in the environment of {sys.executable}"
    assert json.loads(done.stdout) == ["problem", told, "pip install vllm puts it there"]


def plugins(**environment: str) -> list[Finding]:
    return examine("plugins", lambda: examine_plugins(environment), "install Hallmark anew")


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of distributions in front of all others."""
    path = tmp_path / "packages"
    path.mkdir()
    monkeypatch.syspath_prepend(path)
    return path


def install(packages: Path, name: str, entry_points: str = "") -> None:
    """Write what pip leaves of a distribution; of two with one name the first is the one that counts."""
    metadata = packages / f"{name}-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)


ONCE = "install Hallmark once, into the environment that has vLLM"


class TestPlugins:
    """The entry points by which vLLM finds Hallmark."""

    def test_all_is_well(self) -> None:
        assert only(plugins()) == ("ok", "hallmark and hallmark_api load", None)

    def test_neither_is_installed(self, packages: Path) -> None:
        install(packages, "hallmark_poc")
        told = "the entry point hallmark of vllm.general_plugins is not installed"
        assert only(plugins()) == ("problem", told, ONCE)

    def test_one_is_not_installed(self, packages: Path) -> None:
        install(packages, "hallmark_poc", "[vllm.general_plugins]\nhallmark = json:dumps\n")
        told = "the entry point hallmark_api of vllm.endpoint_plugins is not installed"
        assert only(plugins()) == ("problem", told, ONCE)

    def test_one_is_installed_twice(self, packages: Path) -> None:
        install(packages, "another", "[vllm.endpoint_plugins]\nhallmark_api = json:dumps\n")
        told = "the entry point hallmark_api of vllm.endpoint_plugins is installed 2 times"
        assert only(plugins()) == ("problem", told, ONCE)

    @pytest.mark.parametrize(
        ("general", "endpoint", "told"),
        [
            ("hallmark_gone:register", "json:dumps", "ModuleNotFoundError: No module named 'hallmark_gone'"),
            ("json:dumps", "json:nothing", "AttributeError: module 'json' has no attribute 'nothing'"),
        ],
    )
    def test_one_cannot_be_loaded(self, packages: Path, general: str, endpoint: str, told: str) -> None:
        install(packages, "hallmark_poc", ENTRY_POINTS.format(general=general, endpoint=endpoint))
        assert only(plugins()) == ("problem", told, "install Hallmark anew")

    @pytest.mark.parametrize(
        ("allowed", "missing"),
        [("", "hallmark and hallmark_api"), ("hallmark", "hallmark_api"), ("hallmark_api,x", "hallmark")],
    )
    def test_they_are_left_out(self, allowed: str, missing: str) -> None:
        assert only(plugins(VLLM_PLUGINS=allowed)) == (
            "warning",
            f"VLLM_PLUGINS leaves out {missing}",
            "start by hallmark serve, which adds them; vllm serve needs hallmark,hallmark_api in it",
        )

    def test_they_are_let_in(self) -> None:
        assert only(plugins(VLLM_PLUGINS="x,hallmark_api,hallmark"))[0] == "ok"


def caches(**environment: object) -> dict[str, tuple[str, str, str | None]]:
    found = examine_caches({name: str(value) for name, value in environment.items()})
    return {finding.name: only([finding]) for finding in found}


class TestCaches:
    """The folders in which compilers keep what they make."""

    def test_all_is_well(self, tmp_path: Path) -> None:
        found = caches(HOME=tmp_path)
        assert [outcome for outcome, *_ in found.values()] == ["ok", "ok"]
        assert found["triton cache"][1].startswith(f"{tmp_path}/.triton/cache, ")
        assert found["vllm cache"][1].startswith(f"{tmp_path}/.cache/vllm, ")
        assert not [*tmp_path.iterdir()]

    def test_a_file_is_in_the_place_of_a_folder(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.touch()
        found = caches(HOME=tmp_path, TRITON_CACHE_DIR=file, XDG_CACHE_HOME=file / "below")
        assert found["triton cache"] == (
            "warning",
            f"{file}: {file} is no folder",
            "set TRITON_CACHE_DIR to a folder that is writable",
        )
        assert found["vllm cache"] == (
            "warning",
            f"{file}/below/vllm: {file} is no folder",
            "set VLLM_CACHE_ROOT to a folder that is writable",
        )

    def test_a_folder_is_another_users(self, public: Path) -> None:
        found = as_nobody(lambda: caches(HOME=public))
        assert found["triton cache"] == (
            "warning",
            f"{public}/.triton/cache: {public} cannot be written by this user",
            "set TRITON_CACHE_DIR to a folder that is writable",
        )

    def test_the_home_is_another_users_who_lets_nobody_in(self, public: Path) -> None:
        (public / "root" / ".triton").mkdir(parents=True)
        (public / "root").chmod(0o700)
        found = as_nobody(lambda: caches(HOME=public / "root"))
        assert found["triton cache"][:2] == (
            "warning",
            f"{public}/root/.triton/cache: {public}/root cannot be written by this user",
        )

    def test_a_disk_has_little_room(self, tmp_path: Path) -> None:
        with small_file_system(tmp_path / "disk", 2**20) as disk:
            found = caches(HOME=tmp_path, VLLM_CACHE_ROOT=disk.path / "vllm")
        assert found["vllm cache"] == (
            "warning",
            f"{tmp_path}/disk/vllm: 1.0 MB are free",
            "make room, or move it",
        )

    def test_a_disk_is_read_only(self, tmp_path: Path) -> None:
        with small_file_system(tmp_path / "disk", 2**20) as disk:
            subprocess.run(["mount", "-o", "remount,ro", disk.path], check=True)
            found = caches(HOME=tmp_path, TRITON_CACHE_DIR=disk.path / "triton")
        assert found["triton cache"][1] == (
            f"{tmp_path}/disk/triton: {tmp_path}/disk cannot be written by this user"
        )
