"""systemd's units: systemd understands them, they stay hardened, and `hallmark` what they start."""

import re
import shlex
import shutil
import signal
import subprocess
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import typer
from checkout import ROOT
from debian_programs import program
from typer.core import TyperGroup

from hallmark.poc.core.errors import FieldError
from hallmark.poc.settings.secret_sources import API_KEY_VARIABLE, WEBHOOK_SECRETS_VARIABLE
from hallmark.server.cli.serve.ending import exit_code
from hallmark.server.cli.serve.plan import ServePlan, plan
from hallmark.server.cli.serve.vllm_flags import VllmFlags
from hallmark.server.commands import app

FOLDER = ROOT / "deploy" / "systemd"
COMMAND_LINE = ROOT / "docs" / "reference" / "command-line.md"
NODE = "hallmark-node@.service"
RECEIVER = "hallmark-receiver.service"
INSTALLED = {NODE: "hallmark-node@node.service", RECEIVER: RECEIVER}

TOKEN = "a token of the tests"  # noqa: S105  # no secret of anybody
WEBHOOK_SECRET = "whsec_" + "A" * 32
CREDENTIALS = {"api_key": TOKEN, "webhook_secrets": WEBHOOK_SECRET}

Unit = Mapping[str, list[str]]


def read(name: str) -> Unit:
    """The settings of a unit's file, each with its values in their order."""
    unit: dict[str, list[str]] = {}
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            unit.setdefault(key, []).append(value)
    return unit


def assignments(lines: list[str]) -> dict[str, str]:
    """Variables, as `Environment=` and the lines of an environment file set them."""
    words = [word for line in lines for word in (shlex.split(line) if line.startswith('"') else [line])]
    return dict(word.split("=", 1) for word in words)


def environment_file(name: str) -> dict[str, str]:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return assignments([line for line in lines if line and not line.startswith("#")])


def started(unit: Unit, environment: Mapping[str, str]) -> list[str]:
    """The words of `ExecStart=`, with `${NAME}` one word and `$NAME` as many as it holds."""
    [command] = unit["ExecStart"]
    words: list[str] = []
    for word in command.replace("%i", "node").split():
        if whole := re.fullmatch(r"\$(\w+)", word):
            words += environment[whole[1]].split()
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda found: environment[found[1]], word))
    return words


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with systemd's own units, ours, and a program where ours look for it."""
    units = tmp_path / "etc/systemd/system"
    hallmark = tmp_path / "opt/hallmark/bin/hallmark"
    for folder in (units, hallmark.parent):
        folder.mkdir(parents=True)
    hallmark.write_text("#!/bin/sh\n")
    hallmark.chmod(0o755)
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    for name in (NODE, RECEIVER):
        shutil.copy(FOLDER / name, units)
    return tmp_path


