"""Values of options that are not allowed, in the words that Hallmark has for those of requests."""

from typing import Any

import typer
from typer.core import TyperGroup

from hallmark.poc.core.checks import allowed_in_words

__all__ = ["RootGroup"]


class RootGroup(TyperGroup):
    """The command above all others."""

    def invoke(self, ctx: Any) -> Any:
        """Run what the words ask for; an option's value that pydantic refuses is told in our words.

        Raises:
            typer.BadParameter: An option has a value that is not allowed.
        """
        try:
            return super().invoke(ctx)
        except typer.BadParameter as exc:
            from pydantic import ValidationError

            if isinstance(exc.__cause__, ValidationError):
                first = exc.__cause__.errors(include_url=False)[0]
                # Others are typer's own sentences.
                if first["type"] != "value_error":
                    exc.message = f"{first['input']!r} is not allowed; allowed: {allowed_in_words(first)}"
            raise
