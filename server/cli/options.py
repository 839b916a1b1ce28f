"""The options that say what a round is, on every command that takes some of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hallmark.poc.core.errors import FieldError

__all__ = [
    "BatchSize",
    "DistanceTolerance",
    "FraudThreshold",
    "HonestKurtosis",
    "HonestSigma",
    "InputScale",
    "NGroups",
    "NodeCount",
    "ProjectionScale",
    "RTarget",
    "RandomProjection",
    "RoundFile",
    "SeqLen",
    "ServedModel",
    "ValidRate",
    "parse_tolerance",
    "round_body",
]

RTarget = Annotated[float | None, typer.Option(help="A nonce counts when its distance is below this.")]
ValidRate = Annotated[
    float | None,
    typer.Option(
        help="The share of nonces that count, instead of --r-target. Below 1 saves bandwidth and costs "
        "soundness: a prover may run only the nonces that look promising."
    ),
]
FraudThreshold = Annotated[
    float | None, typer.Option(help="A batch is fraud when its p-value is below this.")
]
DistanceTolerance = Annotated[
    str | None,
    typer.Option(
        metavar="FLOAT|none",
        help="How far a claim may be off, in units of s; none is the older systems' rule.",
    ),
]
HonestSigma = Annotated[
    float | None,
    typer.Option(
        help="RMS of honest differences between the platforms of this round, in units of s, as measured; by "
        "default the tolerance / 3.5."
    ),
]
HonestKurtosis = Annotated[
    float | None, typer.Option(help="Kurtosis of the same differences; 3 is Gaussian.")
]
NodeCount = Annotated[int | None, typer.Option(help="How many nodes share the nonces.")]
NGroups = Annotated[int | None, typer.Option(help="How many engines the node has.")]
BatchSize = Annotated[int | None, typer.Option(help="Nonces in one forward.")]
SeqLen = Annotated[int | None, typer.Option(help="Rows of a nonce's input.")]
RandomProjection = Annotated[bool | None, typer.Option(help="Off is the plain PoC 2.0, without projections.")]
ProjectionScale = Annotated[
    float | None, typer.Option(help="Standard deviation of the projections' elements.")
]
InputScale = Annotated[float | None, typer.Option(help="Standard deviation of the inputs, a power of two.")]
ServedModel = Annotated[
    str | None, typer.Option(help="The name that the round gave the model, where it gave one.")
]
RoundFile = Annotated[
    Path | None,
    typer.Option(
        "--round",
        metavar="FILE",
        help="JSON: the body that the round was set with. Options override it; proofs of "
        "other blocks are refused.",
    ),
]

_TARGET = frozenset({"r_target", "valid_rate"})


def parse_tolerance(text: str) -> float | None:
    """The value of --distance-tolerance; None for the older rule.

    Raises:
        FieldError: It is neither a number nor `none`.
    """
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError as exc:
        raise FieldError("--distance-tolerance", text, "a number, or none") from exc


def round_body(file: Path | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The body of `/init` that a file and options together stand for.

    Args:
        file: Of --round.
        options: By the names of the body's fields; None is an option that was not given.

    Raises:
        FieldError: The file holds no JSON object.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(given.get("distance_tolerance"), str):
        given["distance_tolerance"] = parse_tolerance(given["distance_tolerance"])
    if file is None:
        return given
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise FieldError("--round", str(file), f"a readable file of JSON ({exc})") from exc
    if not isinstance(stated, dict):
        raise FieldError("--round", str(file), "a file with the body of /init as one JSON object")
    if _TARGET & given.keys():
        # Either says it all: what is stated of the other would only contradict.
        stated = {name: value for name, value in stated.items() if name not in _TARGET}
    return stated | given
