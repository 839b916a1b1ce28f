"""`hallmark completion`: let a shell complete commands and options."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hallmark.poc.core.errors import FieldError

__all__ = ["Shell", "completion"]

_VARIABLE = "_HALLMARK_COMPLETE"


class Shell(StrEnum):
    """The shells that there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    context: typer.Context,
    shell: Annotated[Shell | None, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")] = None,
) -> None:
    """Print the script that lets a shell complete commands.

    Without SHELL it is the shell that $SHELL names. For this session: source <(hallmark completion bash).
    For good, put that line into ~/.bashrc or ~/.zshrc; for fish, write the script to
    ~/.config/fish/completions/hallmark.fish.
    """
    if shell is None:
        name = Path(os.environ.get("SHELL", "")).name
        if name not in [*Shell]:
            raise FieldError("SHELL", name, ", ".join(Shell))
        shell = Shell(name)
    # What typer's command line answers with its script.
    os.environ[_VARIABLE] = f"source_{shell}"
    context.find_root().command.main(args=[], prog_name="hallmark", complete_var=_VARIABLE)
