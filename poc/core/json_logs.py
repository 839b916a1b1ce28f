"""Logs as lines of JSON, for programs that collect them."""

import logging
from typing import Any, Final

from hallmark.poc.core.request_id import REQUEST_ID

__all__ = ["COMMAND_LOGGER", "RecordFields", "json_logging"]

COMMAND_LOGGER: Final = "hallmark.command"
"""The logger of what a command says itself; it has a handler only where that is JSON too."""


class RecordFields(logging.Filter):
    """Gives a record the id of the HTTP request that it is about, where there is one; keeps every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the id, and take away what uvicorn has for terminals only."""
        record.__dict__.pop("color_message", None)
        request_id = REQUEST_ID.get()
        if request_id is not None:
            record.request_id = request_id
        return True


def json_logging(level: str, stream: str) -> dict[str, Any]:
    """Return a configuration for `logging.config.dictConfig`: vLLM's, uvicorn's and our logs as JSON.

    A line is an object with `time` (ISO 8601, UTC), `level`, `logger`, `pid`, `message`, `request_id` where
    there is one, and `exc_info` with a traceback where there is one.

    Args:
        level: The least one that is shown, of vLLM's logs and ours.
        stream: Where to, as `ext://sys.stdout`.
    """
    ours = {"handlers": ["json"], "level": level, "propagate": False}
    servers = {"handlers": ["json"], "level": "INFO", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"fields": {"()": f"{__name__}.{RecordFields.__name__}"}},
        "formatters": {
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "fmt": "%(levelname)s %(name)s %(process)d %(message)s",
                "rename_fields": {"levelname": "level", "name": "logger", "process": "pid"},
                "timestamp": "time",
            }
        },
        "handlers": {
            "json": {
                "class": "logging.StreamHandler",
                "formatter": "json",
                "filters": ["fields"],
                "stream": stream,
            }
        },
        "loggers": {
            "vllm": ours,
            "hallmark": ours,
            COMMAND_LOGGER: {**ours, "level": "INFO"},
            "uvicorn": servers,
            "uvicorn.access": servers,
        },
        "root": {"handlers": ["json"], "level": "WARNING"},
    }
