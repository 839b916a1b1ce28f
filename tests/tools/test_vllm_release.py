"""What is told of a release of vLLM, and how it is laid over the installed build."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import _release
import check_vllm_release
import pytest
import vllm_overlay
from _symbols import Symbols, cache_users, known_versions

from hallmark.poc.engine.pins import PINS, vllm_files

MODEL = "class Attention:\n    def forward(self):\n        return self.attn.kv_cache, self.kv_cache\n"
METADATA = (
    "Metadata-Version: 2.4\nName: vllm\nVersion: 9.9.9\nRequires-Python: >=3.11\nRequires-Dist: torch==9.0\n"
)

Build = Callable[..., None]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Makes a release 9.9.9 of the installed vLLM's pinned files, some of them changed."""
    monkeypatch.setattr(_release, "WHEELS", tmp_path)

    def build(changes: dict[str, str] | None = None) -> None:
        read = vllm_files()
        files = {pin.file: read(pin.file) for pin in PINS} | {"models/new.py": MODEL} | (changes or {})
        with zipfile.ZipFile(tmp_path / "vllm-9.9.9-cp38-abi3-manylinux_2_28_x86_64.whl", "w") as wheel:
            for file, text in files.items():
                wheel.writestr(f"vllm/{file}", text)
            wheel.writestr("vllm/_C.abi3.so", "for another chip")
            wheel.writestr("vllm-9.9.9.dist-info/METADATA", METADATA)

    return build


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["check_vllm_release.py", "9.9.9"])
    code = check_vllm_release.main()
    return code, " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_a_release_that_has_everything_may_be_tried(
    build: Build, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build()
    code, text = told(monkeypatch, capsys)
    assert code == 0
    assert f"all {len(PINS)} are there" in text
    assert "models/new.py: self.attn.kv_cache" in text
    assert "torch ==9.0" in text
    assert text.endswith("Next: make test-next VERSION=9.9.9")


def test_what_a_release_lacks_and_what_it_has_changed_is_told(
    build: Build, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward_context = vllm_files()("forward_context.py")
    build({"forward_context.py": forward_context.replace("skip_compiled: bool", "skip: bool")})
    code, text = told(monkeypatch, capsys)
    assert code == 1
    assert "forward.ModelForward calls create_forward_context" in text
    assert "takes no skip_compiled" in text
    assert "forward_context.py:create_forward_context: (" in text
    assert "Next:" not in text


def test_a_release_that_cannot_be_had_ends_with_another_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_release, "WHEELS", tmp_path)
    # No index at all, so that nothing is asked of a network.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SystemExit) as ended:
        _release.fetch("9.9.9")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("cannot download vllm==9.9.9: ")
    assert list(tmp_path.iterdir()) == []


def test_models_that_reach_for_a_cache_are_found() -> None:
    assert cache_users(lambda _: MODEL, ["models/new.py"]) == {"models/new.py": ("self.attn.kv_cache",)}
    newest = Symbols.load(known_versions()[-1])
    for model in ("models/beam/nvidia/attention.py", "models/flint/model.py"):
        assert "self.attn.kv_cache" in newest.cache_users[model], "vLLM 0.33 has two that write there"


def test_an_overlay_has_the_releases_python_and_the_installed_extension(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build({"__init__.py": "", "_version.py": "__version__ = '9.9.9'\n", "data.json": "{}"})
    (tmp_path / "none.txt").touch()
    monkeypatch.setattr(vllm_overlay, "REQUIREMENTS", tmp_path / "none.txt")
    overlay = tmp_path / "overlay"
    vllm_overlay.make_overlay("9.9.9", overlay)
    assert (overlay / "vllm" / "data.json").exists()
    extensions = sorted((overlay / "vllm").rglob("*.so"))
    assert extensions
    assert all(path.is_symlink() and path.stat().st_size > 1000 for path in extensions)
    script = (
        "from importlib.metadata import version\n"
        "from hallmark.poc.engine.pins import vllm_files\n"
        "from hallmark.poc.engine.versions import version_in\n"
        "print(version('vllm'), version_in(vllm_files()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(overlay)}
    result = subprocess.run(
        [sys.executable, "-P", "-c", script], env=environment, capture_output=True, text=True
    )
    assert result.stdout == "9.9.9+cpu 9.9.9\n", result.stderr
