"""`hallmark doctor` as a command: exit codes, what is printed where, nothing changed, no secret shown."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Cli
from findings import by_name
from terminal import picture

from hallmark.poc.settings.settings import API_KEY_VARIABLE, WEBHOOK_SECRETS_VARIABLE
from hallmark.poc.webhooks.signature import generate_secret
from hallmark.server.__main__ import main
from hallmark.server.cli.consoles import results, show
from hallmark.server.doctor.finding import Finding
from hallmark.server.doctor.report import view

TOKEN = "a-token-of-24-characters"  # noqa: S105  # of no server
SECRET = generate_secret()
SETTING = "--additional-config.hallmark."
CLOSED = "http://user:pw-of-it@127.0.0.1:1"
"""A server where none is."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


def test_all_is_well(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, TOKEN)
    monkeypatch.setenv(WEBHOOK_SECRETS_VARIABLE, SECRET)
    result = cli("doctor", "--json")
    found = by_name(result)
    assert (result.code, result.err) == (0, "")
    assert {name: found[name]["outcome"] for name in ("token", "secrets", "outbox", "model", "receiver")} == {
        "token": "ok",
        "secrets": "ok",
        "outbox": "ok",
        "model": "skipped",
        "receiver": "skipped",
    }
    assert [*home.parent.iterdir()] == [home]
    assert [*home.iterdir()] == []


def test_problems_with_secrets_all_around(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment, in files, on the command line and in URLs: none is shown, nor written anywhere."""
    monkeypatch.setenv(API_KEY_VARIABLE, TOKEN)
    (home / "token").write_text(TOKEN)
    (home / "secrets").write_text(SECRET)
    arguments = (
        *("doctor", CLOSED, "--api-key", TOKEN, "--receiver", CLOSED, "--"),
        *(f"{SETTING}api_key_file", home / "token", f"{SETTING}webhook_secrets_file", home / "secrets"),
        *(f"{SETTING}outbox_path", home / "token" / "outbox.db"),
    )
    as_json, as_text = cli(*arguments[:1], "--json", *arguments[1:]), cli(*arguments)
    found = by_name(as_json)
    assert as_text.code == as_json.code == 1
    problems = {name for name, each in found.items() if each["outcome"] == "problem"}
    assert problems == {"outbox", "receiver", "server"}
    unfolded = "".join(as_text.out.split())
    for name, each in found.items():
        # What is free changes from one run to the next.
        assert name in as_text.out
        assert name in ("memory", "triton cache", "vllm cache") or "".join(each["says"].split()) in unfolded
    for shown in (as_json.out, as_json.err, as_text.out, as_text.err):
        for secret in (TOKEN, SECRET, "pw-of-it"):
            assert secret not in shown
    assert {each.name for each in home.iterdir()} == {"token", "secrets"}
    assert [*home.parent.iterdir()] == [home]


@pytest.mark.parametrize("name", ["api_key", "webhook_secrets", "max_bacth_size"])
def test_a_setting_that_is_wrong(cli: Cli, name: str) -> None:
    """What depends on the settings is not judged by others; what does not is looked at all the same."""
    result = cli("doctor", "--json", "--model", "m", "--", f"{SETTING}{name}", TOKEN)
    found = by_name(result)
    assert found["settings"]["says"].startswith("hallmark")
    assert name in found["settings"]["says"]
    assert {name for name, each in found.items() if each["outcome"] == "problem"} == {"settings"}
    for skipped in ("model", "token", "secrets", "outbox", "receiver"):
        assert found[skipped]["outcome"] == "skipped"
        assert found[skipped]["says"] == "the settings are to be corrected first"
    assert found["vllm"]["outcome"] == found["plugins"]["outcome"] == "ok"
    assert name == "max_bacth_size" or TOKEN not in result.out


def test_a_model_is_not_asked_of_a_vllm_that_is_to_be_mended(cli: Cli, other_vllm: Path) -> None:
    (other_vllm / "_version.py").write_text("__version__ = '0.25.1'\n")
    found = by_name(cli("doctor", "--json", "--model", "m"))
    assert found["vllm"]["outcome"] == "problem"
    assert (found["model"]["outcome"], found["model"]["says"]) == ("skipped", "vLLM is to be mended first")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("http://a", "http://b"), "one server at a time"),
        (("http://a", "--", "model"), "one server at a time"),
        (("--no-such-option",), "No such option"),
        (("--host", "127.0.0.1"), "No such option"),
        (("http://user:pw-of-it@a:99999",), "allowed: http://HOST:PORT"),
    ],
)
def test_what_could_not_be_looked_at(cli: Cli, arguments: tuple[str, ...], told: str) -> None:
    result = cli("doctor", *arguments)
    assert (result.code, result.out) == (2, "")
    assert told in result.err
    assert "pw-of-it" not in result.err


FINDINGS = [
    Finding.ok("hallmark", "0.1.0"),
    Finding.warning("clock of the receiver", "it says " + "something long " * 9, "do " + "something " * 12),
    Finding.problem("outbox", "/var/lib/" + "a-long-name-without-spaces/" * 6 + "o.db", "move it\x1b[2Jaway"),
    Finding.skipped("model", "two\nlines"),
]


def test_eighty_columns_are_enough() -> None:
    """Nothing is cut, and nothing that a terminal obeys is shown."""
    shown = picture(lambda: show(results(), view(FINDINGS)), 80, 50)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    joined = "".join(lines).replace(" ", "")
    for finding in FINDINGS[:2]:
        assert finding.says.replace(" ", "") in joined
    assert FINDINGS[2].says in joined
    assert "move it\\x1b[2Jaway" in shown
    assert "two\\nlines" in shown
    assert lines[-1] == "1 problem, 1 warning, 1 in order, 1 not looked at."
    # What is broken goes on in its column.
    assert all(line.startswith((" " * 10, "✓", "!", "✗", "-")) for line in lines[:-2])


def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> None:
        monkeypatch.setattr(sys, "argv", ["hallmark", "doctor", CLOSED])
        main()

    shown = picture(run, 80, 60)
    assert max(map(len, shown.splitlines())) <= 80
    assert "✗  server" in shown
    assert shown.splitlines()[-1].startswith("1 problem, ")


def test_nobody_reads_on() -> None:
    """The exit code is the verdict's all the same."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        command = [sys.executable, "-P", "-m", "hallmark.server", "doctor", CLOSED, "--json"]
        done = subprocess.run(
            command,
            stdout=closed,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_json_is_one_line(cli: Cli) -> None:
    result = cli("doctor", "--json")
    assert len(result.out.splitlines()) == 1
    assert json.loads(result.out)["passed"] is True
