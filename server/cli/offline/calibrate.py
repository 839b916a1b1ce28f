"""`hallmark calibrate`: how far honest recomputations on two platforms are apart."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.config import Concern
from hallmark.server.cli.consoles import AsJson, print_or_drop, results, say, show
from hallmark.server.cli.offline import pool_options, recomputing
from hallmark.server.cli.offline.engine_command import vllm_flags
from hallmark.server.cli.options import RoundFile, Stated, round_body, takes_settings
from hallmark.server.cli.words import counted

if TYPE_CHECKING:
    from rich.table import Table

    from hallmark.poc.offline.platforms import PlatformNumbers
    from hallmark.poc.verdict.calibration import Calibration

__all__ = ["calibrate", "shown"]


@takes_settings([Concern.COMPUTATION], {"model": "served_model"})
def calibrate(
    proofs: Annotated[
        list[Path],
        typer.Argument(
            metavar="PROOFS",
            help="Honest proofs of one platform, at rate 1; or what /validated callbacks carried.",
        ),
    ],
    stated: Stated,
    context: typer.Context,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Proofs of the same nonces from another platform; may be repeated."
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Recompute them here instead, with the model in this directory."),
    ] = None,
    hidden_size: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Width of the model's hidden state; needed without --model."),
    ] = None,
    engine: recomputing.Engine = recomputing.EngineName.TRANSFORMERS,
    round_file: RoundFile = None,
    device: recomputing.Device = None,
    dtype: recomputing.Dtype = None,
    ray: pool_options.Ray = None,
    actors: pool_options.Actors = None,
    gpus: pool_options.Gpus = None,
    cpus: pool_options.Cpus = None,
    state: recomputing.StateFile = None,
    no_state: recomputing.NoState = False,
    quiet: recomputing.Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure how far honest platforms are apart.

    It says what a round between them should allow for. The platforms are that of the proofs and, with
    --against, that of other proofs of the same nonces; with --model this machine; and with neither, for
    bodies of /validated, the validator's. Where both sides have vectors, all numbers of a nonce are
    compared. With fewer than 6,000 nonces only sigma is lowered below its default.
    """
    from hallmark.poc.offline import platforms
    from hallmark.poc.offline.proof_files import read_batches
    from hallmark.poc.offline.rounds import check_round, resolve_round

    if against and model is not None:
        raise typer.BadParameter("give --against or --model, not both")
    pool_options.check_used(ray, actors, gpus, cpus)
    flags = vllm_flags(context)
    if model is None and (flags or ray is not None or engine is not recomputing.EngineName.TRANSFORMERS):
        raise typer.BadParameter("--engine, --ray and vLLM's flags are of use with --model only")
    batches = read_batches(proofs)
    if model is not None:
        body = round_body(round_file, stated)
        config = check_round(body)
        path = recomputing.state_path(proofs, state, no_state=no_state)
        loader = recomputing.loader(
            engine, model, device, dtype, flags, config, batches, in_pool=ray is not None
        )
        pooled = pool_options.pooled(
            loader, ray, actors, gpus, cpus, batches=recomputing.most_batches(batches, config)
        )
        with recomputing.loaded(pooled, quiet=quiet) as loaded:
            width = loaded.facts.hidden_size
            if hidden_size not in (None, width):
                raise FieldError("--hidden-size", hidden_size, f"the model's, {width}")
            hidden_size = width
            rounds = [resolve_round(batch, body, loaded.facts, loaded.numerics) for batch in batches]
            with recomputing.recomputation(loaded, loader, path, quiet=quiet) as recomputation:
                wanted = [(round_, batch.proof.nonces) for round_, batch in zip(rounds, batches, strict=True)]
                recomputing.run(recomputation, wanted, path, quiet=quiet)
                second = platforms.recomputed(recomputation, rounds, loaded.numerics)
    else:
        second = platforms.claimed(read_batches(against)) if against else platforms.validated(batches)
    first = platforms.claimed(batches)
    if hidden_size is None:
        raise FieldError("--hidden-size", None, "the width of the model's hidden state, or --model")
    common = [key for key in first.distances if key in second.distances]
    calibration = platforms.measured(first, second, common, hidden_size)
    warnings = [*_warnings(calibration, first, second)]
    if as_json:
        print_or_drop(_as_json(calibration, hidden_size, first, second, warnings))
    else:
        show(results(), *shown(calibration))
        for warning in warnings:
            say(f"hallmark: {warning}")


def _warnings(
    calibration: "Calibration", first: "PlatformNumbers", second: "PlatformNumbers"
) -> Iterator[str]:
    from hallmark.poc.verdict.calibration import ENOUGH_NONCES

    if calibration.n < ENOUGH_NONCES:
        yield (
            f"{calibration.n} nonces are too few to state less than the defaults of honest_kurtosis, "
            f"honest_beyond and honest_design_effect; that takes {ENOUGH_NONCES:,}"
        )
    if calibration.numbers == 1 and any(
        len(n) > 1 for side in (first, second) for n in side.numbers.values()
    ):
        yield "not all nonces have vectors on both sides: only distances are compared"
    if first.numerics and first.numerics == second.numerics:
        yield "both sides name the same platform: nothing is measured between platforms"


def _as_json(
    calibration: "Calibration",
    hidden_size: int,
    first: "PlatformNumbers",
    second: "PlatformNumbers",
    warnings: Sequence[str],
) -> str:
    measured: dict[str, Any] = asdict(calibration)
    settings = calibration.settings
    return json.dumps(
        {
            "hidden_size": hidden_size,
            **{name: value for name, value in measured.items() if name not in settings},
            "settings": settings,
            "platforms": [dict(first.numerics), dict(second.numerics)],
            "warnings": list(warnings),
        }
    )


def shown(found: "Calibration") -> "tuple[Table, str]":
    """Return what was measured as a table, and what its unit is."""
    from hallmark.server.cli.tables import name_table

    settings = " ".join(f"--{name.replace('_', '-')}={value:g}" for name, value in found.settings.items())
    rows = {
        "nonces": f"{found.n:,}, of each {counted(found.numbers, 'number')}",
        "sigma": f"{found.sigma:.4f} s, at most {found.sigma_bound:.4f} s",
        "kurtosis": f"{found.kurtosis:.2f} (3 is Gaussian)",
        "mean": f"{found.mean:+.4f} s",
        "largest": f"{found.largest:.4f} s",
        "beyond": f"{found.n_beyond:,} of {counted(found.n * found.numbers, 'number')}, at most a share of "
        f"{found.beyond_bound:.2g}",
        "design effect": "too few are beyond"
        if found.design_effect is None
        else f"{found.design_effect:.2f} numbers beyond count as one",
        "settings": settings,
    }
    return (
        name_table(rows.items()),
        "s: the standard deviation of an unrelated distance or number; bounds hold with 99.9 % confidence.",
    )
