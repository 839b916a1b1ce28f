"""`hallmark round validate`: have a server judge proofs."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hallmark.poc.core.errors import HallmarkError
from hallmark.server.cli.client import ApiKey, PoCClient, ServerError, ServerUrl
from hallmark.server.cli.consoles import AsJson, print_or_drop, results, say, show
from hallmark.server.cli.verdicts import VerdictRow, exit_code, legend, rejection, row_notes, verdict_table

if TYPE_CHECKING:
    from rich.console import Console

    from hallmark.poc.protocol.proof import ProofBatch

__all__ = ["NoVerdictError", "look_up", "show_verdicts", "submit_and_wait", "validate"]

_POLL_SECONDS = 0.5
_CONFLICT = 409
_REFUSALS = (400, _CONFLICT)
"""What a server answers to a batch that it does not judge, however often it is sent."""


def validate(
    url: ServerUrl,
    proofs: Annotated[
        Path,
        typer.Argument(
            metavar="PROOFS",
            help="JSON: a ProofBatch, an array of them, or what a receiver gives; - is stdin.",
        ),
    ],
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="The longest to wait for one verdict.")
    ] = 600.0,
    as_json: AsJson = False,
    api_key: ApiKey = None,
) -> None:
    """Have a server recompute proofs and judge them.

    Its round must be about the same block. --json prints the server's answer to each proof on a line. Exit
    code: 0 all honest, 1 fraud among them, 2 an error or no verdict among them and no fraud.
    """
    from hallmark.poc.offline.proof_files import read_bodies
    from hallmark.poc.protocol.proof import ProofBatch

    batches = [ProofBatch.parse(proof) for proof in read_bodies(proofs)]
    answers: list[dict[str, Any] | HallmarkError] = []
    with PoCClient(url, api_key, timeout=timeout) as client:
        for batch in batches:
            try:
                answers.append(submit_and_wait(client, batch, seconds=timeout))
            except (ServerError, NoVerdictError) as exc:
                if isinstance(exc, ServerError) and exc.status == _CONFLICT:
                    exc.add_note(f"set a round of its block: hallmark round start {url} --phase validate ...")
                answers.append(exc)
    if as_json:
        print_or_drop(_as_json(answers))
    else:
        show_verdicts(results(), batches, answers)
    for note in dict.fromkeys(note for answer in answers for note in getattr(answer, "__notes__", ())):
        say(f"hint: {note}")
    raise typer.Exit(exit_code([_verdict(answer) for answer in answers]))


class NoVerdictError(HallmarkError):
    """The server took the batch and came to no verdict."""


def submit_and_wait(client: PoCClient, batch: "ProofBatch", *, seconds: float) -> dict[str, Any]:
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
    """Return a line of JSON for each answer."""
    return "\n".join(
        json.dumps({"error": str(answer)} if isinstance(answer, HallmarkError) else answer)
        for answer in answers
    )


def show_verdicts(
    console: "Console", batches: "list[ProofBatch]", answers: list[dict[str, Any] | HallmarkError]
) -> None:
    """Print a table of verdicts, and below it what has no room there, each error in full."""
    from rich.table import Table
    from rich.text import Text

    from hallmark.server.cli.tables import text

    numbered = enumerate(zip(batches, answers, strict=True), start=1)
    rows = [_row(number, batch, answer) for number, (batch, answer) in numbered]
    parts: list[Table | Text] = [verdict_table(rows, console.width), *legend(rows), Text()]
    for row, answer in zip(rows, answers, strict=True):
        parts += [text(f"{row.label}: {note}") for note in row_notes(row, console.width)]
        if isinstance(answer, HallmarkError):
            parts.append(text(f"{row.label}: {row.verdict}: {answer}"))
            continue
        if answer["rejected_by"]:
            parts.append(text(f"{row.label}: {rejection(answer['rejected_by'])}"))
        if answer["numerics_differ"]:
            differ = ", ".join(answer["numerics_differ"])
            parts.append(text(f"{row.label}: computed with another {differ}"))
    show(console, *parts)


def _row(number: int, batch: "ProofBatch", answer: dict[str, Any] | HallmarkError) -> VerdictRow:
    if isinstance(answer, HallmarkError):
        return VerdictRow(
            label=str(number),
            public_key=batch.public_key,
            block_height=batch.block_height,
            nonces=len(batch.nonces),
            verdict="refused" if _is_refusal(answer) else "error",
        )
    return VerdictRow(
        label=str(number),
        public_key=batch.public_key,
        block_height=batch.block_height,
        nonces=answer["n_judged"],
        verdict=_verdict(answer),
        n_invalid=answer["n_invalid"],
        n_failed=len(answer["failed_nonces"]),
        error_rms=answer["error_rms"],
        tests=answer["tests"],
        p_value=answer["probability_honest"],
    )


def _is_refusal(error: HallmarkError) -> bool:
    """Tell whether it is about the batch, and not about the way to the server or what went wrong in it."""
    return isinstance(error, ServerError) and error.status in _REFUSALS


def _verdict(answer: dict[str, Any] | HallmarkError) -> str:
    """Return a server's verdict; an error is none."""
    return "no_verdict" if isinstance(answer, HallmarkError) else str(answer["verdict"])
