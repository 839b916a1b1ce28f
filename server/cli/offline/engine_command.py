"""Commands with two ways of writing that typer has not: `--ray [ADDRESS]`, and vLLM's flags after `--`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperCommand

__all__ = ["EngineCommand", "vllm_flags"]

_FLAGS: Final = "hallmark.vllm_flags"
"""Under which a context keeps the words after `--`."""

_RAY: Final = "--ray"

_ADDRESS: Final = re.compile(r"auto|(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):\d{1,5}")
"""HOST:PORT, [HOST]:PORT or `auto`; a file of proofs is none of them."""


class EngineCommand(TyperCommand):
    """A command that recomputes proofs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the words after `--` aside, and join `--ray` with the address behind it."""
        given, flags = args, []
        if "--" in args:
            place = args.index("--")
            given, flags = args[:place], args[place + 1 :]
        ctx.meta[_FLAGS] = tuple(flags)
        return super().parse_args(ctx, _with_ray_joined(given, is_completing=ctx.resilient_parsing))


def vllm_flags(context: typer.Context) -> tuple[str, ...]:
    """Return the words after `--` of the command that is running."""
    flags: tuple[str, ...] = context.meta.get(_FLAGS, ())
    return flags


def _with_ray_joined(words: Sequence[str], *, is_completing: bool) -> list[str]:
    """Write `--ray ADDRESS` as `--ray=ADDRESS`, and `--ray` alone as `--ray=`.

    Raises:
        typer.BadParameter: The word behind it is neither an address nor a file, nor an option.
    """
    joined: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == _RAY:
            following = left[0] if left else "-"
            if _ADDRESS.fullmatch(following):
                word = f"{_RAY}={left.pop(0)}"
            elif following.startswith("-") or is_completing or Path(following).exists():
                word = f"{_RAY}="
            else:
                raise typer.BadParameter(
                    f"{following!r} behind --ray is neither HOST:PORT, nor auto, nor a file of proofs"
                )
        joined.append(word)
    return joined
