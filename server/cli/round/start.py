"""`hallmark round start`: set a round and start it."""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from hallmark.poc.core.errors import FieldError
from hallmark.server.cli import options
from hallmark.server.cli.client import ApiKey, PoCClient, ServerUrl
from hallmark.server.cli.round.watch import Interval, Watch, print_status, watch_status

__all__ = ["Phase", "start"]


class Phase(StrEnum):
    """What the server does once the round is set."""

    GENERATE = "generate"
    VALIDATE = "validate"
    NONE = "none"


def start(
    url: ServerUrl,
    block_hash: Annotated[str, typer.Option(help="Seeds everything.")],
    block_height: Annotated[int, typer.Option(help="Told and matched, seeds nothing.")],
    public_key: Annotated[str, typer.Option(help="Whose nonces these are.")],
    phase: Annotated[Phase, typer.Option(help="What to start; none only sets the round.")] = Phase.GENERATE,
    r_target: options.RTarget = None,
    valid_rate: options.ValidRate = None,
    fraud_threshold: options.FraudThreshold = None,
    distance_tolerance: options.DistanceTolerance = None,
    honest_sigma: options.HonestSigma = None,
    honest_kurtosis: options.HonestKurtosis = None,
    node_id: Annotated[int | None, typer.Option(help="This node's number among the nodes.")] = None,
    node_count: options.NodeCount = None,
    group_id: Annotated[int | None, typer.Option(help="Which of the node's engines this is.")] = None,
    n_groups: options.NGroups = None,
    batch_size: options.BatchSize = None,
    seq_len: options.SeqLen = None,
    callback_url: Annotated[
        str | None, typer.Option(help="Where /generated and /validated are posted.")
    ] = None,
    random_projection: options.RandomProjection = None,
    projection_scale: options.ProjectionScale = None,
    input_scale: options.InputScale = None,
    model: Annotated[str | None, typer.Option(help="The served name the round is about.")] = None,
    api_key: ApiKey = None,
    watch: Watch = False,
    interval: Interval = 1.0,
) -> None:
    """Set a round on a server and start it.

    What is not given has the server's default: rate 1, threshold 0.01, tolerance 0.35 s, node 0 of 1 when
    generating, 32 nonces of 256 rows, projections on.
    """
    body: dict[str, Any] = {
        "block_hash": block_hash,
        "block_height": block_height,
        "public_key": public_key,
        "r_target": r_target,
        "valid_rate": valid_rate,
        "fraud_threshold": fraud_threshold,
        "honest_sigma": honest_sigma,
        "honest_kurtosis": honest_kurtosis,
        "node_id": node_id,
        "node_count": node_count,
        "group_id": group_id,
        "n_groups": n_groups,
        "batch_size": batch_size,
        "seq_len": seq_len,
        "callback_url": callback_url,
        "use_random_projection": random_projection,
        "projection_scale": projection_scale,
        "input_scale": input_scale,
        "model": model,
    }
    body = {name: value for name, value in body.items() if value is not None}
    if distance_tolerance is not None:
        body["distance_tolerance"] = options.parse_tolerance(distance_tolerance)
    if phase is Phase.GENERATE and node_id is None and node_count is None:
        body |= {"node_id": 0, "node_count": 1}
    _check_finite(body)
    path = "/init" if phase is Phase.NONE else f"/init/{phase}"
    with PoCClient(url, api_key) as client:
        answer = client.post(path, body)
        _say_if_lowered(answer["pow_status"])
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


def _say_if_lowered(status: Mapping[str, Any]) -> None:
    """Say that the server takes smaller batches than it was asked for."""
    config = status.get("config") or {}
    taken, asked = config.get("batch_size"), config.get("requested_batch_size")
    if asked is not None and taken != asked:
        typer.echo(f"batch_size {asked} was lowered to {taken}")
