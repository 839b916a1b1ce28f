"""`hallmark round validate`: have a server judge proofs."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hallmark.poc.core.errors import HallmarkError
from hallmark.poc.offline.proof_files import read_bodies
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.verdict.judge import Verdict
from hallmark.server.cli.client import ApiKey, PoCClient, ServerError, ServerUrl
from hallmark.server.cli.verdicts import STYLES, exit_code, print_or_drop, shortened

__all__ = ["NoVerdictError", "look_up", "submit_and_wait", "validate"]

_POLL_SECONDS = 0.5


def validate(
    url: ServerUrl,
    proofs: Annotated[
        Path,
        typer.Argument(help="JSON: a ProofBatch, an array of them, or what a receiver gives; - is stdin."),
    ],
    api_key: ApiKey = None,
    timeout: Annotated[float, typer.Option(help="The longest to wait for one verdict, in seconds.")] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the server's answers as they are.")] = False,
) -> None:
    """Have a server recompute proofs and judge them; its round must be about the same block.

    Exit code: 0 all honest, 1 fraud among them, 2 an error or no verdict among them and no fraud.
    """
    batches = [ProofBatch.parse(proof) for proof in read_bodies(proofs)]
    answers: list[dict[str, Any] | HallmarkError] = []
    with PoCClient(url, api_key, timeout=timeout) as client:
        for batch in batches:
            try:
                answers.append(submit_and_wait(client, batch, seconds=timeout))
            except (ServerError, NoVerdictError) as exc:
                answers.append(exc)
    print_or_drop(_as_json(answers) if as_json else _as_table(batches, answers))
    raise typer.Exit(exit_code([_verdict(answer) for answer in answers]))


class NoVerdictError(HallmarkError):
    """The server took the batch and came to no verdict."""


def submit_and_wait(client: PoCClient, batch: ProofBatch, *, seconds: float) -> dict[str, Any]:
    """Return the server's verdict; waits too where the round is generating and the batch is only queued.

    Raises:
        ServerError: The server refuses the batch.
        NoVerdictError: It could not judge it, or not in time.
        UnreachableError: There is no answer.
    """
    deadline = time.monotonic() + seconds
    answer: dict[str, Any] = client.post("/validate", batch.as_dict())
    while "verdict" not in answer:
        if time.monotonic() >= deadline:
            raise NoVerdictError(f"no verdict within {seconds:g} s; the request is {answer['request_id']}")
        time.sleep(_POLL_SECONDS)
        answer = look_up(client, answer["request_id"])
    return answer


def look_up(client: PoCClient, request_id: str) -> dict[str, Any]:
    """Return where a submitted batch stands; it has a `verdict` once there is one.

    Raises:
        NoVerdictError: The server could not judge it.
        ServerError: The server does not know it.
        UnreachableError: There is no answer.
    """
    answer: dict[str, Any] = client.get(f"/validate/{request_id}")
    if answer["status"] == "failed":
        raise NoVerdictError(f"request {request_id}: {answer['error']}")
    return answer


def _as_json(answers: list[dict[str, Any] | HallmarkError]) -> str:
    """A line of JSON for each answer."""
    return "\n".join(
        json.dumps({"error": str(answer)} if isinstance(answer, HallmarkError) else answer)
        for answer in answers
    )


def _as_table(batches: list[ProofBatch], answers: list[dict[str, Any] | HallmarkError]) -> str:
    """A table of verdicts, and below it each error in full and what was computed otherwise."""
    console = Console()
    with console.capture() as shown:
        console.print(_table(batches, answers))
        for number, answer in enumerate(answers, start=1):
            if isinstance(answer, HallmarkError):
                note = f"error of proof {number}: {answer}"
            elif answer.get("numerics_differ"):
                note = f"proof {number} was computed with another {', '.join(answer['numerics_differ'])}"
            else:
                continue
            console.print(escape(note), soft_wrap=True, highlight=False)
    return shown.get().rstrip("\n")


def _table(batches: list[ProofBatch], answers: list[dict[str, Any] | HallmarkError]) -> Table:
    table = Table("public key", "nonces", "invalid", "failed", "p-value", "verdict")
    for batch, answer in zip(batches, answers, strict=True):
        # What comes from provers is text, not markup.
        key = escape(shortened(batch.public_key))
        if isinstance(answer, HallmarkError):
            table.add_row(key, str(len(batch.nonces)), "", "", "", "error", style="yellow")
            continue
        verdict = _verdict(answer)
        table.add_row(
            key,
            str(answer["n_judged"]),
            str(answer["n_invalid"]),
            str(len(answer["failed_nonces"])),
            f"{answer['probability_honest']:.3g}",
            _in_words(verdict, answer),
            style=STYLES[verdict],
        )
    return table


def _in_words(verdict: Verdict, answer: dict[str, Any]) -> str:
    """The verdict, and where it is fraud the tests that say so."""
    words = verdict.replace("_", " ")
    if verdict is not Verdict.FRAUD:
        return words
    return f"{words} ({', '.join(test.replace('_', ' ') for test in answer['spoke'])})"


def _verdict(answer: dict[str, Any] | HallmarkError) -> Verdict:
    """A server's verdict; an error is none."""
    return Verdict.NO_VERDICT if isinstance(answer, HallmarkError) else Verdict(answer["verdict"])
