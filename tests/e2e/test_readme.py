"""The README's commands, from a checkout to a server that is ready, in a fresh environment."""

import os
import shlex
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from checkout import ROOT, copy_of_the_checkout

from hallmark.server.processes.child import ChildProcess, free_port

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.next, pytest.mark.timeout(1200)]


def commands() -> list[str]:
    """The block that installs Hallmark and serves a model, without its comments."""
    blocks = (ROOT / "README.md").read_text().split("```")[1::2]
    [block] = [block for block in blocks if "pip install ." in block]
    return [line.partition("#")[0].strip() for line in block.strip().splitlines()]


def environment_with_vllm(folder: Path) -> Path:
    """An environment in which vLLM is installed and Hallmark is not; what is here is found by a path file."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    [packages] = folder.glob("lib/*/site-packages")
    (packages / "with_vllm.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def test_the_readmes_commands_end_with_a_server_that_is_ready(small_model: Path, tmp_path: Path) -> None:
    try:
        version("vllm")
        installed = []
    except PackageNotFoundError:
        # The build for CPUs has another name, and pip would fetch the one for GPUs.
        installed = ["pip install vllm"]
    lines = [line for line in commands() if line not in installed]
    assert lines[-3:-1] == ["pip install .", "export HALLMARK_API_KEY=..."]
    # On a CPU, a smaller model; a server of a test listens on loopback.
    port = free_port()
    flags = ("--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--max-num-seqs", "32")
    model = f"{shlex.quote(str(small_model))} {shlex.join(flags)}"
    lines[-1] = "exec " + lines[-1].replace("Qwen/Qwen3-8B", model)
    assert lines[-1].startswith("exec hallmark serve /")

    environment = environment_with_vllm(tmp_path / "environment")
    source = copy_of_the_checkout(tmp_path / "checkout")
    script = "\n".join(["set -e", f"cd {shlex.quote(str(source))}", *lines])
    variables = {
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    with ChildProcess("bash", ["bash", "-c", script], log=tmp_path / "log", environment=variables) as process:
        log = tmp_path / "log"
        ready = f"hallmark: ready: http://127.0.0.1:{port}, chat at /v1, proof of compute at /api/v1/pow\n"
        try:
            process.wait_until(lambda: ready in log.read_text(errors="replace"), seconds=900)
        except Exception as error:
            error.add_note(process.log_tail(60))
            raise
        assert process.terminate(seconds=60) == 0
