"""`hallmark --version`: what is installed, without importing it."""

import platform
import subprocess
import sys
from importlib.metadata import version

import pytest
from command_line import Cli

from hallmark.poc.engine.pins import vllm_files
from hallmark.poc.engine.versions import version_in
from hallmark.poc.protocol.streams import PROTOCOL


def test_every_version_has_a_line(cli: Cli) -> None:
    shown = cli("--version")
    assert (shown.code, shown.err) == (0, "")
    assert [line.split() for line in shown.out.splitlines()] == [
        ["hallmark", version("hallmark-poc")],
        ["protocol", PROTOCOL],
        ["vllm", version_in(vllm_files())],
        ["torch", version("torch")],
        ["python", platform.python_version()],
    ]


def test_a_vllm_that_is_not_there_is_said_to_be_not(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    shown = cli("--version")
    assert shown.code == 0
    assert "vllm      not installed" in shown.out.splitlines()


def test_it_comes_before_any_command(cli: Cli) -> None:
    assert cli("--version", "round", "nothing").out == cli("--version").out


def test_nothing_large_is_imported() -> None:
    script = (
        "import atexit, sys\n"
        "large = ['torch', 'vllm', 'transformers', 'triton', 'numpy']\n"
        "atexit.register(lambda: print(*[name for name in large if name in sys.modules], sep=','))\n"
        "sys.argv = ['hallmark', '--version']\n"
        "from hallmark.server.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
