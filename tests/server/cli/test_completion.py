"""`hallmark completion`: scripts that shells take, and what they complete."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Cli

BESIDE_PYTHON = Path(sys.executable).parent


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{BESIDE_PYTHON}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path, **variables},
        timeout=60,
    )


def script(*arguments: str, **variables: str) -> str:
    done = run("hallmark", "completion", *arguments, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "complete -o default -F _hallmark_completion hallmark"),
        ("zsh", "compdef _hallmark_completion hallmark"),
        (
            "fish",
            'complete --command hallmark --no-files --arguments "(env _HALLMARK_COMPLETE=complete_fish ',
        ),
    ],
)
def test_each_shell_has_its_script(shell: str, line: str) -> None:
    shown = script(shell)
    assert any(each.startswith(line) for each in shown.splitlines())
    assert script(SHELL=f"/usr/local/bin/{shell}") == shown, "the shell that $SHELL names"
    if shutil.which(shell):
        checked = run(shell, "-n", "-c", shown)
        assert (checked.returncode, checked.stderr) == (0, "")


@pytest.fixture(scope="module")
def bash_script() -> str:
    return script("bash")


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["ro"], ["round"]),
        (["re"], ["receiver"]),
        (["nothing"], []),
        (["round", ""], ["start", "status", "watch", "list", "validate", "stop"]),
        (["round", "sta"], ["start", "status"]),
        (["outbox", "list", "--de"], ["--dead-letters"]),
        (["round", "start", "--unt"], ["--until"]),
        (["round", "start", "--phase", "v"], ["validate"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
    ],
    ids=" ".join,
)
def test_bash_completes(bash_script: str, words: list[str], completed: list[str]) -> None:
    """The variables are as bash sets them for the function that a command is completed by."""
    quoted = " ".join(f"'{word}'" for word in ("hallmark", *words))
    asked = (
        f"{bash_script}\n"
        f"COMP_WORDS=({quoted}) COMP_CWORD={len(words)}\n"
        f"_hallmark_completion hallmark '{words[-1]}'\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = run("bash", "-c", asked)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split()) == sorted(completed)


@pytest.mark.parametrize(
    ("shell", "name"), [("/bin/csh", "csh"), ("tcsh", "tcsh"), ("/opt/bash/rc", "rc"), ("", ""), (None, "")]
)
def test_a_shell_that_has_no_script_is_a_sentence(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, shell: str | None, name: str
) -> None:
    if shell is None:
        monkeypatch.delenv("SHELL", raising=False)
    else:
        monkeypatch.setenv("SHELL", shell)
    result = cli("completion")
    assert (result.code, result.out) == (2, "")
    assert result.err == f"hallmark: SHELL: {name!r} is not allowed; allowed: bash, zsh, fish\n"


def test_a_shell_that_is_given_must_be_one_of_them(cli: Cli) -> None:
    result = cli("completion", "tcsh")
    assert (result.code, result.out) == (2, "")
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in result.err
