"""`hallmark power`: how many nonces convict a cheat, or clear an honest prover."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.config import Concern
from hallmark.server.cli.consoles import AsJson, print_or_drop, results, say, show
from hallmark.server.cli.options import Stated, named_by_option, round_body, takes_settings
from hallmark.server.cli.words import counted

if TYPE_CHECKING:
    from rich.table import Table

    from hallmark.poc.protocol.config import PoCConfig
    from hallmark.poc.verdict.cheat import Allowance, Cheat
    from hallmark.poc.verdict.power import Stops

__all__ = ["power"]

_WORDS: Final = {
    "cheat": "such a prover",
    "honest_at_sigma": "an honest one, at sigma",
    "honest_exact": "an honest one, exact",
}
"""Provers, by their names in JSON."""


@takes_settings([Concern.JUDGEMENT])
def power(
    cheat: Annotated[
        float,
        typer.Option(metavar="E", help="RMS of what the numbers of a wrong nonce are off by, in s."),
    ],
    stated: Stated,
    cheat_share: Annotated[
        float, typer.Option(metavar="F", help="The share of its nonces that are wrong.")
    ] = 1.0,
    power: Annotated[
        float, typer.Option(metavar="P", help="The probability with which the cheat is to be found.")
    ] = 0.99,
    numbers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Numbers of a nonce that are judged: 1 without vectors; by default the round's, 16 for the "
            "default seq_len.",
        ),
    ] = None,
    round_file: Annotated[
        Path | None,
        typer.Option(
            "--round",
            metavar="FILE",
            help="JSON: the body that the round was set with, of whatever block. Options override it.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say how many nonces convict a cheat.

    A cheat is stated by how far its numbers are off, in s, the standard deviation of an unrelated number.
    The answer is how many nonces one batch needs, for verify's --power, and after how many verify
    --sequential is expected to convict such a prover or to clear an honest one. It is found by simulation,
    which has the same answer each time, and needs no model.
    """
    from hallmark.poc.offline.rounds import check_round
    from hallmark.poc.verdict.cheat import Allowance, Cheat
    from hallmark.poc.verdict.clearing import check_power
    from hallmark.poc.verdict.power import nonces_needed, stops_of_cheats, stops_of_honest

    config = check_round(round_body(round_file, stated))
    with named_by_option():
        looked_for = Cheat(cheat, cheat_share)
        check_power(power)
        allowed = Allowance.of_config(config, _numbers(config, numbers), _rate(config))
    needed = nonces_needed(looked_for, allowed, power=power)
    stops: dict[str, Stops] = {}
    problem: FieldError | None = None
    try:
        stops["cheat"] = stops_of_cheats(looked_for, allowed, power=power)
    except FieldError as exc:
        # A share of wrong nonces that one batch convicts may leave the mean square as it is.
        problem = exc
    else:
        for name, noise in (("honest_at_sigma", allowed.sigma), ("honest_exact", 0.0)):
            stops[name] = stops_of_honest(looked_for, allowed, noise, power=power)
    if as_json:
        print_or_drop(_as_json(looked_for, power, allowed, needed, stops))
    else:
        show(results(), *_shown(looked_for, power, allowed, needed, stops))
    if problem is not None:
        say(f"hallmark: verify --sequential does not look for it: {problem}")


def _rate(config: "PoCConfig") -> float:
    """Return the round's valid rate, without the width of a model."""
    if config.r_target is not None and config.r_target < 2.0 and config.valid_rate is None:
        raise FieldError(
            "--r-target", config.r_target, "2 or more; below, state --valid-rate, which hallmark target tells"
        )
    return 1.0 if config.valid_rate is None else config.valid_rate


def _numbers(config: "PoCConfig", asked: int | None) -> int:
    """Return how many numbers a nonce of the round gives, of a model that has what it may ask for.

    Args:
        config: The round.
        asked: Of --numbers; None: as many as by the round's settings.

    Raises:
        FieldError: The round cannot give so many.
    """
    from hallmark.poc.protocol.config import DeployedModel
    from hallmark.poc.protocol.definition import Definition

    plenty = 2**31
    model = DeployedModel(
        hidden_size=2,
        dtype="bfloat16",
        vocabulary=plenty,
        table_rows=plenty,
        first=None,
        served_names=(),
        max_batched_tokens=plenty,
        max_sequences=plenty,
        max_model_len=plenty,
    )
    own = Definition.resolve(config, model).numbers
    if asked in (None, 1):
        return asked or own  # without vectors 1, of any round
    with named_by_option():
        return Definition.resolve(replace(config, numbers=asked), model).numbers


def _as_json(
    cheat: "Cheat", power: float, allowed: "Allowance", needed: int | None, stops: "dict[str, Stops]"
) -> str:
    from hallmark.poc.verdict.power import MAX_NONCES

    found: dict[str, Any] = {
        "cheat": cheat.error,
        "cheat_share": cheat.share,
        "power": power,
        "round": asdict(allowed),
        "most": MAX_NONCES,
        "one_batch": needed,
        "sequential": {name: stop._asdict() for name, stop in stops.items()} or None,
    }
    return json.dumps(found)


def _shown(
    cheat: "Cheat", power: float, allowed: "Allowance", needed: int | None, stops: "dict[str, Stops]"
) -> "Iterator[Table | str]":
    from hallmark.poc.verdict.power import MAX_NONCES
    from hallmark.server.cli.tables import name_table, new_table

    def nonces(count: int | None) -> str:
        return f"> {MAX_NONCES:,}" if count is None else f"{count:,}"

    whose = "every nonce" if cheat.share == 1.0 else f"{cheat.share:.3g} of the nonces"
    judged = [
        f"honest sigma {allowed.sigma:.4g} s",
        f"kurtosis {allowed.kurtosis:.4g}",
        f"fraud threshold {allowed.threshold:g}",
        f"valid rate {allowed.rate:.4g}",
        f"{counted(allowed.numbers, 'number')} of a nonce",
    ]
    if needed is None:
        batch = f"{MAX_NONCES:,} nonces do not convict it with a probability of {power:g}"
    else:
        batch = f"{counted(needed, 'nonce')} convict it with a probability of {power:g}"
    yield name_table(
        {
            "cheat": f"{cheat.error:.4g} s off in {whose}",
            "round": ", ".join(judged),
            "one batch": batch,
        }.items()
    )
    if not stops:
        return
    columns = ("median", "99 %", "convicted", "cleared")
    table = new_table("nonces one by one", *columns, numbers=columns)
    for name, stop in stops.items():
        shares = (f"{share:.3g}" for share in (stop.convicted, stop.cleared))
        table.add_row(_WORDS[name], nonces(stop.median), nonces(stop.nearly_all), *shares)
    yield ""
    yield table
    yield f"When verify --sequential stops, within {MAX_NONCES:,} nonces, and shares of provers."
