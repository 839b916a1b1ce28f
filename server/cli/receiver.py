"""`hallmark receiver`: take the callbacks of servers and keep them."""

import sqlite3
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from hallmark.poc.errors import FieldError
from hallmark.server.receiver import create_app

__all__ = ["receiver"]


def receiver(
    database: Annotated[Path, typer.Option(help="The SQLite file that keeps the batches.")] = Path(
        "hallmark-receiver.db"
    ),
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8099,
) -> None:
    """Receive the callbacks of servers: POST /generated, POST /validated.

    A batch is on disk before it is acknowledged, and one that is delivered twice is kept once. Read what
    came with GET /batches, GET /batches/ID and GET /stats. It asks nobody for a token: whoever reaches the
    port can deliver and read.
    """
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        app = create_app(database)
    except (OSError, sqlite3.Error) as exc:
        raise FieldError("--database", str(database), f"a path for a SQLite file ({exc})") from exc
    uvicorn.run(app, host=host, port=port)
