"""What a person sees of a status."""

import pytest

from hallmark.server.cli.round import watch
from hallmark.server.http.examples import STATUS


def test_a_status_fits_on_a_screen_and_names_the_round(capsys: pytest.CaptureFixture[str]) -> None:
    watch.print_status({**STATUS, "reason": None, "valid_nonces": list(range(1000))})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    shown = dict(line.split(maxsplit=1) for line in lines)
    assert shown["state"].strip() == "GENERATING"
    assert shown["reason"].strip() == "-"
    assert shown["rate_per_second"].strip() == "6"
    assert shown["config.block_hash"].strip() == STATUS["config"]["block_hash"]
    assert shown["callbacks.delivered"].strip() == "1"


def test_a_new_field_of_a_newer_server_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    watch.print_status({**STATUS, "validation": {"share": 0.25}})
    assert "validation.share" in capsys.readouterr().out
