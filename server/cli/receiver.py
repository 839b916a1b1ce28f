"""`hallmark receiver`: take the callbacks of servers and keep them."""

import os
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from hallmark.poc.core.errors import DatabaseError, FieldError
from hallmark.poc.settings.secret_sources import WEBHOOK_SECRETS_VARIABLE, read_webhook_secrets
from hallmark.poc.webhooks.signature import parse_secret
from hallmark.server.receiver.app import create_app

__all__ = ["receiver"]


def receiver(
    database: Annotated[Path, typer.Option(help="The SQLite file that keeps the batches.")] = Path(
        "hallmark-receiver.db"
    ),
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8099,
    secrets_file: Annotated[
        Path | None,
        typer.Option(
            help=f"Take only what is signed with a secret of this file; or set {WEBHOOK_SECRETS_VARIABLE}."
        ),
    ] = None,
) -> None:
    """Receive the callbacks of servers: POST /generated, POST /validated.

    A batch is on disk before it is acknowledged, and one that is delivered twice is kept once. Read what
    came with GET /batches, GET /batches/ID and GET /stats, and what all verdicts about a prover show together
    with GET /provers; it asks nobody for a token, so whoever reaches the port can read. With a secret, from
    hallmark secret, it refuses callbacks that are not signed with it; without one, whoever reaches the port
    can deliver. Two are taken while one replaces the other.
    """
    path = None if secrets_file is None else str(secrets_file)
    secrets = [
        parse_secret(secret.get_secret_value())
        for secret in read_webhook_secrets("--secrets-file", path, os.environ)
    ]
    try:
        app = create_app(database, secrets)
    except DatabaseError as exc:
        raise FieldError("--database", str(database), f"a path for a SQLite file ({exc})") from exc
    typer.echo(
        "Callbacks are taken where they are signed with the secret."
        if secrets
        else "Callbacks are taken from whoever reaches the port, signed or not: no secret is set.",
        err=True,
    )
    uvicorn.run(app, host=host, port=port)
