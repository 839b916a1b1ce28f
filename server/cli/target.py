"""`hallmark target`: from a valid rate to an `r_target`, and back."""

import json
from typing import Annotated

import typer

from hallmark.poc.core.errors import FieldError
from hallmark.server.cli.consoles import AsJson, print_or_drop

__all__ = ["target"]


def target(
    hidden_size: Annotated[int, typer.Option(metavar="N", help="Width of the model's hidden state.")],
    rate: Annotated[
        float | None, typer.Option("--valid-rate", metavar="RATE", help="The share of nonces that count.")
    ] = None,
    r_target: Annotated[
        float | None, typer.Option(metavar="DISTANCE", help="The distance below which a nonce counts.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert between a round's valid rate and its r_target.

    By the exact law of the distance, which holds for every model of that width and every block: nothing has
    to be calibrated.
    """
    from hallmark.poc.protocol.config import DEFAULT_TOLERANCE
    from hallmark.poc.protocol.law import distance_std, r_target_for, valid_rate

    if (rate is None) == (r_target is None):
        raise typer.BadParameter("give one of --valid-rate and --r-target")
    if rate is not None:
        r_target = r_target_for(rate, hidden_size)
    elif r_target is not None:
        if not r_target > 0:
            raise FieldError("r_target", r_target, "a number above 0")
        rate = valid_rate(r_target, hidden_size)
    std = distance_std(hidden_size)
    tolerance = DEFAULT_TOLERANCE * std
    if as_json:
        found = {"r_target": r_target, "valid_rate": rate, "s": std, "tolerance": tolerance}
        print_or_drop(json.dumps(found))
        return
    print_or_drop(
        f"r_target    {r_target!r}\n"
        f"valid_rate  {rate!r} of nonces\n"
        f"s           {std!r}, standard deviation of a distance\n"
        f"tolerance   {tolerance!r}, the default of {DEFAULT_TOLERANCE} s"
    )
