"""What is printed of a status, once."""

import json

import pytest

from hallmark.server.cli.round.status import print_status
from hallmark.server.http.examples import STATUS


def test_a_status_fits_on_a_screen_and_names_the_round(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_status({**STATUS, "reason": None, "valid_nonces": list(range(1000))})
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    shown = {line[:12].rstrip(): line[12:] for line in lines}
    assert shown["state"] == "GENERATING for 0 s", "without a reason"
    assert shown["rate"] == "6.0 nonces/s"
    assert shown["block"] == f"{STATUS['config']['block_height']}, {STATUS['config']['block_hash']}"
    assert shown["public key"] == STATUS["config"]["public_key"]
    assert shown["callbacks"] == "1 delivered, 0 waiting"


def test_as_json_it_is_what_the_server_said_fields_of_newer_ones_included(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = {**STATUS, "validation": {**STATUS["validation"], "share_of_newer_ones": 0.25}, "newest": [1]}
    print_status(said, as_json=True)
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line) == said
