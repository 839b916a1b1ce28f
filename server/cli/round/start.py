"""`hallmark round start`: set a round and start it."""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.config import Concern
from hallmark.server.cli.client import ApiKey, PoCClient, ServerUrl
from hallmark.server.cli.options import Stated, takes_settings
from hallmark.server.cli.round.watch import Interval, Watch, print_status, watch_status

__all__ = ["Phase", "start"]


class Phase(StrEnum):
    """What the server does once the round is set."""

    GENERATE = "generate"
    VALIDATE = "validate"
    NONE = "none"


@takes_settings([*Concern])
def start(
    url: ServerUrl,
    stated: Stated,
    phase: Annotated[Phase, typer.Option(help="What to start; none only sets the round.")] = Phase.GENERATE,
    api_key: ApiKey = None,
    watch: Watch = False,
    interval: Interval = 1.0,
) -> None:
    """Set a round on a server and start it.

    What is not given has the server's default: rate 1, threshold 0.01, tolerance 0.35 s, node 0 of 1 when
    generating, 32 nonces of 256 rows, projections on.
    """
    body = dict(stated)
    if phase is Phase.GENERATE and not {"node_id", "node_count"} & body.keys():
        body |= {"node_id": 0, "node_count": 1}
    _check_finite(body)
    path = "/init" if phase is Phase.NONE else f"/init/{phase}"
    with PoCClient(url, api_key) as client:
        answer = client.post(path, body)
        _say_if_lowered(answer["pow_status"])
        _say_if_unreachable(answer.get("callback"))
        if watch:
            watch_status(client, interval)
        else:
            print_status(answer["pow_status"])


def _check_finite(body: Mapping[str, Any]) -> None:
    """Refuse the numbers that JSON has no form for; what else is allowed is the server's to say."""
    for field, value in body.items():
        if isinstance(value, float) and not math.isfinite(value):
            allowed = (
                "a finite number, or none" if field == "distance_tolerance" else "a finite number above 0"
            )
            raise FieldError(field, value, allowed)


def _say_if_unreachable(callback: Mapping[str, Any] | None) -> None:
    """Say that the receiver did not answer the server; what is found waits for it."""
    if callback is not None and not callback["reachable"]:
        typer.echo(f"the receiver of callbacks does not answer the server: {callback['error']}", err=True)


def _say_if_lowered(status: Mapping[str, Any]) -> None:
    """Say that the server takes smaller batches than it was asked for."""
    config = status.get("config") or {}
    taken, asked = config.get("batch_size"), config.get("requested_batch_size")
    if asked is not None and taken != asked:
        typer.echo(f"batch_size {asked} was lowered to {taken}")
