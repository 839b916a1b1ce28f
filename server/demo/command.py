"""`hallmark demo`: a whole round on a real server, from the first nonce to five caught forgeries."""

import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hallmark.poc.core.errors import FieldError, HallmarkError
from hallmark.server.cli.serve.checks import check_vllm
from hallmark.server.demo.steps import Steps
from hallmark.server.processes.child import log_tail

if TYPE_CHECKING:
    from hallmark.server.demo.story import Judged

__all__ = ["demo"]

_WIDTH_OFF_A_TERMINAL = 110


def demo(
    nonces: Annotated[int, typer.Option(min=64, help="Valid nonces to find in the honest round.")] = 200,
    directory: Annotated[
        Path | None,
        typer.Option(help="Where models, logs and proofs go and stay; else a folder that is removed."),
    ] = None,
) -> None:
    """Show a whole round on a real vLLM server: proofs found, delivered, validated, and forgeries caught.

    It needs no GPU and no download: it serves a tiny model made here, and takes a few minutes. Exit code 0
    only if every verdict is the right one.
    """
    warning = check_vllm()
    if directory is not None:
        _make_writable(directory)
    # The model is made with what vLLM brings; other commands must not need it.
    from hallmark.server.demo.story import Story

    signal.signal(signal.SIGTERM, _end)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_OFF_A_TERMINAL)
    if warning is not None:
        console.print(escape(warning), soft_wrap=True, highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="hallmark-demo-")) if directory is None else directory.resolve()
    story = Story(Steps(console), folder, nonces)
    try:
        judged = list(story.tell())
    except HallmarkError as exc:
        console.print(f"[red]✗[/red] {escape(str(exc))}", soft_wrap=True, highlight=False)
        if story.log is not None and story.log.exists():
            console.print(escape(log_tail(story.log)), soft_wrap=True, highlight=False)
            console.print(f"The whole log is {story.log}", soft_wrap=True, highlight=False)
        raise typer.Exit(2) from exc
    except (KeyboardInterrupt, SystemExit):
        if directory is None:
            shutil.rmtree(folder)
        raise
    console.print(_table(judged))
    problems = [problem for one in judged for problem in one.problems]
    for problem in problems:
        console.print(f"[red]✗[/red] {escape(problem)}")
    right = all(one.is_right for one in judged)
    console.print("All came out right." if right else "[red]Not all came out right.[/red]")
    if right and directory is None:
        shutil.rmtree(folder)
    else:
        console.print(f"Models, logs and proofs are in {folder}", soft_wrap=True, highlight=False)
    raise typer.Exit(0 if right else 1)


def _table(judged: "Sequence[Judged]") -> Table:
    table = Table("claim", "nonces", "beyond tolerance", "p-value", "verdict", "as it should be")
    for one in judged:
        table.add_row(
            one.claim.title,
            str(one.answer["n_judged"]),
            str(one.answer["n_invalid"]),
            f"{one.answer['probability_honest']:.2g}",
            one.verdict.replace("_", " "),
            "[green]✓[/green]" if one.is_right else "[red]✗[/red]",
        )
    return table


def _make_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as exc:
        raise FieldError(
            "--directory", str(directory), f"a folder that files can be made in ({exc})"
        ) from exc


def _end(number: int, _: FrameType | None) -> None:
    """End by an exception, so that every process is ended on the way out."""
    raise SystemExit(128 + number)
