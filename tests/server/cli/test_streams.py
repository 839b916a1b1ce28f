"""Whatever becomes of a command's streams, its exit code is its own: 1 is a verdict."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from builders import BATCH

from hallmark.server.cli.tables import text
from hallmark.server.receiver.store import BatchStore

HALLMARK = (sys.executable, "-P", "-m", "hallmark.server")


def code_without_a_reader(*arguments: str) -> int:
    """The exit code of a command whose output and errors nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.run([*HALLMARK, *arguments], stdout=writing, stderr=writing).returncode
    finally:
        os.close(writing)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("verify", "missing.json", "--model", "missing"), 2),
        (("receiver", "list", "--database", "missing.db"), 2),
        (("round", "status", "http://127.0.0.1:1"), 2),
        (("rond",), 2),
        (("--help",), 2),
        (("--version",), 0),
        (("secret",), 0),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else str(each),
)
def test_a_reader_that_has_gone_is_no_verdict(arguments: tuple[str, ...], code: int) -> None:
    assert code_without_a_reader(*arguments) == code


def run(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'"$0" -P -m hallmark.server {line}', sys.executable],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_output_that_is_closed_goes_nowhere() -> None:
    assert run("secret >&-").returncode == 0
    assert run("target --hidden-size 64 --valid-rate 1 >&-").returncode == 0


def test_a_log_on_a_full_disk_costs_no_verdict() -> None:
    for line in ("round status http://127.0.0.1:1", "rond", "verify missing.json --model missing"):
        assert run(f"{line} 2>/dev/full").returncode == 2, line


def test_errors_that_are_closed_go_nowhere() -> None:
    assert run("round status http://127.0.0.1:1 2>&-").returncode == 2


def test_a_full_disk_is_a_sentence() -> None:
    result = run("secret > /dev/full")
    assert result.returncode == 2
    assert result.stderr == "hallmark: standard output cannot be written: No space left on device\n"


def test_signs_that_a_locale_has_not_cost_nothing(tmp_path: Path) -> None:
    database = tmp_path / "proofs.db"
    with closing(BatchStore(database)) as store:
        store.add("generated", {**BATCH, "public_key": "clé"}, None)
    result = run(f"receiver list --database {database}", PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert "cl\\xe9" in result.stdout


def test_what_provers_send_makes_no_lines_and_obeys_to_no_terminal() -> None:
    assert text("key\n2: honest\x1b[31m[red]").plain == "key\\n2: honest\\x1b[31m[red]"
