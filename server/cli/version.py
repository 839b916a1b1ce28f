"""`hallmark --version`: what is installed here, read from files, nothing imported."""

import platform
from importlib.metadata import version

import typer

from hallmark.server.cli.consoles import print_or_drop

__all__ = ["print_version"]


def print_version(wanted: bool) -> None:
    """Print the versions of Hallmark, its protocol, vLLM, PyTorch and Python, and end."""
    if not wanted:
        return
    from hallmark.poc.protocol.streams import PROTOCOL

    rows = {
        "hallmark": version("hallmark-poc"),
        "protocol": PROTOCOL,
        "vllm": _vllm(),
        "torch": version("torch"),
        "python": platform.python_version(),
    }
    for name, found in rows.items():
        print_or_drop(f"{name:10}{found}")
    raise typer.Exit


def _vllm() -> str:
    from hallmark.poc.engine.pins import vllm_files
    from hallmark.poc.engine.versions import version_in

    try:
        return version_in(vllm_files())
    except ModuleNotFoundError:
        return "not installed"
