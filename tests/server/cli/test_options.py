"""What options and a file together ask for."""

import json
from pathlib import Path
from typing import Any

import pytest

from hallmark.poc.protocol.config import PoCConfig
from hallmark.server.cli.options import round_body

STATED = {"block_hash": "block", "block_height": 1, "public_key": "key"}


@pytest.mark.parametrize(
    ("file", "options", "asked"),
    [
        ({"seq_len": 64, "batch_size": 8}, {"seq_len": 128}, {"seq_len": 128, "batch_size": 8}),
        ({"params": {"seq_len": 64, "dim": 3}}, {"seq_len": 128}, {"seq_len": 128}),
        ({"params": {"seq_len": 64}}, {}, {"seq_len": 64}),
        ({"valid_rate": 0.5}, {"r_target": 1.3}, {"r_target": 1.3, "valid_rate": None}),
        ({"distance_tolerance": 0.5}, {"distance_tolerance": None}, {"distance_tolerance": None}),
    ],
)
def test_options_override_the_file(
    tmp_path: Path, file: dict[str, Any], options: dict[str, Any], asked: dict[str, Any]
) -> None:
    path = tmp_path / "round.json"
    path.write_text(json.dumps({**STATED, **file}))
    config = PoCConfig.parse(round_body(path, options))
    assert {name: getattr(config, name) for name in asked} == asked
