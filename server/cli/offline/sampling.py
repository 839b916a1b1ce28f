"""Which nonces `hallmark verify` recomputes: all, some of each batch, or as many as a cheat takes."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hallmark.server.cli.consoles import notes, say
from hallmark.server.cli.offline.recomputing import how_to_go_on, is_silent
from hallmark.server.cli.options import named_by_option
from hallmark.server.cli.words import counted

if TYPE_CHECKING:
    from hallmark.poc.offline.cases import JudgedCase
    from hallmark.poc.offline.recompute import Recomputation
    from hallmark.poc.offline.samples import Search
    from hallmark.poc.offline.sequential import SequentialCases

__all__ = [
    "CheatError",
    "CheatShare",
    "Power",
    "Sample",
    "Sampling",
    "Seed",
    "Sequential",
    "run_sequentially",
    "sampling",
]

Sample = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Recompute only so many nonces of each batch, drawn by the seed."),
]
Sequential = Annotated[
    bool,
    typer.Option(
        "--sequential",
        help="Recompute the nonces of each prover and round, in an order drawn by the seed, only until it is "
        "convicted or cleared of --cheat.",
    ),
]
Power = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Recompute as many nonces of each prover and round as convict --cheat with this probability. "
        "With --sequential: the probability with which it is not cleared, 0.99 by default.",
    ),
]
CheatError = Annotated[
    float | None,
    typer.Option(
        "--cheat", metavar="E", help="What is looked for: numbers that are off by an RMS of so much, in s."
    ),
]
CheatShare = Annotated[
    float | None,
    typer.Option(metavar="F", help="In what share of a prover's nonces; by default 1. The others are exact."),
]
Seed = Annotated[
    str | None,
    typer.Option(help="What the draw depends on, nothing that provers could know; by default random."),
]

_DEFAULT_POWER = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which nonces are recomputed.

    Attributes:
        count: So many of each batch; None: not by number.
        search: As many as it takes to find this; None: not by power.
        is_sequential: One after the other, until there is enough to say.
        seed: What the draw depends on; empty where nothing is drawn.
        is_random: Whether it was drawn here, so that nobody else knows it.
    """

    count: int | None = None
    search: "Search | None" = None
    is_sequential: bool = False
    seed: str = ""
    is_random: bool = False

    def tell_seed(self) -> None:
        """Say by which seed nonces are drawn, so that a run that is killed can go on with the same draw."""
        if self.is_random:
            say(f"drawing by --seed {self.seed}")

    def drawn(self, cases: "Sequence[JudgedCase]") -> "tuple[list[JudgedCase], dict[str, Any] | None]":
        """Return batches with the nonces that are recomputed, and what the summary says of the draw."""
        from hallmark.poc.offline.samples import drawn

        return drawn(cases, self.seed, count=self.count, search=self.search)


def sampling(
    sample: int | None,
    power: float | None,
    cheat: float | None,
    cheat_share: float | None,
    seed: str | None,
    *,
    sequential: bool,
) -> Sampling:
    """Return what the options ask for.

    Raises:
        typer.BadParameter: They contradict each other, or lack one another.
        FieldError: One is out of its range.
    """
    is_search = sequential or power is not None
    if sample is not None and is_search:
        raise typer.BadParameter("give --sample, or --cheat with --power or --sequential, not both")
    if is_search and cheat is None:
        raise typer.BadParameter(f"--{'sequential' if sequential else 'power'} needs --cheat")
    if cheat is not None and not is_search:
        raise typer.BadParameter("--cheat is of use with --power or --sequential only")
    if cheat_share is not None and cheat is None:
        raise typer.BadParameter("--cheat-share is of use with --cheat only")
    if seed is not None and sample is None and not is_search:
        raise typer.BadParameter("--seed is of use with --sample, --power or --sequential only")
    if sample is None and not is_search:
        return Sampling()
    stated = secrets.token_hex(16) if seed is None else seed
    if cheat is None:
        return Sampling(count=sample, seed=stated, is_random=seed is None)
    from hallmark.poc.offline.samples import Search
    from hallmark.poc.verdict.cheat import Cheat

    with named_by_option():
        search = Search(
            cheat=Cheat(cheat, 1.0 if cheat_share is None else cheat_share),
            power=_DEFAULT_POWER if power is None else power,
            seed=stated,
        )
    return Sampling(search=search, is_sequential=sequential, seed=stated, is_random=seed is None)


def run_sequentially(
    cases: "SequentialCases", recomputation: "Recomputation", state: Path | None, seed: str, *, quiet: bool
) -> None:
    """Recompute until every prover is decided, with what is done where somebody looks.

    Raises:
        EngineError: The device has no memory for a batch.
        StateError: The file of numbers cannot be written.
    """
    from rich.progress import Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    try:
        with Progress(*columns, console=notes(), transient=True, disable=is_silent(quiet=quiet)) as bar:
            task = bar.add_task(_progress(cases))
            for _ in cases.run(recomputation):
                bar.update(task, description=_progress(cases))
    except KeyboardInterrupt:
        left = counted(cases.n_undecided, "prover")
        say(f"interrupted with {left} undecided; {how_to_go_on(state, seed)}")
        raise
    if recomputation.reused:
        say(f"{counted(recomputation.reused, 'nonce')} taken from {state}")


def _progress(cases: "SequentialCases") -> str:
    nonces = f"{cases.n_recomputed:,} of {cases.n_claimed:,} nonces"
    return f"recomputing  {nonces}, {counted(cases.n_undecided, 'prover')} undecided"
