"""`hallmark doctor`: look at an installation, and at a running server."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

import typer

from hallmark.server.cli.client import ApiKey
from hallmark.server.cli.consoles import AsJson, print_or_drop, results, show

if TYPE_CHECKING:
    from hallmark.server.doctor.configuration import Configuration
    from hallmark.server.doctor.finding import Finding

__all__ = ["doctor"]

_WIDTH: Final = 4096
"""Of hidden states, where no model says another."""

_NO_SETTINGS: Final = "the settings are to be corrected first"


def doctor(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[URL] [-- FLAGS...]",
            help="A running server, http://HOST:PORT, to look at; after -- the flags of hallmark serve.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Look whether this model can be served; takes half a minute."),
    ] = None,
    receiver: Annotated[
        str | None, typer.Option(metavar="URL", help="Look whether callbacks get to this receiver.")
    ] = None,
    as_json: AsJson = False,
    api_key: ApiKey = None,
) -> None:
    """Find what keeps a node from proving itself, and what to do.

    It looks at this installation: vLLM and the plugins, device, kernels, memory, caches, clock, token,
    secrets and outbox, with the settings of the flags after --. Given a URL, it looks at that server too.

    \b
      hallmark doctor --model Qwen/Qwen3-8B -- --config node.yaml
      hallmark doctor http://127.0.0.1:8000

    Nothing is changed, and no secret is shown. The exit code is 0 where there is no problem, warnings or not,
    1 where there is one, and 2 where it could not look.
    """  # noqa: D301  # the sign by which help keeps lines as they are
    from hallmark.poc.core.errors import HallmarkError
    from hallmark.server.doctor.configuration import Configuration
    from hallmark.server.doctor.finding import Finding, Outcome
    from hallmark.server.doctor.report import as_json as in_json
    from hallmark.server.doctor.report import view
    from hallmark.server.doctor.running_server import RunningServer, examine_server

    given = arguments or []
    url = given[0] if given and not given[0].startswith("-") else None
    flags = given if url is None else given[1:]
    if flags and not flags[0].startswith("-"):
        raise typer.BadParameter(f"one server at a time, and vLLM's flags after --: {flags[0]!r} is neither")
    findings = []
    configuration = None
    try:
        configuration = Configuration(flags, os.environ)
    except HallmarkError as exc:
        findings.append(
            Finding.problem("settings", str(exc), "correct it; docs/reference/settings.md lists the settings")
        )
    token = None if configuration is None else configuration.settings.api_key
    api_key = api_key or (None if token is None else token.get_secret_value())
    # A URL that is none is refused before anything takes its time.
    server = None if url is None else RunningServer(url, api_key)
    findings += _installation(configuration, flags, model, is_serving=url is not None)
    findings += _configured(configuration, receiver)
    if server is not None:
        findings += examine_server(server)
    passed = not any(finding.outcome is Outcome.PROBLEM for finding in findings)
    if as_json:
        print_or_drop(in_json(findings, passed=passed))
    else:
        show(results(), view(findings))
    raise typer.Exit(0 if passed else 1)


def _installation(
    configuration: "Configuration | None", flags: list[str], model: str | None, *, is_serving: bool
) -> Iterator["Finding"]:
    """Look at what is here, whatever it is to be used with."""
    import torch

    from hallmark.poc.core.errors import HallmarkError
    from hallmark.server.doctor import installation, machine
    from hallmark.server.doctor.finding import Finding, Outcome, examine
    from hallmark.server.doctor.model import examine_model, inspect, weight_bytes

    environment = dict(os.environ)
    reinstall = "install Hallmark anew, into the environment that has vLLM"
    yield from examine("hallmark", installation.examine_hallmark, reinstall)
    allow = configuration is not None and configuration.settings.allow_unsupported_vllm
    vllm = examine("vllm", lambda: installation.examine_vllm(allow_unsupported=allow), reinstall)
    yield from vllm
    yield from examine("plugins", lambda: installation.examine_plugins(environment), reinstall)
    yield from examine(
        "device", lambda: machine.examine_device(machine.Device.of_this_machine()), "look at the driver"
    )
    dtype, width = torch.bfloat16, _WIDTH
    ranks = 1 if configuration is None else configuration.ranks
    if model is None:
        yield Finding.skipped("model", "give --model MODEL to look whether it can be served")
    elif configuration is None:
        yield Finding.skipped("model", _NO_SETTINGS)
    elif any(finding.outcome is Outcome.PROBLEM for finding in vllm):
        yield Finding.skipped("model", "vLLM is to be mended first")
    else:
        try:
            inspected = inspect(model, flags, environment)
        except HallmarkError as exc:
            yield Finding.problem(
                "model",
                str(exc),
                "correct the flag, or take another model: docs/reference/models.md lists them",
            )
        else:
            dtype, width = getattr(torch, inspected["dtype"]), inspected["hidden_size"]
            ranks = inspected["ranks"]
            yield from examine_model(inspected)
    yield from examine(
        "kernels",
        lambda: machine.examine_kernels(dtype, width),
        "do not prove on this machine: try another version of PyTorch and Triton, and report both",
    )
    yield from examine(
        "memory",
        lambda: machine.examine_memory(
            ranks, 0 if model is None else weight_bytes(model), is_serving=is_serving
        ),
        "look at the driver, and whether this user can read the model's folder",
    )
    yield from examine("caches", lambda: installation.examine_caches(environment), "make the folders")
    yield from examine("clock", machine.examine_clock, "run a time service")


def _configured(configuration: "Configuration | None", receiver: str | None) -> Iterator["Finding"]:
    """Look at what the settings name."""
    from hallmark.server.doctor.configuration import examine_outbox, examine_secrets, examine_token
    from hallmark.server.doctor.finding import Finding, examine
    from hallmark.server.doctor.receiver import examine_receiver

    if configuration is None:
        for name in ("token", "secrets", "outbox", "receiver"):
            yield Finding.skipped(name, _NO_SETTINGS)
        return
    yield from examine("token", lambda: examine_token(configuration), "correct the setting")
    yield from examine("secrets", lambda: examine_secrets(configuration), "correct the setting")
    yield from examine(
        "outbox",
        lambda: examine_outbox(configuration.outbox),
        "move the file away, or name another with the setting outbox_path",
    )
    if receiver is None:
        yield Finding.skipped("receiver", "give --receiver URL to look whether callbacks get there")
        return
    hosts = configuration.settings.callback_allowed_hosts
    yield from examine(
        "receiver",
        lambda: examine_receiver(receiver, hosts),
        "give another URL, or allow its host with the setting callback_allowed_hosts",
    )
