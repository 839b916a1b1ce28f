"""Why a server ends, from the processes that know it to the command that started them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["LAST_WORDS_VARIABLE", "leave_last_words"]

LAST_WORDS_VARIABLE: Final = "HALLMARK_LAST_WORDS"
"""Names the file; not set where nobody reads it, as under vLLM's own command."""


def leave_last_words(sentence: str, environment: Mapping[str, str] = os.environ) -> None:
    """Write down why the server ends, as a line after those of others.

    Raises:
        OSError: The file cannot be written.
    """
    path = environment.get(LAST_WORDS_VARIABLE)
    if path is not None:
        with Path(path).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(" ".join(sentence.split()) + "\n")
