"""What tests see of a command."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, standard output and error."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]
