"""`hallmark round start`: set a round and start it."""

import math
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.config import Concern
from hallmark.server.cli.client import ApiKey, PoCClient, ServerError, ServerUrl
from hallmark.server.cli.consoles import say
from hallmark.server.cli.options import Stated, takes_settings
from hallmark.server.cli.round.goal import Goal, Until
from hallmark.server.cli.round.status import print_status
from hallmark.server.cli.round.watch import RUNNING, Interval, follow

__all__ = ["Phase", "StartedPhase", "check_finite", "remarks", "start"]


class Phase(StrEnum):
    """What the server does once the round is set."""

    GENERATE = "generate"
    VALIDATE = "validate"
    NONE = "none"

    @property
    def path(self) -> str:
        """The route that does it, below the prefix."""
        return "/init" if self is Phase.NONE else f"/init/{self}"


StartedPhase = Annotated[Phase, typer.Option(help="What to start; none only sets the round.")]

Watch = Annotated[bool, typer.Option("--watch", help="Follow the round until it ends or Ctrl-C.")]


@takes_settings([*Concern])
def start(
    url: ServerUrl,
    stated: Stated,
    phase: StartedPhase = Phase.GENERATE,
    until: Until = None,
    watch: Watch = False,
    interval: Interval = 1.0,
    api_key: ApiKey = None,
) -> None:
    """Set a round on a server and start it.

    What is not given has the server's default: rate 1, threshold 0.01, tolerance 0.35 s, node 0 of 1 when
    generating, 32 nonces of 256 rows, projections on.

    With --until this command stops the round: ended before, by Ctrl-C or kill, it leaves the round running.
    """
    goal = _goal(until, phase)
    body = dict(stated)
    if phase is Phase.GENERATE and not {"node_id", "node_count"} & body.keys():
        body |= {"node_id": 0, "node_count": 1}
    check_finite(body)
    with PoCClient(url, api_key) as client:
        before = _running(client)
        answer = client.post(phase.path, body)
        for remark in (*_ended(before, answer["pow_status"]), *remarks(answer)):
            say(remark)
        if phase is Phase.GENERATE and body.get("callback_url") is None:
            say("No --callback-url: proofs of this round go nowhere.")
        if watch or goal is not None:
            follow(client, interval, goal=goal, first=answer["pow_status"])
        else:
            print_status(answer["pow_status"])


def _goal(until: str | None, phase: Phase) -> Goal | None:
    """Return where the round is to be stopped.

    Raises:
        FieldError: It is no goal, or none of this phase.
    """
    if until is None:
        return None
    goal = Goal.parse(until)
    if phase is Phase.NONE:
        raise FieldError("--until", until, "nothing, with --phase none")
    if phase is Phase.VALIDATE and not goal.is_time:
        raise FieldError("--until", until, "a time such as 5min, with --phase validate: nonces are generated")
    return goal


def _running(client: PoCClient) -> Mapping[str, Any] | None:
    """Return the status of the round that is running; None where none is, or the server does not say so.

    Raises:
        UnreachableError: There is no answer.
    """
    try:
        status: Mapping[str, Any] = client.get("/status")
    except ServerError:
        # The start is what was asked for, and is refused too where that cannot be.
        return None
    return status if status["state"] in RUNNING else None


def _ended(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Iterator[str]:
    """Yield that the round before has ended; the very request of a round that is set goes on with it."""
    if before is None:
        return
    if after["config"] != before["config"] or after["elapsed_seconds"] < before["elapsed_seconds"]:
        yield f"The round of block {before['config']['block_height']} ({before['state']}) was ended."


def check_finite(body: Mapping[str, Any]) -> None:
    """Refuse the numbers that JSON has no form for; what else is allowed is the server's to say.

    Raises:
        FieldError: There is one.
    """
    for field, value in body.items():
        if isinstance(value, float) and not math.isfinite(value):
            allowed = (
                "a finite number, or none" if field == "distance_tolerance" else "a finite number above 0"
            )
            raise FieldError(field, value, allowed)


def remarks(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is to be said of a server's answer to a request that set a round.

    That is: smaller batches than were asked for, and a receiver that did not answer the server. What is found
    waits for that.
    """
    config = answer["pow_status"].get("config") or {}
    taken, asked = config.get("batch_size"), config.get("requested_batch_size")
    if asked is not None and taken != asked:
        yield f"batch_size {asked} was lowered to {taken}"
    callback = answer.get("callback")
    if callback is not None and not callback["reachable"]:
        yield f"the receiver of callbacks does not answer the server: {callback['error']}"
