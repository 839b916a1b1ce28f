"""What the offline commands share: the model, and the recomputation with its progress."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hallmark.poc.core.errors import FieldError
from hallmark.server.cli.consoles import notes, say
from hallmark.server.cli.words import counted, span

if TYPE_CHECKING:
    from rich.progress import Task

    from hallmark.poc.offline.model import OfflineModel
    from hallmark.poc.offline.proof_files import DeliveredBatch
    from hallmark.poc.offline.recompute import Recomputation
    from hallmark.poc.protocol.round import Round

__all__ = [
    "Device",
    "Dtype",
    "NoState",
    "Quiet",
    "StateFile",
    "load_model",
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


def load_model(
    directory: Path,
    device: str | None,
    dtype: str | None,
    batches: "Sequence[DeliveredBatch]",
    *,
    quiet: bool,
) -> "OfflineModel":
    """Load the model as the options, and where they leave it open the proofs, ask for it.

    Raises:
        FieldError: Naming the option that is at fault.
        UnsupportedError: transformers is not installed.
    """
    from hallmark.poc.offline.model import DTYPES, OfflineModel, import_transformers

    if dtype is not None and dtype not in DTYPES:
        raise FieldError("--dtype", dtype, ", ".join(DTYPES))
    stated = (batch.proof.numerics or {} for batch in batches)
    dtype = dtype or next((str(n["dtype"]) for n in stated if n.get("dtype") in DTYPES), None)
    import_transformers().utils.logging.disable_progress_bar()
    try:
        with _spinner("loading the model", quiet=quiet):
            model = OfflineModel.load(directory, device=_checked_device(device), dtype=dtype)
            model.check_kernels()
    except FieldError as exc:
        raise FieldError(f"--{exc.field}", exc.value, exc.allowed) from exc
    return model


def state_path(proofs: Sequence[Path], state: Path | None, *, no_state: bool) -> Path | None:
    """The file of recomputed numbers; None keeps none, as for proofs from standard input."""
    if no_state:
        if state is not None:
            raise typer.BadParameter("give --state or --no-state, not both")
        return None
    if state is not None or str(proofs[0]) == "-":
        return state
    return proofs[0].with_name(f"{proofs[0].name}.verified.jsonl")


@contextmanager
def recomputation(
    model: "OfflineModel", directory: Path, state: Path | None, *, quiet: bool
) -> Iterator["Recomputation"]:
    """What recomputes, with the file that it keeps numbers in.

    Raises:
        FieldError: The file cannot be used.
    """
    from hallmark.poc.offline.number_file import NumberFile
    from hallmark.poc.offline.recompute import Recomputation, model_fingerprint

    if state is None:
        yield Recomputation(model)
        return
    with ExitStack() as stack:
        # First, since a file that cannot be used is sooner told than a large model is read.
        file = stack.enter_context(NumberFile(state))
        with _spinner("reading the model's files", quiet=quiet):
            fingerprint = model_fingerprint(directory)
        yield Recomputation(model, file, fingerprint)


def run(
    recomputation: "Recomputation",
    wanted: "Iterable[tuple[Round, Iterable[int]]]",
    state: Path | None,
    *,
    quiet: bool,
) -> None:
    """Recompute nonces of rounds, with a progress bar where somebody looks.

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
        with Progress(*columns, console=notes(), transient=True, disable=_is_silent(quiet=quiet)) as bar:
            task = bar.add_task("", total=recomputation.n_open, rate="")
            for size in recomputation.run():
                bar.advance(task, size)
                bar.update(task, rate=_rate(bar.tasks[task]))
    except KeyboardInterrupt:
        kept = (
            "nothing is kept"
            if state is None
            else f"what was computed is kept in {state}; run it again to go on"
        )
        say(f"interrupted with {counted(recomputation.n_open, 'nonce')} to go; {kept}")
        raise


def _rate(task: "Task") -> str:
    """Return how fast it goes, and how long it still takes."""
    if task.speed is None or task.time_remaining is None:
        return ""
    return f"{task.speed:.3g} nonces/s, {span(task.time_remaining)} left"


def _is_silent(*, quiet: bool) -> bool:
    return quiet or not sys.stderr.isatty()


@contextmanager
def _spinner(what: str, *, quiet: bool) -> Iterator[None]:
    if _is_silent(quiet=quiet):
        yield
        return
    with notes().status(what):
        yield


def _checked_device(name: str | None) -> str:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return "cuda" if count else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise FieldError("device", name, "cpu, cuda or cuda:N") from exc
    if device.type not in ("cpu", "cuda"):
        raise FieldError("device", name, "cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise FieldError("device", name, f"cpu, or one of the {count} GPUs that PyTorch sees here")
    return name
