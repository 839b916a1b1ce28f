"""`hallmark power`: how many nonces a stated cheat takes, without a model."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli

from hallmark.poc.verdict.cheat import Allowance, Cheat
from hallmark.poc.verdict.power import nonces_needed, stops_of_cheats, stops_of_honest

CALIBRATED = ("--honest-sigma", 0.044, "--honest-kurtosis", 3.9, "--fraud-threshold", 1e-7)
INT8 = Cheat(0.072)


def allowance(**changes: Any) -> Allowance:
    given = {"sigma": 0.044, "kurtosis": 3.9, "beyond": 0.02, "design_effect": 4.0, "threshold": 1e-7}
    return Allowance(**{**given, "numbers": 16, **changes})


def found(cli: Cli, *options: object) -> dict[str, Any]:
    result = cli("power", *options, "--json")
    assert result.code == 0, result.err
    answer: dict[str, Any] = json.loads(result.out)
    return answer


def test_it_is_what_the_simulation_says(cli: Cli) -> None:
    answer = found(cli, "--cheat", 0.072, *CALIBRATED)
    assert answer["one_batch"] == nonces_needed(INT8, allowance())
    assert answer["sequential"] == {
        "cheat": stops_of_cheats(INT8, allowance())._asdict(),
        "honest_at_sigma": stops_of_honest(INT8, allowance(), 0.044)._asdict(),
        "honest_exact": stops_of_honest(INT8, allowance(), 0.0)._asdict(),
    }
    assert answer["round"]["numbers"] == 16, "as the default seq_len has them"
    assert (answer["cheat"], answer["cheat_share"], answer["power"]) == (0.072, 1.0, 0.99)


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (("--numbers", 1), {"numbers": 1}),
        (("--valid-rate", 0.2, "--numbers", 4), {"numbers": 4, "rate": 0.2}),
        (("--r-target", 2), {}),
        (("--honest-sigma", 0.05), {"sigma": 0.05}),
        (("--honest-beyond", 0.001, "--honest-design-effect", 2), {"beyond": 0.001, "design_effect": 2.0}),
        (("--fraud-threshold", 0.01), {"threshold": 0.01}),
    ],
)
def test_every_option_counts(cli: Cli, options: tuple[object, ...], changes: dict[str, Any]) -> None:
    answer = found(cli, "--cheat", 0.15, "--power", 0.9, "--cheat-share", 0.5, *CALIBRATED, *options)
    assert answer["one_batch"] == nonces_needed(Cheat(0.15, 0.5), allowance(**changes), power=0.9)


@pytest.mark.parametrize(
    ("body", "numbers"),
    [({"seq_len": 16}, 2), ({"numbers": 5}, 5), ({"readout": "last", "inputs": "normal"}, 1), ({}, 16)],
)
def test_numbers_are_those_of_the_round(
    cli: Cli, tmp_path: Path, body: dict[str, object], numbers: int
) -> None:
    path = tmp_path / "round.json"
    path.write_text(json.dumps(body))
    answer = found(cli, "--cheat", 1.0, "--round", path, *CALIBRATED)
    assert answer["round"]["numbers"] == numbers


def test_the_table_has_room_in_80_columns(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = cli("power", "--cheat", 0.072, *CALIBRATED)
    assert result.code == 0, result.err
    shown = result.out.splitlines()
    answer = found(cli, "--cheat", 0.072, *CALIBRATED)
    assert max(map(len, shown)) <= 80
    assert f"one batch  {answer['one_batch']} nonces convict it with a probability of 0.99" in shown
    rows = [row for row in shown if row.startswith(("such a prover", "an honest one"))]
    expected = [[str(stop["median"]), str(stop["nearly_all"])] for stop in answer["sequential"].values()]
    assert [row.split()[-4:-2] for row in rows] == expected


def test_what_nothing_finds_is_said(cli: Cli) -> None:
    result = cli("power", "--cheat", 0.072)
    assert result.code == 0
    assert "one batch  16,384 nonces do not convict it with a probability of 0.99" in result.out
    assert "verify --sequential does not look for it" in result.err
    assert "calibrate a smaller sigma" in result.err
    answer = found(cli, "--cheat", 0.072)
    assert (answer["one_batch"], answer["sequential"]) == (None, None)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--cheat", 0), " --cheat: 0.0 is not allowed; allowed: an RMS error from 1e-9 to 1,000"),
        (
            ("--cheat", 0.1, "--cheat-share", 2),
            " --cheat-share: 2.0 is not allowed; allowed: a share of the",
        ),
        (
            ("--cheat", 0.1, "--power", 1),
            "hallmark: --power: 1.0 is not allowed; allowed: a probability from 0.5",
        ),
        (("--cheat", 0.1, "--distance-tolerance", "none"), "by the older rule, none, errors are not looked"),
        (("--cheat", 0.1, "--valid-rate", 0.1, "--numbers", 1), "2 or more of each nonce below rate 1"),
        (
            ("--cheat", 0.2, "--numbers", 100_000),
            " --numbers: 100000 is not allowed; allowed: 1 to 124",
        ),
        (("--cheat", 0.1, "--r-target", 1.4), "state --valid-rate, which hallmark target tells"),
    ],
)
def test_what_is_not_allowed_is_a_sentence(cli: Cli, options: tuple[object, ...], problem: str) -> None:
    result = cli("power", *options)
    assert result.code == 2
    assert problem in result.err
    assert result.out == ""


def test_numbers_are_no_more_than_the_round_can_give(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "round.json"
    path.write_text(json.dumps({"inputs": "normal", "readout": "last"}))
    refused = cli("power", "--cheat", 1.0, "--round", path, *CALIBRATED, "--numbers", 2)
    assert refused.code == 2
    assert "--numbers: 2 is not allowed; allowed: 1, where the last row is read" in refused.err
    path.write_text(json.dumps({"numbers": 4}))
    for numbers in (1, 124):
        answer = found(cli, "--cheat", 1.0, "--round", path, *CALIBRATED, "--numbers", numbers)
        assert answer["round"]["numbers"] == numbers


def test_help_says_nothing_of_proofs_to_refuse(cli: Cli) -> None:
    said = " ".join(cli("power", "--help").out.split())
    assert "--round" in said
    assert "proofs of other blocks" not in said
