"""Our lines in the logs of vLLM's processes, as real loggers show them in a process of its own."""

import json
import subprocess
import sys

import pytest

SETUP = """
import logging, logging.config, sys
from hallmark.poc.engine.log_lines import log_where_vllm_does

def vllms(level, text="vLLM: %(message)s"):
    logger = logging.getLogger("vllm")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(text))
    logger.handlers[:], logger.propagate = [handler], False
    logger.setLevel(level)

ours = logging.getLogger("hallmark.poc.outbox.sender")
"""


def printed(script: str) -> list[str]:
    """What a process prints; pytest has a handler at the root of its own loggers."""
    ran = subprocess.run(
        [sys.executable, "-P", "-c", SETUP + script], capture_output=True, text=True, check=True
    )
    return (ran.stdout + ran.stderr).splitlines()


def test_they_are_shown_as_vllms_at_vllms_level_once() -> None:
    assert printed("""
vllms("INFO")
for _ in range(2):
    log_where_vllm_does()
ours.debug("much")
ours.info("some")
""") == ["vLLM: some"]


def test_they_follow_vllms_configuration_when_its_flags_change_it() -> None:
    assert printed("""
vllms("INFO")
log_where_vllm_does()
vllms("ERROR", "anew: %(message)s")
ours.warning("not any more")
ours.error("still")
""") == ["anew: still"]


def test_a_configuration_with_our_logger_is_left_alone() -> None:
    configuration = {
        "version": 1,
        "formatters": {"ours": {"format": "ours %(levelname)s: %(message)s"}},
        "handlers": {
            "ours": {"class": "logging.StreamHandler", "formatter": "ours", "stream": "ext://sys.stdout"}
        },
        "loggers": {"hallmark": {"handlers": ["ours"], "level": "DEBUG", "propagate": False}},
    }
    assert printed(f"""
vllms("INFO")
logging.config.dictConfig({json.dumps(configuration).replace("false", "False")})
log_where_vllm_does()
ours.debug("much")
""") == ["ours DEBUG: much"]


@pytest.mark.parametrize(("level", "lines"), [("INFO", ["all: some"]), ("WARNING", [])])
def test_one_for_all_loggers_is_too(level: str, lines: list[str]) -> None:
    assert (
        printed(f"""
vllms("INFO")
logging.basicConfig(stream=sys.stdout, format="all: %(message)s", level="{level}")
log_where_vllm_does()
ours.info("some")
""")
        == lines
    )


def test_where_vllm_configures_nothing_warnings_are_shown_as_pythons() -> None:
    assert printed("""
log_where_vllm_does()
ours.info("some")
ours.warning("a warning")
""") == ["a warning"]