def verified(tree: Path, unit: str) -> tuple[int, str]:
    """Return the exit code of systemd's check of a unit, and what it says."""
    command = [
        program("systemd-analyze"),
        "verify",
        "--man=no",
        "--recursive-errors=yes",
        "--root",
        str(tree),
        unit,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def exposure(tree: Path, unit: str, threshold: int) -> tuple[int, str]:
    """Judge how much of the system a unit is exposed to; the threshold is in tenths."""
    command = [program("systemd-analyze"), "security", "--no-pager", "--offline=yes", "--root", str(tree)]
    done = subprocess.run(
        [*command, f"--threshold={threshold}", unit], capture_output=True, text=True, check=False
    )
    return done.returncode, (done.stdout + done.stderr)[-200:]


@pytest.mark.parametrize("name", [NODE, RECEIVER])
def test_systemd_understands_every_line(tree: Path, name: str) -> None:
    assert verified(tree, INSTALLED[name]) == (0, "")


@pytest.mark.parametrize(
    ("name", "line", "spoilt", "complaint"),
    [
        (NODE, "ProtectSystem=strict", "ProtectSystm=strict", "'ProtectSystm'"),
        (NODE, "KillMode=mixed", "KillMode=mixt", "kill mode"),
        (NODE, "~@clock", "~@clocks", "@clocks"),
        (RECEIVER, "@system-service", "@system-services", "@system-services"),
        (RECEIVER, "bin/hallmark", "bin/halmark", "halmark is not executable"),
    ],
)
def test_systemd_would_say_what_it_does_not_understand(
    tree: Path, name: str, line: str, spoilt: str, complaint: str
) -> None:
    path = tree / "etc/systemd/system" / name
    text = path.read_text(encoding="utf-8")
    assert line in text
    path.write_text(text.replace(line, spoilt), encoding="utf-8")
    code, said = verified(tree, INSTALLED[name])
    assert code != 0
    assert complaint in said


@pytest.mark.parametrize(("name", "threshold"), [(NODE, 25), (RECEIVER, 15)])
def test_a_service_is_exposed_to_little(tree: Path, name: str, threshold: int) -> None:
    code, said = exposure(tree, INSTALLED[name], threshold)
    assert code == 0, said
    path = tree / "etc/systemd/system" / name
    text = path.read_text(encoding="utf-8").replace("CapabilityBoundingSet=\n", "")
    path.write_text(text, encoding="utf-8")
    assert exposure(tree, INSTALLED[name], threshold)[0] != 0


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the node's unit starts with the example files, those and the secrets found in a folder."""
    unit = read(NODE)
    environment = assignments(unit["Environment"]) | environment_file("node.env.example")
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    [credentials], [bound] = unit["LoadCredential"], unit["BindReadOnlyPaths"]
    identifier, folder = credentials.split(":")
    assert folder in unit["AssertPathIsDirectory"]
    source, mounted = bound.split(":")
    assert source == "-%d"
    for name, secret in CREDENTIALS.items():
        (tmp_path / f"{identifier}_{name}").write_text(secret + "\n", encoding="utf-8")
    text = (FOLDER / "node.yaml.example").read_text(encoding="utf-8")
    assert f"# webhook_secrets_file: {mounted}/" in text
    text = text.replace("# webhook_secrets_file", "webhook_secrets_file").replace(mounted, str(tmp_path))
    (tmp_path / "node.yaml").write_text(text, encoding="utf-8")
    program_of_it, subcommand, *rest = started(unit, environment)
    assert (program_of_it, subcommand) == ("/opt/hallmark/bin/hallmark", "serve")
    return [word.replace("/etc/hallmark", str(tmp_path)) for word in rest]


def planned(words: Sequence[str]) -> ServePlan:
    return plan(words[0], words[1:], {})


def test_the_node_starts_with_the_settings_of_its_files(node: list[str]) -> None:
    started_with = planned(node)
    assert started_with.model == "Qwen/Qwen3-8B"
    assert started_with.address == ("0.0.0.0", 8000)  # noqa: S104  # compared, not bound
    assert started_with.api_key == TOKEN
    assert [secret.get_secret_value() for secret in started_with.settings.webhook_secrets] == [WEBHOOK_SECRET]


def test_the_node_keeps_its_outbox_and_its_caches_in_the_folders_that_systemd_makes(node: list[str]) -> None:
    unit = read(NODE)
    [state], [cache] = unit["StateDirectory"], unit["CacheDirectory"]
    assert planned(node).outbox == Path("/var/lib", state, "outbox-port-8000.db")
    environment = assignments(unit["Environment"])
    caches = [value for name, value in environment.items() if "CACHE" in name or name == "HF_HOME"]
    assert len(caches) == 5
    assert all(Path(value).is_relative_to(Path("/var/cache", cache)) for value in caches)


def test_vllm_reads_the_same_settings(node: list[str]) -> None:
    assert of_vllm(node).port == 8000
    settings = VllmFlags(node[1:]).get_mapping("additional-config")
    assert of_vllm(node).additional_config == settings
    assert settings["hallmark"].keys() == {"api_key_file", "webhook_secrets_file"}


def test_what_the_comments_say_of_other_forms_of_these_flags_is_so(node: list[str]) -> None:
    dotted = "--additional-config.hallmark.seq_len=64"
    assert of_vllm([*node, dotted]).additional_config == {"hallmark": {"seq_len": 64}}
    with pytest.raises(FieldError, match="one of both"):
        VllmFlags([*node[1:], dotted]).get_mapping("additional-config")
    model, flag, path = node
    assert of_vllm([model, f"{flag}={path}"]).additional_config == {}
    with pytest.raises(FieldError, match="in two words"):
        VllmFlags([f"{flag}={path}"])


def of_vllm(words: Sequence[str]) -> Namespace:
    """What vLLM's own parser makes of the command."""
    from vllm.entrypoints.cli.serve import cmd_init
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="vllm")
    cmd_init()[0].subparser_init(parser.add_subparsers(dest="subparser"))
    parsed: Namespace = parser.parse_args(["serve", *words])
    return parsed


