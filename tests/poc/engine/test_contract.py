"""Contract tests: each part of vLLM that `poc/engine/` uses, on what every tested version has in its place.

What the versions have is kept as data (`vllm_symbols/`), made by tools/check_vllm_release.py, so that no
release has to be downloaded. A failure names who needs the part.
"""

import ast
from pathlib import Path

import pytest
from _symbols import Symbols, known_versions, symbols_of

from hallmark.poc.engine.pins import PINS, Call, Definition, Pin, check, missing_pins, vllm_files
from hallmark.poc.engine.versions import FIRST_VERSION, LAST_VERSION, version_in

ROOT = Path(__file__).resolve().parents[3]
ENGINE = ROOT / "poc" / "engine"


def minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2])


@pytest.mark.parametrize("pin", PINS, ids=lambda pin: pin.key)
@pytest.mark.parametrize("version", known_versions())
def test_a_tested_version_has_what_the_engine_side_uses(version: str, pin: Pin) -> None:
    assert check(pin, Symbols.load(version).of(pin)) == []


def test_the_range_ends_with_versions_whose_parts_are_known() -> None:
    assert minor(known_versions()[0]) == FIRST_VERSION
    assert minor(known_versions()[-1]) == LAST_VERSION


def test_the_data_of_the_installed_version_are_what_it_has() -> None:
    read = vllm_files()
    version = version_in(read)
    assert version in known_versions(), "run tools/check_vllm_release.py --save"
    import vllm

    assert vllm.__version__ == version
    assert symbols_of(version, read, []).definitions == Symbols.load(version).definitions
    assert missing_pins(read) == []


def test_a_pin_has_a_key_of_its_own() -> None:
    assert len({pin.key for pin in PINS}) == len(PINS)


def test_whoever_needs_a_part_is_there() -> None:
    """A refusal names them, so that they can be found."""
    for pin in PINS:
        for needed_by in pin.needed_by.split(":")[0].split(", "):
            module, *names = needed_by.split(" ")[0].split(".")
            path = ROOT / "server" / "http" / "plugin.py" if module == "server" else ENGINE / f"{module}.py"
            assert all(name in path.read_text() for name in names), needed_by


def test_every_import_from_vllm_is_pinned() -> None:
    """A new use of vLLM's internals in poc/engine/ must come with a pin."""
    modules = {"logger"}  # read with a default, since not every version has what is asked of it
    pinned = {pin.symbol for pin in PINS} | modules
    used = {
        (path.name, alias.name)
        for path in ENGINE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm"
        for alias in node.names
    }
    assert used, "poc/engine/ imports vLLM"
    unpinned = sorted(f"{file}: {name}" for file, name in used if name not in pinned)
    assert not unpinned


def test_only_the_engine_folder_imports_vllm() -> None:
    offenders = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("kernels", "poc", "server")
        for path in (ROOT / folder).rglob("*.py")
        if ENGINE not in path.parents
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "vllm" for alias in node.names))
    ]
    assert not offenders


SOURCE = """
class Layer:
    size: int = 3

    def __init__(self, wide):
        self.width = wide
        local = 1

    @property
    def area(self): ...

    def run(self, x, *, fast=False, **more): ...


@dataclass
class Batch:
    first: int
    second: int = 2


def build(config, *, device=None): ...
"""


def missing(pin: Pin, source: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("hallmark.poc.engine.pins.PINS", (pin,))

    def read(file: str) -> str:
        if file != "file.py":
            raise FileNotFoundError(file)
        return source

    return missing_pins(read)


@pytest.mark.parametrize(
    ("pin", "problem"),
    [
        (Pin("file.py", "Layer", ("size", "width", "area", Call("run", ("x", "fast")))), None),
        (Pin("file.py", "Layer", (Call("run", ("x", "slow")),)), None),  # it takes any keyword
        (Pin("file.py", "Batch", arguments=("first",)), None),
        (Pin("file.py", "build", arguments=("config", "device")), None),
        (Pin("other.py", "Layer"), "needs Layer in vllm/other.py, which is not there"),
        (Pin("file.py", "Other"), "needs Other in vllm/file.py, which is not there"),
        (Pin("file.py", "Layer", ("local",)), "needs local of Layer in vllm/file.py, which has none"),
        (
            Pin("file.py", "Layer", (Call("size", ()),)),
            "calls size of Layer in vllm/file.py, which is no method",
        ),
        (
            Pin("file.py", "Layer", (Call("run", ()),)),
            "calls run of Layer in vllm/file.py, which now wants x too",
        ),
        (Pin("file.py", "Batch", arguments=()), "calls Batch in vllm/file.py, which now wants first too"),
        (
            Pin("file.py", "Batch", arguments=("first", "third")),
            "calls Batch in vllm/file.py, which takes no third",
        ),
        (
            Pin("file.py", "build", arguments=("stream",)),
            "calls build in vllm/file.py, which takes no stream",
        ),
    ],
)
def test_what_is_gone_is_named(pin: Pin, problem: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = missing(pin, SOURCE, monkeypatch)
    assert found == ([] if problem is None else [f" {problem}"])


@pytest.mark.parametrize("version", known_versions())
def test_every_pin_would_be_missed(version: str) -> None:
    """Each member that a definition lacks is a problem of its own, on every version's real definitions."""
    symbols = Symbols.load(version)
    members = ((pin, member) for pin in PINS for member in pin.members)
    for pin, member in members:
        definition = symbols.of(pin)
        assert definition is not None
        name = member if isinstance(member, str) else member.name
        without = {kept: how for kept, how in definition.members.items() if kept != name}
        [problem] = check(pin, Definition(definition.signature, without))
        assert problem.startswith(f"{pin.needed_by} needs {name} of {pin.symbol}")
