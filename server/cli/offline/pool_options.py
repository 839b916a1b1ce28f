"""The options that spread a recomputation over Ray's actors."""

from typing import TYPE_CHECKING, Annotated

import typer

from hallmark.server.cli.consoles import say

if TYPE_CHECKING:
    from hallmark.poc.offline.engine import EngineLoader

__all__ = ["Actors", "Cpus", "Gpus", "Ray", "check_used", "pooled"]

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Compute on Ray's actors, each with the model: on the cluster whose head is at HOST:PORT, with "
        "auto on the one that this machine is part of, else on all GPUs or CPUs of this machine.",
    ),
]
Actors = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="How many actors there may be; by default as many as the cluster has room for.",
    ),
]
Gpus = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="GPUs that an actor takes; by default 1, or vLLM's --tensor-parallel-size, where the cluster "
        "has any.",
    ),
]
Cpus = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="N", help="CPUs that an actor takes; by default as many where it takes no GPU."
    ),
]


def check_used(ray: str | None, actors: int | None, gpus: int | None, cpus: int | None) -> None:
    """Refuse what only says how --ray is to be done.

    Raises:
        typer.BadParameter: It is given without.
    """
    for option, value in (("--actors", actors), ("--gpus", gpus), ("--cpus", cpus)):
        if ray is None and value is not None:
            raise typer.BadParameter(f"{option} is of use with --ray only")


def pooled(
    loader: "EngineLoader",
    ray: str | None,
    actors: int | None,
    gpus: int | None,
    cpus: int | None,
    *,
    batches: int = 1,
) -> "EngineLoader":
    """Return what loads the engine into Ray's actors, or the loader itself where no actors are asked for.

    Args:
        loader: Loads the engine.
        ray: Of --ray; empty without an address, None where it was not given.
        actors: Of --actors.
        gpus: Of --gpus.
        cpus: Of --cpus.
        batches: How many batches will be asked for, as far as is known.
    """
    if ray is None:
        return loader
    from hallmark.poc.actors.pool import PoolLoader

    if gpus is None and getattr(loader, "device", None) == "cpu":
        gpus = 0
    return PoolLoader(loader, ray or None, actors, gpus, cpus, batches, say)
