"""The help of every command."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from command_line import Cli

from hallmark.server.commands import app


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))
assert ("round", "start") in COMMANDS


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_no_word_is_lost(cli: Cli, path: tuple[str, ...]) -> None:
    shown = cli(*path, "--help")
    assert shown.code == 0
    words = set(shown.out.replace("│", " ").split())
    command = COMMANDS[path]
    texts = [command.help or "", *(getattr(parameter, "help", None) or "" for parameter in command.params)]
    assert texts[0]
    for text in texts:
        # The sign by which help keeps lines as they are is no word.
        assert set(inspect.cleandoc(text).split()) - words - {"\b"} == set()
