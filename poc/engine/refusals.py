"""How vLLM refuses what it is asked for, in a sentence that repeats no value: one may be a secret."""

from typing import Any

__all__ = ["unknown_flags", "what_vllm_says"]


def what_vllm_says(error: Exception) -> str:
    """Return what an error of vLLM's says, on one line, without the arguments that pydantic repeats."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return " ".join(f"{type(error).__name__}: {error}".split())
    said: list[Any] = [[*map(str, each["loc"]), each["msg"]] for each in error.errors()]
    return " ".join("; ".join(": ".join(parts) for parts in said).split())


def unknown_flags(told: str, code: object) -> str:
    """Return why vLLM's parser gave up.

    Args:
        told: What it wrote: how the command is used, and then the reason.
        code: Its exit code, for where it gave none.
    """
    [*_, last] = told.split("error: ")
    # What was given to flags that vLLM does not know may be a secret, the flag misspelt.
    said, unknown, given = last.strip().partition("unrecognized arguments: ")
    flags = [each.partition("=")[0] for each in given.split() if each.startswith("-")]
    return f"{said}{unknown}{' '.join(flags)}" or f"exit code {code}"
