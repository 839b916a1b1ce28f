"""What the offline commands share: the model, and the recomputation with its progress."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hallmark.poc.core.errors import FieldError
from hallmark.server.cli.consoles import is_terminal, notes, say
from hallmark.server.cli.options import named_by_option
from hallmark.server.cli.words import counted, span

if TYPE_CHECKING:
    from rich.progress import Task

    from hallmark.poc.offline.engine import EngineLoader, OfflineEngine
    from hallmark.poc.offline.proof_files import DeliveredBatch
    from hallmark.poc.offline.recompute import Recomputation
    from hallmark.poc.protocol.config import PoCConfig
    from hallmark.poc.protocol.round import Round

__all__ = [
    "Device",
    "Dtype",
    "Engine",
    "EngineName",
    "NoState",
    "Quiet",
    "StateFile",
    "at_once",
    "how_to_go_on",
    "is_silent",
    "loaded",
    "loader",
    "most_batches",
    "recomputation",
    "run",
    "state_path",
]

Device = Annotated[
    str | None,
    typer.Option(help="Where to compute: cpu, cuda or cuda:N; by default a GPU where there is one."),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="What to run the model in: bfloat16, float16 or float32; by default what the proofs were "
        "computed in, or else what the model's configuration names."
    ),
]
StateFile = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="FILE",
        help="Where recomputed numbers are kept and looked up; by default beside the first file of proofs, "
        "with .verified.jsonl after its name.",
    ),
]
NoState = Annotated[bool, typer.Option("--no-state", help="Keep nothing and look nothing up.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


class EngineName(StrEnum):
    """What runs the model."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"


Engine = Annotated[
    EngineName,
    typer.Option(
        help="What runs the model: transformers, on one device, or vLLM in this process, with any of its own "
        "flags after --.",
    ),
]


def loader(
    engine: EngineName,
    directory: Path,
    device: str | None,
    dtype: str | None,
    flags: Sequence[str],
    config: "PoCConfig",
    batches: "Sequence[DeliveredBatch]",
    *,
    in_pool: bool,
) -> "EngineLoader":
    """Return what loads the model as the options, and where they leave it open the proofs, ask for it.

    Args:
        engine: What runs it.
        directory: Its folder.
        device: Of --device.
        dtype: Of --dtype.
        flags: The words after --.
        config: A round of the batches', whose shape they have.
        batches: The proofs.
        in_pool: Whether it is one of several on this machine.

    Raises:
        FieldError: Naming the option that is at fault.
    """
    from hallmark.poc.offline.model import DTYPES, TransformersLoader

    if dtype is not None and dtype not in DTYPES:
        raise FieldError("--dtype", dtype, ", ".join(DTYPES))
    stated = (batch.proof.numerics or {} for batch in batches)
    dtype = dtype or next((str(n["dtype"]) for n in stated if n.get("dtype") in DTYPES), None)
    if engine is EngineName.TRANSFORMERS:
        if flags:
            raise typer.BadParameter(f"flags of vLLM's, {flags[0]}, are of use with --engine vllm only")
        return TransformersLoader(directory, device, dtype)
    from hallmark.poc.engine.in_process import VllmLoader

    if device is not None:
        raise typer.BadParameter("--device is of use with --engine transformers only; vLLM finds its own")
    return VllmLoader(directory, config.batch_size, config.seq_len, dtype, tuple(flags), in_pool)


