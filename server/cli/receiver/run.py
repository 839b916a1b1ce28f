"""`hallmark receiver`: take the callbacks of servers and keep them."""

import os
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hallmark.poc.core.errors import DatabaseError, FieldError
from hallmark.poc.core.json_logs import json_logging
from hallmark.poc.core.postgresql import without_password
from hallmark.server.cli.consoles import JsonLogs, log_as_json, say
from hallmark.server.cli.receiver.options import DATABASE_VARIABLE, DEFAULT_DATABASE

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

__all__ = ["receiver"]

_ENDING_SECONDS = 5
"""How long requests that are under way may take when it is asked to end; senders send again."""


def receiver(
    context: typer.Context,
    database: Annotated[
        str,
        typer.Option(
            metavar="FILE|URL",
            envvar=DATABASE_VARIABLE,
            show_envvar=True,
            help="What keeps the batches: a SQLite file, whose folder must be there, or a database that "
            "several receivers may share, by its postgresql:// URL.",
        ),
    ] = DEFAULT_DATABASE,
    host: Annotated[str, typer.Option(metavar="HOST", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="The port; 0 takes a free one.")
    ] = 8099,
    secrets_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Take only what is signed with a secret of this file; or set HALLMARK_WEBHOOK_SECRETS.",
        ),
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Do not serve the live page at /poc.")] = False,
    json_logs: JsonLogs = False,
) -> None:
    """Receive the callbacks of servers, and read what came.

    It takes POST /generated and POST /validated. A batch is on disk before it is acknowledged. One that is
    delivered twice is kept once.

    With a secret, from hallmark secret, callbacks that are not signed with it are refused. Without one,
    whoever reaches the port can deliver. Two are taken while one replaces the other.

    Read the batches with list, export and stats below, or look at the live page, /poc. Over HTTP there are
    GET /batches, GET /batches/ID, GET /export, GET /stats, GET /provers, GET /health and GET /metrics. They
    ask nobody for a token: whoever reaches the port can read.
    """
    if context.invoked_subcommand is not None:
        _check_nothing_given(context)
        return
    if not host:
        raise FieldError("--host", host, "an address such as 127.0.0.1, or 0.0.0.0 for every one")
    if json_logs:
        log_as_json(json_logging("INFO", "ext://sys.stderr"))
    from hallmark.server.receiver.listening import listening

    with listening(host, port) as (socket, url):
        import uvicorn

        from hallmark.poc.settings.secret_sources import read_webhook_secrets
        from hallmark.poc.webhooks.signature import parse_secret

        path = None if secrets_file is None else str(secrets_file)
        secrets = [
            parse_secret(secret.get_secret_value())
            for secret in read_webhook_secrets("--secrets-file", path, os.environ)
        ]
        app = _app(database, secrets, has_page=not no_page)
        server = uvicorn.Server(_config(app, json_logs=json_logs))
        # By which the page's streams see that it ends.
        app.state.server = server
        say(f"Callbacks are taken at {url}.")
        if not no_page:
            say(f"Look at what comes at {url}/poc.")
        say(
            "Callbacks are taken where they are signed with the secret."
            if secrets
            else "Callbacks are taken from whoever reaches the port, signed or not: no secret is set."
        )
        # Ctrl-C ends it; uvicorn raises it once more when all is closed.
        with suppress(KeyboardInterrupt):
            server.run(sockets=[socket])


def _check_nothing_given(context: typer.Context) -> None:
    """Refuse the receiver's own options before a subcommand, which has its own.

    Raises:
        BadParameter: One is given.
    """
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if (source := context.get_parameter_source(parameter.name or "")) and source.name == "COMMANDLINE"
    ]
    if given:
        name = context.invoked_subcommand
        raise typer.BadParameter(
            f"{', '.join(given)} before {name} is for the receiver itself; options of {name} come after it"
        )


def _config(app: "FastAPI", *, json_logs: bool) -> "uvicorn.Config":
    """Return uvicorn's settings: requests are logged on standard error, and none keeps it from ending."""
    import uvicorn
    from uvicorn.config import LOGGING_CONFIG

    log: dict[str, Any] | None = None  # what was set up already
    if not json_logs:
        log = deepcopy(LOGGING_CONFIG)
        log["handlers"]["access"]["stream"] = "ext://sys.stderr"
    return uvicorn.Config(app, log_config=log, timeout_graceful_shutdown=_ENDING_SECONDS)


def _app(database: str, secrets: list[bytes], *, has_page: bool) -> "FastAPI":
    """Make the application.

    Raises:
        FieldError: The database cannot be used, or its folder is not there.
        UnsupportedError: It is a PostgreSQL database, and psycopg is not installed.
    """
    from hallmark.server.receiver.app import create_app
    from hallmark.server.receiver.database import address

    found = address(database)
    if isinstance(found, Path) and not found.absolute().parent.is_dir():
        missing = FieldError("--database", database, "a path in a folder that is there")
        missing.add_note("make the folder first, or choose another with --database")
        raise missing
    try:
        return create_app(found, secrets, has_page=has_page)
    except DatabaseError as exc:
        allowed = (
            "a path for a SQLite file"
            if isinstance(found, Path)
            else "the URL of a PostgreSQL database for batches"
        )
        raise FieldError("--database", without_password(database), f"{allowed} ({exc})") from exc
