"""Which versions of vLLM Hallmark runs on; nothing of vLLM is imported.

Versions from `FIRST_VERSION` to `LAST_VERSION` are tested. A newer one is taken where everything in it that
Hallmark uses is still there (`pins`), with a warning; an older one has no endpoint plugins.
"""

import ast
import re
from typing import Final

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.engine.pins import ReadFile, missing_pins

__all__ = ["FIRST_VERSION", "LAST_VERSION", "TESTED", "check_version", "version_in"]

FIRST_VERSION: Final = (0, 26)
LAST_VERSION: Final = (0, 33)

TESTED: Final = ".".join(map(str, FIRST_VERSION)) + " to " + ".".join(map(str, LAST_VERSION))
"""The tested range, for people."""

_MAX_MISSING: Final = 3


def version_in(read: ReadFile) -> str:
    """Return what `vllm.__version__` is, read from vLLM's files; "dev" where none is written there."""
    try:
        tree = ast.parse(read("_version.py"))
    except FileNotFoundError:
        return "dev"
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if "__version__" in names:
                return str(node.value.value)
    return "dev"


def check_version(version: str, read: ReadFile, *, allow_unsupported: bool) -> str | None:
    """Refuse a vLLM that Hallmark cannot run on.

    Args:
        version: `vllm.__version__`.
        read: A reader of that version's files, which are looked into where the version is newer than all
            tested ones, or says nothing.
        allow_unsupported: The setting `allow_unsupported_vllm`.

    Returns:
        A warning where the version is not a tested one; None where it is.

    Raises:
        UnsupportedError: The version is too old, or lacks something that Hallmark uses, and the setting does
            not insist.
    """
    match = re.match(r"(\d+)\.(\d+)", version)
    number = None if match is None else (int(match[1]), int(match[2]))
    if number is not None and number < FIRST_VERSION:
        raise UnsupportedError(
            f"vLLM {version} is too old: it has no endpoint plugins. Hallmark is tested with {TESTED}"
        )
    if number is not None and number <= LAST_VERSION:
        return None
    untested = f"vLLM {version} is not tested: Hallmark is tested with {TESTED}"
    missing = missing_pins(read)
    if not missing:
        return f"{untested}. Every part of it that Hallmark uses is there, so it starts"
    shown = "; ".join(missing[:_MAX_MISSING])
    if len(missing) > _MAX_MISSING:
        shown += f"; and {len(missing) - _MAX_MISSING} more"
    if not allow_unsupported:
        raise UnsupportedError(
            f"{untested}, and parts that Hallmark uses are missing: {shown}. "
            "The setting allow_unsupported_vllm starts it all the same"
        )
    return f"{untested}, and starts only because allow_unsupported_vllm is set: {shown}"