def most_batches(batches: "Sequence[DeliveredBatch]", config: "PoCConfig") -> int:
    """Return how many of an engine's batches some proofs make at most, where all is recomputed."""
    nonces: Counter[str] = Counter()
    for batch in batches:
        nonces[batch.proof.block_hash] += len(batch.proof.nonces)
    return sum(-(-count // config.batch_size) for count in nonces.values())


@contextmanager
def loaded(loader: "EngineLoader", *, quiet: bool) -> "Iterator[OfflineEngine]":
    """Load an engine, and close it afterwards.

    Raises:
        FieldError: Naming the option that is at fault.
        HallmarkError: What else keeps it from being loaded.
    """
    with named_by_option(), _spinner("loading the model", quiet=quiet):
        engine = loader.load()
    try:
        yield engine
    finally:
        engine.close()


def at_once(engine: "OfflineEngine") -> int:
    """Return how many batches an engine computes beside each other."""
    from hallmark.poc.actors.pool import ActorPool

    return max(1, engine.status.actors) if isinstance(engine, ActorPool) else 1


def state_path(proofs: Sequence[Path], state: Path | None, *, no_state: bool) -> Path | None:
    """Return the file of recomputed numbers; None keeps none, as for proofs from standard input."""
    if no_state:
        if state is not None:
            raise typer.BadParameter("give --state or --no-state, not both")
        return None
    if state is not None or str(proofs[0]) == "-":
        return state
    return proofs[0].with_name(f"{proofs[0].name}.verified.jsonl")


@contextmanager
def recomputation(
    engine: "OfflineEngine", loader: "EngineLoader", state: Path | None, *, quiet: bool
) -> Iterator["Recomputation"]:
    """Yield what recomputes, with the file that it keeps numbers in.

    Args:
        engine: What computes.
        loader: What loaded it.
        state: The file; None keeps nothing.
        quiet: Whether nobody is told what takes its time.

    Raises:
        FieldError: The file cannot be used.
    """
    from hallmark.poc.actors.pool import ActorPool
    from hallmark.poc.offline.number_file import NumberFile
    from hallmark.poc.offline.recompute import Recomputation

    if state is None:
        yield Recomputation(engine)
        return
    with ExitStack() as stack:
        # First, since a file that cannot be used is sooner told than a large model is read.
        file = stack.enter_context(NumberFile(state))
        if isinstance(engine, ActorPool):
            # The folder is on its nodes.
            fingerprint = engine.fingerprint
        else:
            with _spinner("reading the model's files", quiet=quiet):
                fingerprint = loader.fingerprint()
        yield Recomputation(engine, file, fingerprint)


def run(
    recomputation: "Recomputation",
    wanted: "Iterable[tuple[Round, Iterable[int]]]",
    state: Path | None,
    *,
    quiet: bool,
    seed: str | None = None,
) -> None:
    """Recompute nonces of rounds, with a progress bar where somebody looks.

    Args:
        recomputation: What recomputes.
        wanted: The nonces of each round.
        state: The file that it keeps numbers in.
        quiet: Whether there is no bar.
        seed: By which the nonces were drawn; None: they were not.

    Raises:
        EngineError: The device has no memory for a batch.
        StateError: The file of numbers cannot be written.
    """
    for round_, nonces in wanted:
        recomputation.want(round_, nonces)
    if recomputation.reused:
        say(f"{counted(recomputation.reused, 'nonce')} taken from {state}")
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("recomputing"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:,} of {task.total:,} nonces  {task.fields[rate]}"),
    )
    try:
        with Progress(*columns, console=notes(), transient=True, disable=is_silent(quiet=quiet)) as bar:
            task = bar.add_task("", total=recomputation.n_open, rate="")
            for size in recomputation.run():
                bar.advance(task, size)
                bar.update(task, rate=_rate(bar.tasks[task], recomputation.engine))
    except KeyboardInterrupt:
        left = counted(recomputation.n_open, "nonce")
        say(f"interrupted with {left} to go; {how_to_go_on(state, seed)}")
        raise


def how_to_go_on(state: Path | None, seed: str | None) -> str:
    """Return what is left of a command that was interrupted; the arguments as for `run`."""
    if state is None:
        return "nothing is kept"
    again = "" if seed is None else f" with --seed {seed}"
    return f"what was computed is kept in {state}; run it again{again} to go on"


def _rate(task: "Task", engine: "OfflineEngine") -> str:
    """Return how fast it goes, on how many actors, and how long it still takes."""
    from hallmark.poc.actors.pool import ActorPool

    if task.speed is None or task.time_remaining is None:
        return ""
    on = f" on {counted(engine.status.at_work, 'actor')}" if isinstance(engine, ActorPool) else ""
    return f"{task.speed:.3g} nonces/s{on}, {span(task.time_remaining)} left"


def is_silent(*, quiet: bool) -> bool:
    """Return whether nobody looks on, or wants to."""
    return quiet or not is_terminal(sys.stderr)


@contextmanager
def _spinner(what: str, *, quiet: bool) -> Iterator[None]:
    if is_silent(quiet=quiet):
        yield
        return
    with notes().status(what):
        yield
