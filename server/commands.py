"""The tree of commands under `hallmark`."""

import typer

from hallmark.server.cli import outbox, receiver, secret, target
from hallmark.server.cli.offline import calibrate, verify
from hallmark.server.cli.round import start, status, stop, validate
from hallmark.server.cli.serve import command as serve
from hallmark.server.demo import command as demo
from hallmark.server.models import command as model

__all__ = ["app"]

app = typer.Typer(
    name="hallmark",
    help="Proof of compute for LLM serving, on a stock vLLM server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
# Everything after the model is vLLM's, `--help` included.
app.command(
    context_settings={
        "allow_extra_args": True,
        "allow_interspersed_args": False,
        "ignore_unknown_options": True,
    }
)(serve.serve)
app.command()(receiver.receiver)
app.command()(secret.secret)
app.command()(target.target)
app.command()(verify.verify)
app.command()(calibrate.calibrate)
app.command()(demo.demo)

_model = typer.Typer(help="Provide a model to try Hallmark with.", no_args_is_help=True)
_model.command("smollm2")(model.smollm2)
_model.command("small")(model.small)
app.add_typer(_model, name="model")

_round = typer.Typer(help="Start, watch, stop and validate rounds on a running server.", no_args_is_help=True)
_round.command("start")(start.start)
_round.command("status")(status.status)
_round.command("validate")(validate.validate)
_round.command("stop")(stop.stop)
app.add_typer(_round, name="round")

_outbox = typer.Typer(
    help="Look at the callbacks that a server keeps, and decide about them.", no_args_is_help=True
)
_outbox.command("list")(outbox.list_)
_outbox.command("retry")(outbox.retry)
_outbox.command("drop")(outbox.drop)
_outbox.command("export")(outbox.export)
app.add_typer(_outbox, name="outbox")
