"""What an operator has set: the flags, the token, the secrets, the place of the outbox."""

import math
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from hallmark.poc.core.errors import OutboxError, UnsupportedError
from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.poc.outbox.file_system import problem_of_folder
from hallmark.poc.outbox.store import outbox_path
from hallmark.poc.settings.settings import API_KEY_VARIABLE, Settings
from hallmark.server.cli.serve.vllm_flags import VllmFlags
from hallmark.server.cli.words import counted, size
from hallmark.server.doctor.finding import Finding
from hallmark.server.doctor.folders import MIN_FREE, writable_folder
from hallmark.server.http.auth import check_exposure

__all__ = ["Configuration", "examine_outbox", "examine_secrets", "examine_token"]

_DEFAULT_PORT: Final = 8000
_MIN_TOKEN: Final = 16


class Configuration:
    """The flags of a server, as far as Hallmark reads them.

    Attributes:
        settings: Of proof of compute.
        host: The address it is to bind.
        port: Its port.
        socket: The Unix socket it is to listen on instead.
        ranks: Over how many ranks its model is spread.
    """

    def __init__(self, flags: Sequence[str], environment: Mapping[str, str]) -> None:
        """Read them.

        Raises:
            FieldError: One has a value that is not allowed.
        """
        read = VllmFlags(flags)
        self.settings = Settings.from_additional_config(read.get_mapping("additional-config"), environment)
        self.host = read.get("host")
        self.socket = read.get("uds")
        port = read.get_integer("port")
        self.port = _DEFAULT_PORT if port is None else port
        sizes = [read.get_integer(f"{way}-parallel-size") for way in ("tensor", "pipeline")]
        self.ranks = math.prod(1 if size is None else size for size in sizes)

    @property
    def outbox(self) -> Path | None:
        """The file of its outbox; None where that is kept in memory."""
        return outbox_path(self.settings, self.port, self.socket)


def examine_token(configuration: Configuration) -> Iterator[Finding]:
    """Look whether the control routes have a token that nobody guesses, and nobody else reads."""
    settings = configuration.settings
    if settings.api_key is None:
        try:
            check_exposure(
                settings.model_copy(update={"allow_unauthenticated": False}),
                configuration.host,
                configuration.socket,
            )
        except UnsupportedError:
            where = configuration.host or "every address"
            so = (
                f"allow_unauthenticated lets whoever reaches {where} start and stop rounds"
                if settings.allow_unauthenticated
                else f"hallmark serve refuses to listen on {where} without one"
            )
            yield Finding.warning(
                "token",
                f"none is set, and {so}",
                f"set {API_KEY_VARIABLE} or the setting api_key_file, or give --host 127.0.0.1",
            )
        else:
            yield Finding.ok("token", "none is set, and none is needed there")
        return
    if len(settings.api_key.get_secret_value()) < _MIN_TOKEN:
        yield Finding.warning(
            "token",
            f"it has fewer than {_MIN_TOKEN} characters, so it can be guessed",
            "make one: python3 -c 'import secrets; print(secrets.token_urlsafe())'",
        )
        return
    yield from _examine_file("token", settings.api_key_file) or [Finding.ok("token", "set")]


def examine_secrets(configuration: Configuration) -> Iterator[Finding]:
    """Look whether callbacks are signed, and nobody else reads what with."""
    settings = configuration.settings
    if not settings.webhook_secrets:
        yield Finding.warning(
            "secrets",
            "callbacks are not signed: a receiver cannot tell them from others'",
            "make a secret with hallmark secret, and give it to server and receiver",
        )
        return
    count = counted(len(settings.webhook_secrets), "secret")
    yield from _examine_file("secrets", settings.webhook_secrets_file) or [
        Finding.ok("secrets", f"callbacks are signed with {count}")
    ]


def _examine_file(name: str, path: str | None) -> list[Finding]:
    """Look whether others can read a file of secrets; nothing is found where they cannot."""
    if path is None or not os.stat(path).st_mode & stat.S_IRWXO:
        return []
    return [Finding.warning(name, f"every user can read {path}", f"chmod o= {path}")]


def examine_outbox(path: Path | None) -> Iterator[Finding]:
    """Look whether proofs can be kept until they are delivered.

    Args:
        path: The file; None where it is kept in memory. It is neither made nor changed.
    """
    if path is None:
        yield Finding.warning(
            "outbox",
            "it is kept in memory: what is not delivered when the server ends is lost",
            "leave outbox_path out, or give it a file on a local disk",
        )
        return
    remedy = "give it a place on a local disk that this user can write, with the setting outbox_path"
    held, why = writable_folder(path.parent)
    if why is not None:
        yield Finding.problem("outbox", f"{path}: {why}", remedy)
        return
    try:
        problem = problem_of_folder(held)
    except OSError as exc:
        yield Finding.problem("outbox", f"{path} cannot be written: {exc.strerror}", remedy)
        return
    if problem is not None:
        yield Finding.problem("outbox", f"{path} lies on a file system that {problem}", remedy)
        return
    state = "to be made"
    if path.exists() and path.stat().st_size:
        if not os.access(path, os.R_OK | os.W_OK):
            yield Finding.problem(
                "outbox", f"{path} cannot be written by this user", f"chown it, or {remedy}"
            )
            return
        state = _state_of_file(path)
    free = shutil.disk_usage(held).free
    if free < MIN_FREE:
        yield Finding.warning("outbox", f"{path}: {size(free)} are free on its disk", "make room, or move it")
        return
    yield Finding.ok("outbox", f"{path}, {state}, {size(free)} free")


def _state_of_file(path: Path) -> str:
    """Read an outbox through as a tool beside its server: no lock is taken, and it holds what it held.

    Raises:
        OutboxError: No server could take it.
    """
    if _is_older(path):
        # Which tools refuse; a server brings it up to date.
        return "of an older Hallmark: the next start brings it up to date"
    with closing(OutboxDatabase(path, for_server=False)) as database, database.reading() as connection:
        found: str = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise OutboxError(f"the outbox {path} is damaged: {' '.join(found.split())}")
    return "in order"


def _is_older(path: Path) -> bool:
    """Compare a file's mark and version with those of a new outbox; not even a log is made beside it."""
    with closing(OutboxDatabase(None)) as new, new.reading() as connection:
        ours = _mark(connection)
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        ) as connection:
            theirs = _mark(connection)
    except sqlite3.Error:
        return False  # what is wrong with it is told where it is opened
    return theirs[0] == ours[0] and 0 < theirs[1] < ours[1]


def _mark(connection: sqlite3.Connection) -> tuple[int, int]:
    names = ("application_id", "user_version")
    whose, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return whose, version
