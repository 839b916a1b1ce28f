"""A new setting of a round is written once: everything else follows from its field."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

FIELD = """
    patience: Annotated[
        float, Field(description="How patient it is."), Setting(Concern.JUDGEMENT)
    ] = 0.5
"""
WHAT_FOLLOWS = """
from fastapi import FastAPI
from typer.testing import CliRunner

from hallmark.poc.core.errors import FieldError
from hallmark.poc.offline.rounds import check_round
from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.poc.outbox.delivery_queue import DeliveryQueue
from hallmark.poc.outbox.round_journal import JournalLimits, RoundJournal
from hallmark.poc.protocol.config import PoCConfig, PoCState
from hallmark.poc.protocol.streams import PROTOCOL
from hallmark.server.commands import app as commands
from hallmark.server.http.app import mount

body = {"block_hash": "block", "block_height": 1, "public_key": "key", "patience": 0.25}


def refused(**change):
    try:
        PoCConfig.parse({**body, **change})
    except FieldError as error:
        return str(error)


# The request.
config = PoCConfig.parse(body)
assert config.patience == 0.25
assert refused(patience="much").startswith("patience: 'much' is not allowed; allowed: a valid number")
assert "'patience', if that was meant" in refused(patiense=1)

# OpenAPI.
api = FastAPI()
mount(api)
route = api.openapi()["paths"]["/api/v1/pow/init"]["post"]
schema = route["requestBody"]["content"]["application/json"]["schema"]
assert schema["properties"]["patience"]["description"] == "How patient it is."
assert schema["properties"]["patience"]["default"] == 0.5

# The command line, where it starts rounds and where it verifies.
for command in (["round", "start"], ["verify"]):
    shown = CliRunner().invoke(commands, [*command, "--help"], env={"COLUMNS": "200"})
    assert "--patience" in shown.output, shown.output
    assert "How patient it is." in shown.output
assert "--patience" not in CliRunner().invoke(commands, ["calibrate", "--help"]).output

# The journal.
database = OutboxDatabase(None)
limits = JournalLimits(max_queued=10, max_payload_bytes=2**20)
journal = RoundJournal(database, DeliveryQueue(database), limits)
journal.begin(config, "digest", {"protocol": PROTOCOL}, PoCState.GENERATING, 1.0)
interrupted, _ = journal.recover(2.0)
assert interrupted.config == config

# Offline verification.
assert check_round({"patience": 0.25}).patience == 0.25
print("all of it follows")
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages, with one more setting in the round's request."""
    for folder in ("kernels", "poc", "server"):
        shutil.copytree(ROOT / folder, tmp_path / "hallmark" / folder)
    module = tmp_path / "hallmark" / "poc" / "protocol" / "config.py"
    text = module.read_text()
    place = text.index("    # The round's and never a batch's")
    module.write_text(text[:place] + FIELD + text[place:])
    return tmp_path


def test_request_openapi_command_line_journal_and_offline_verification_follow(copy: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WHAT_FOLLOWS],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "all of it follows\n"
