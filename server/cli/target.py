"""`hallmark target`: from a valid rate to an `r_target`, and back."""

from typing import Annotated

import typer

from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.config import DEFAULT_TOLERANCE
from hallmark.poc.protocol.law import distance_std, r_target_for, valid_rate

__all__ = ["target"]


def target(
    hidden_size: Annotated[int, typer.Option(help="Width of the model's hidden state.")],
    rate: Annotated[
        float | None, typer.Option("--valid-rate", help="The share of nonces that count.")
    ] = None,
    r_target: Annotated[float | None, typer.Option(help="The distance below which a nonce counts.")] = None,
) -> None:
    """Convert between a round's valid rate and its r_target, by the exact law of the distance.

    It holds for every model of that width and every block: nothing has to be calibrated.
    """
    if (rate is None) == (r_target is None):
        raise typer.BadParameter("give one of --valid-rate and --r-target")
    if rate is not None:
        r_target = r_target_for(rate, hidden_size)
    elif r_target is not None:
        if not r_target > 0:
            raise FieldError("r_target", r_target, "a number above 0")
        rate = valid_rate(r_target, hidden_size)
    std = distance_std(hidden_size)
    units = DEFAULT_TOLERANCE
    typer.echo(f"r_target    {r_target!r}")
    typer.echo(f"valid_rate  {rate!r}")
    typer.echo(f"s           {std!r}  (standard deviation of an unrelated distance)")
    typer.echo(f"tolerance   {units * std!r}  (the default, {units} s)")
