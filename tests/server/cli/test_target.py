"""`hallmark target`, and the command tree around it."""

import json
import math

import pytest
from command_line import Cli, Result

from hallmark.poc.protocol.law import r_target_for, valid_rate


def values(result: Result) -> dict[str, float]:
    assert result.code == 0, result.err
    return {line.split()[0]: float(line.split()[1].rstrip(",")) for line in result.out.splitlines()}


def test_a_rate_gives_the_target(cli: Cli) -> None:
    shown = values(cli("target", "--hidden-size", 4096, "--valid-rate", 0.1))
    assert shown["r_target"] == r_target_for(0.1, 4096)
    assert shown["valid_rate"] == 0.1
    assert shown["s"] == 1 / math.sqrt(2 * 4096)
    assert shown["tolerance"] == 0.35 * shown["s"]


def test_a_target_gives_the_rate(cli: Cli) -> None:
    shown = values(cli("target", "--hidden-size", 8196, "--r-target", 1.4013564660458173))
    assert shown["valid_rate"] == valid_rate(1.4013564660458173, 8196)
    assert shown["valid_rate"] == pytest.approx(0.0506, abs=1e-4)


def test_there_and_back_is_the_same(cli: Cli) -> None:
    there = values(cli("target", "--hidden-size", 1024, "--valid-rate", 0.01))
    back = values(cli("target", "--hidden-size", 1024, "--r-target", there["r_target"]))
    assert back["valid_rate"] == pytest.approx(0.01, rel=1e-9)


def test_each_number_says_what_it_is_of(cli: Cli) -> None:
    shown = cli("target", "--hidden-size", 32, "--valid-rate", 0.5).out.splitlines()
    assert shown == [
        f"r_target    {math.sqrt(2)!r}",
        "valid_rate  0.5 of nonces",
        "s           0.125, standard deviation of a distance",
        "tolerance   0.04375, the default of 0.35 s",
    ]


def test_as_json(cli: Cli) -> None:
    arguments = ("target", "--hidden-size", 4096, "--valid-rate", 0.1)
    found = json.loads(cli(*arguments, "--json").out)
    assert found == values(cli(*arguments))
    assert [*found] == ["r_target", "valid_rate", "s", "tolerance"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            ("--hidden-size", 1, "--valid-rate", 0.5),
            "hidden_size: 1 is not allowed; allowed: an integer from 2",
        ),
        (
            ("--hidden-size", 64, "--valid-rate", 0),
            "valid_rate: 0.0 is not allowed; allowed: a number above 0",
        ),
        (("--hidden-size", 64, "--valid-rate", "nan"), "valid_rate: nan is not allowed"),
        (("--hidden-size", 64, "--r-target", -1), "r_target: -1.0 is not allowed; allowed: a number above 0"),
    ],
)
def test_what_is_not_allowed_is_a_sentence(cli: Cli, options: tuple[object, ...], problem: str) -> None:
    result = cli("target", *options)
    assert result.code == 2
    assert result.err.startswith(f"hallmark: {problem}")
    assert result.out == ""


@pytest.mark.parametrize("options", [(), ("--valid-rate", 0.5, "--r-target", 1.4)])
def test_one_of_the_two_is_needed(cli: Cli, options: tuple[object, ...]) -> None:
    result = cli("target", "--hidden-size", 64, *options)
    assert result.code == 2
    assert "give one of --valid-rate and --r-target" in result.err


@pytest.mark.parametrize(
    "command",
    [
        "serve",
        "receiver",
        "target",
        "demo",
        "round",
        "round start",
        "round status",
        "round watch",
        "round list",
        "round validate",
        "round stop",
        "completion",
    ],
)
def test_every_command_explains_itself(cli: Cli, command: str) -> None:
    result = cli(*command.split(), "--help")
    assert result.code == 0
    assert "Usage: hallmark" in result.out
