"""Logs as lines of JSON."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

SCRIPT = """
import asyncio, logging, logging.config
from hallmark.poc.core.json_logs import COMMAND_LOGGER, json_logging
from hallmark.poc.core.request_id import REQUEST_ID

logging.config.dictConfig(json_logging("INFO", "ext://sys.stdout"))
ours = logging.getLogger("hallmark.poc.outbox.sender")
ours.debug("not shown")
ours.info("two\\nlines, %s", "\u00e9")

async def of_a_request():
    REQUEST_ID.set("me")
    await asyncio.create_task(later())

async def later():
    ours.warning("of a request")

asyncio.run(of_a_request())
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("vllm.engine").exception("it failed")
logging.getLogger("another").info("not shown either")
logging.getLogger("another").warning("shown")
logging.getLogger("uvicorn.error").info("started", extra={"color_message": "in colours"})
logging.getLogger("uvicorn.access").info('%s - "%s"', "127.0.0.1", "GET /")
logging.getLogger(COMMAND_LOGGER).info("ready")
"""


def lines() -> list[dict[str, Any]]:
    """What a process of its own logs."""
    ran = subprocess.run([sys.executable, "-P", "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_each_record_is_one_line_that_says_all() -> None:
    found = lines()
    assert [(line["logger"], line["level"], line["message"]) for line in found] == [
        ("hallmark.poc.outbox.sender", "INFO", "two\nlines, \u00e9"),
        ("hallmark.poc.outbox.sender", "WARNING", "of a request"),
        ("vllm.engine", "ERROR", "it failed"),
        ("another", "WARNING", "shown"),
        ("uvicorn.error", "INFO", "started"),
        ("uvicorn.access", "INFO", '127.0.0.1 - "GET /"'),
        ("hallmark.command", "INFO", "ready"),
    ]
    assert {line["pid"] for line in found} == {found[0]["pid"]}
    for line in found:
        time = datetime.fromisoformat(line["time"])
        assert time.utcoffset() == timedelta(0)
        assert time <= datetime.now(UTC)
    usual = {"time", "level", "logger", "pid", "message"}
    assert [line.keys() - usual for line in found] == [
        set(),
        {"request_id"},
        {"exc_info"},
        *[set()] * 4,
    ]
    assert found[1]["request_id"] == "me"
    assert "ZeroDivisionError" in found[2]["exc_info"]