def test_a_refusal_is_final_a_stop_is_none_and_all_else_is_tried_again(node: list[str]) -> None:
    unit = read(NODE)
    row = re.search(r"^\| `serve` \|(.*)\|$", COMMAND_LINE.read_text(encoding="utf-8"), re.MULTILINE)
    assert row is not None
    ended, died, refused = (cell.strip() for cell in row[1].split("|"))
    assert (ended[:8], "engine died" in died, refused) == ("it ended", True, "it was refused, in a sentence")
    assert unit["Restart"] == ["on-failure"]
    assert unit["RestartPreventExitStatus"] == ["2"]
    started_with = planned(node)
    # The server that a stop meets before it listens to signals.
    assert unit["SuccessExitStatus"] == [str(exit_code(started_with, -signal.SIGTERM, was_asked=True))]
    tried_again = {exit_code(started_with, code, was_asked=False) for code in (0, 1, -signal.SIGKILL)}
    assert tried_again.isdisjoint({0, 2, 143})


@pytest.mark.parametrize("is_configured", [True, False])
def test_the_receiver_understands_its_command(is_configured: bool) -> None:
    unit = read(RECEIVER)
    given = environment_file("receiver.env.example") if is_configured else {}
    environment = assignments(unit["Environment"]) | given
    program_of_it, subcommand, *words = started(unit, environment)
    assert (program_of_it, subcommand) == ("/opt/hallmark/bin/hallmark", "receiver")
    commands = typer.main.get_command(app)
    assert isinstance(commands, TyperGroup)
    options = commands.commands["receiver"].make_context("receiver", words).params
    assert options["database"] == str(Path("/var/lib", unit["StateDirectory"][0], "proofs.db"))
    assert options["port"] == 8099
    if is_configured:
        [credentials], [bound] = unit["LoadCredential"], unit["BindReadOnlyPaths"]
        folder = bound.removeprefix("-%d:")
        assert options["host"] == "0.0.0.0"  # noqa: S104  # compared, not bound
        assert options["secrets_file"] == Path(folder, f"{credentials.split(':')[0]}_webhook_secrets")
    else:
        assert (options["host"], options["secrets_file"]) == ("127.0.0.1", None)


def test_no_secret_is_in_an_environment() -> None:
    variables = {API_KEY_VARIABLE, WEBHOOK_SECRETS_VARIABLE}
    for name in (NODE, RECEIVER):
        assert variables.isdisjoint(assignments(read(name)["Environment"]))
    for path in FOLDER.glob("*.env.example"):
        assert variables.isdisjoint(environment_file(path.name))


def test_the_user_of_the_units_is_made(tmp_path: Path) -> None:
    done = subprocess.run(
        [program("systemd-sysusers"), "--dry-run", "--root", tmp_path, FOLDER / "hallmark.sysusers"],
        capture_output=True,
        text=True,
        check=True,
    )
    [user] = re.findall(r"Creating user '(\w+)'", done.stdout + done.stderr)
    assert all(read(name)["User"] == read(name)["Group"] == [user] for name in (NODE, RECEIVER))


def test_the_folders_that_the_units_ask_for_are_made() -> None:
    lines = (FOLDER / "hallmark.tmpfiles").read_text(encoding="utf-8").splitlines()
    entries = [line.split() for line in lines if not line.startswith("#")]
    modes = {path: mode for _, path, mode, *_ in entries}
    for name in (NODE, RECEIVER):
        [folder] = read(name)["AssertPathIsDirectory"]
        assert modes[folder.replace("%i", "node")] == "0700"
