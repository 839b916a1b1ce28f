"""A real PostgreSQL in a folder of its own, on a Unix socket."""

import os
import pwd
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import psycopg
from debian_programs import program

__all__ = ["PostgresServer", "running"]

_NOBODY = "nobody"


class PostgresServer:
    """A cluster, which others may start and end as they like.

    Attributes:
        folder: Where its data, its log and its socket are.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        """Make the cluster; it does not run yet.

        Args:
            folder: An empty folder.
            durable: Whether commits wait for the disk.
        """
        self.folder = folder
        self._numbers = count()
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            # It refuses to run as root.
            self._user = {"user": _NOBODY, "group": pwd.getpwnam(_NOBODY).pw_gid, "extra_groups": []}
            os.chown(folder, pwd.getpwnam(_NOBODY).pw_uid, -1)
        folder.chmod(0o711)
        self._run("initdb", "--auth", "trust", "--username", "hallmark", "--encoding", "UTF8", "--no-sync")
        settings = {
            "listen_addresses": "''",
            "unix_socket_directories": f"'{folder}'",
            "max_connections": "200",
            "fsync": "on" if durable else "off",
        }
        with (folder / "data" / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._run("pg_ctl", "start", "--wait", "--silent", "--log", str(self.folder / "log"))

    def stop(self, mode: str = "fast") -> None:
        """End it: `immediate` is a crash, after which it recovers."""
        self._run("pg_ctl", "stop", "--wait", "--silent", "--mode", mode)

    def url(self, database: str) -> str:
        """Where one of its databases is."""
        return f"postgresql://hallmark@/{database}?host={quote(str(self.folder), safe='')}"

    def new_database(self, options: str = "") -> str:
        """Make an empty database; return its URL."""
        name = f"hallmark{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} {options}".encode())
        return self.url(name)

    def _run(self, name: str, *arguments: str) -> None:
        command: Sequence[str] = (program(name), "--pgdata", str(self.folder / "data"), *arguments)
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            **self._user,
        )
        assert done.returncode == 0, f"{name} ended with {done.returncode}: {done.stderr}"


@contextmanager
def running(*, durable: bool = False) -> Iterator[PostgresServer]:
    """Run a new cluster in a temporary folder: a socket's path has to be short."""
    with TemporaryDirectory(prefix="hallmark-pg-") as folder:
        server = PostgresServer(Path(folder), durable=durable)
        try:
            server.start()
            yield server
        finally:
            if (Path(folder) / "data" / "postmaster.pid").exists():
                server.stop("immediate")
