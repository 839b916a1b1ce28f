"""What `hallmark.poc` offers by name."""

import subprocess
import sys

import pytest

import hallmark.poc


@pytest.mark.parametrize("name", hallmark.poc.__all__)
def test_a_public_name_is_the_thing_of_its_module(name: str) -> None:
    assert getattr(hallmark.poc, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Toy'"):
        hallmark.poc.Toy  # noqa: B018


def test_the_command_line_does_not_wait_for_torch() -> None:
    code = "import sys, hallmark.poc, hallmark.server.cli; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "False"
