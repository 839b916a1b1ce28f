"""Progress: lines where there is no terminal."""

import io
import re

import pytest
from rich.console import Console

from hallmark.server.cli.steps import Steps


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    return Console(file=output, force_terminal=terminal, width=80), output


def test_off_a_terminal_a_step_is_announced_and_concluded() -> None:
    target, output = console(terminal=False)
    with Steps(target).step("Count [things]") as update:
        assert output.getvalue() == "Count [things] ...\n"
        update("1 so far")
        update("2 in all")
    assert re.fullmatch(
        r"Count \[things\] \.\.\.\n✓ Count \[things\]: 2 in all \(\d+ s\)\n", output.getvalue()
    )


def test_on_a_terminal_the_spinner_gives_way_to_the_conclusion() -> None:
    target, output = console(terminal=True)
    with Steps(target).step("Count") as update:
        update("2 in all")
    assert re.search(r"Count: 2 in all \(\d+ s\)", output.getvalue())


@pytest.mark.parametrize("terminal", [True, False])
def test_a_step_that_fails_is_not_concluded(terminal: bool) -> None:
    target, output = console(terminal=terminal)
    with pytest.raises(ZeroDivisionError), Steps(target).step("Divide"):
        _ = 1 / 0
    assert "✓" not in output.getvalue()
