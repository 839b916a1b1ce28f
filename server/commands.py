"""The tree of commands under `hallmark`.

Modules of commands import at their top what parses and shows options, and in their functions what does the
work: a shell asks for completions at each key, and nobody waits a second for a page of help.
"""

from typing import Annotated

import typer

from hallmark.server.cli import completion, outbox, power, secret, target, version
from hallmark.server.cli.bad_values import RootGroup
from hallmark.server.cli.consoles import WIDE
from hallmark.server.cli.fleet import start as fleet_start
from hallmark.server.cli.fleet import status as fleet_status
from hallmark.server.cli.fleet import stop as fleet_stop
from hallmark.server.cli.fleet import watch as fleet_watch
from hallmark.server.cli.offline import calibrate, verify
from hallmark.server.cli.offline.engine_command import EngineCommand
from hallmark.server.cli.queue import cancel as queue_cancel
from hallmark.server.cli.queue import export as queue_export
from hallmark.server.cli.queue import order as queue_order
from hallmark.server.cli.queue import retry as queue_retry
from hallmark.server.cli.queue import status as queue_status
from hallmark.server.cli.queue import worker
from hallmark.server.cli.receiver import export, listing, run, stats
from hallmark.server.cli.round import list_, start, status, stop, validate, watch
from hallmark.server.cli.serve import command as serve
from hallmark.server.demo import command as demo
from hallmark.server.doctor import command as doctor
from hallmark.server.models import command as model

__all__ = ["app"]

app = typer.Typer(
    name="hallmark",
    cls=RootGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: tables with frames cut the names of long options at 80 columns.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": WIDE},
)


@app.callback()
def _hallmark(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=version.print_version,
            is_eager=True,
            help="Print the versions of Hallmark, its protocol, vLLM, PyTorch and Python.",
        ),
    ] = False,
) -> None:
    """Prove and check that servers run the model they claim: proof of compute for vLLM."""


# Everything after the model is vLLM's, `--help` included.
app.command(
    context_settings={
        "allow_extra_args": True,
        "allow_interspersed_args": False,
        "ignore_unknown_options": True,
    }
)(serve.serve)
app.command()(secret.secret)
app.command()(target.target)
app.command()(power.power)
app.command(cls=EngineCommand)(verify.verify)
app.command(cls=EngineCommand)(calibrate.calibrate)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.command()(completion.completion)

_model = typer.Typer(help="Provide a model to try Hallmark with.", no_args_is_help=True)
_model.command("smollm2")(model.smollm2)
_model.command("small")(model.small)
app.add_typer(_model, name="model")

_round = typer.Typer(help="Start, watch, stop and validate rounds on a running server.", no_args_is_help=True)
_round.command("start")(start.start)
_round.command("status")(status.status)
_round.command("watch")(watch.watch)
_round.command("list")(list_.list_)
_round.command("validate")(validate.validate)
_round.command("stop")(stop.stop)
app.add_typer(_round, name="round")

_fleet = typer.Typer(help="Start, watch and stop a round on many servers at once.", no_args_is_help=True)
_fleet.command("start")(fleet_start.start)
_fleet.command("status")(fleet_status.status)
_fleet.command("watch")(fleet_watch.watch)
_fleet.command("stop")(fleet_stop.stop)
app.add_typer(_fleet, name="fleet")

_receiver = typer.Typer()
_receiver.callback(invoke_without_command=True)(run.receiver)
_receiver.command("list")(listing.list_)
_receiver.command("export")(export.export)
_receiver.command("stats")(stats.stats)
app.add_typer(_receiver, name="receiver")

_queue = typer.Typer(help="Order that batches are verified, and see what comes of it.", no_args_is_help=True)
_queue.command("order")(queue_order.order)
_queue.command("status")(queue_status.status)
_queue.command("export")(queue_export.export)
_queue.command("cancel")(queue_cancel.cancel)
_queue.command("retry")(queue_retry.retry)
app.add_typer(_queue, name="queue")
app.command(cls=EngineCommand)(worker.worker)

_outbox = typer.Typer(help="Look at the callbacks of a server, and decide about them.", no_args_is_help=True)
_outbox.command("list")(outbox.list_)
_outbox.command("retry")(outbox.retry)
_outbox.command("drop")(outbox.drop)
_outbox.command("export")(outbox.export)
app.add_typer(_outbox, name="outbox")
