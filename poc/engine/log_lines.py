"""Our lines in the logs of vLLM's processes: shown as vLLM's own are, unless somebody said otherwise."""

import logging

__all__ = ["log_where_vllm_does"]


class _VllmsHandlers(logging.Handler):
    """Hands records to whatever handlers vLLM's logger has at the time, which its flags may change."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on a record that vLLM's logger would show."""
        vllms = logging.getLogger("vllm")
        if not vllms.isEnabledFor(record.levelno):
            return
        # With VLLM_CONFIGURE_LOGGING=0 it has none: then Python's own shows warnings and errors.
        for handler in vllms.handlers or filter(None, [logging.lastResort]):
            if record.levelno >= handler.level:
                handler.handle(record)


def log_where_vllm_does() -> None:
    """Show Hallmark's lines as vLLM shows its own, in this process.

    vLLM sets up only the logger `vllm`; without this our warnings would come bare and the rest not at all.
    Where a configuration of the user's has a handler for our lines, or for all, they are left to it.
    """
    ours = logging.getLogger("hallmark")
    if not ours.hasHandlers():
        ours.addHandler(_VllmsHandlers())
        # Each record is shown or not by vLLM's level.
        ours.setLevel(logging.DEBUG)
