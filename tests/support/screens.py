"""What a person sees of every command on a terminal of 80x24 and of 160x50: pictures, kept in files.

`PYTHONPATH=tests/support python -P tests/support/screens.py` takes them anew. Look at them before you commit.
"""

import os
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import typer.main
from builders import make_config
from shown import VIEWS
from terminal import picture

from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.poc.outbox.delivery_queue import DeliveryQueue
from hallmark.poc.outbox.round_journal import JournalLimits, RoundJournal
from hallmark.poc.protocol.config import PoCState
from hallmark.poc.protocol.generated import ComputedSpan
from hallmark.server.__main__ import main
from hallmark.server.commands import app
from hallmark.server.http.examples import PROOF
from hallmark.server.receiver.store import BatchStore

__all__ = ["FOLDER", "SIZES", "command_paths", "screens", "take"]

FOLDER: Final = Path(__file__).parents[1] / "files" / "screens"
SIZES: Final = ((80, 24), (160, 50))

_HOUR: Final = 3_600.0
_KEY: Final = "02a1633cafcc01ebfb6d78e39f687a1f0995c62fc95f51ead10a02ee0be551b5dc"
_URL: Final = "http://127.0.0.1:1"
_ROUND: Final = ("--block-hash", "0xabc", "--block-height", "7", "--public-key", "my-key")
_BUSY_PORT: Final = "61713"
"""Stands for a port that is taken while pictures are."""

_COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    "completion-no-shell": ("completion",),
    "fleet-no-file": ("fleet", "status", "missing.toml"),
    "fleet-start-no-server": ("fleet", "start", "fleet.toml", *_ROUND),
    "fleet-unknown-key": ("fleet", "status", "unknown-key.toml"),
    "mistyped-command": ("rond",),
    "mistyped-subcommand": ("round", "strat", _URL),
    "mistyped-option": ("round", "start", _URL, *_ROUND, "--callbakc-url", "http://x"),
    "mistyped-setting": ("serve", "m", "--additional-config", '{"hallmark": {"max_bacth_size": 1}}'),
    "no-command": (),
    "outbox-drop-unknown": ("outbox", "drop", "77", "--outbox", "outbox.db"),
    "outbox-list": ("outbox", "list", "--outbox", "outbox.db"),
    "outbox-list-dead-letters": ("outbox", "list", "--dead-letters", "--outbox", "outbox.db"),
    "outbox-no-file": ("outbox", "list", "--outbox", "missing.db"),
    "queue-no-database": ("queue", "status"),
    "queue-of-a-file": ("queue", "order", "0xabc", "--randomness", "0xdef", "--database", "proofs.db"),
    "receiver-busy-port": ("receiver", "--port", _BUSY_PORT, "--database", "new.db"),
    "receiver-export-nothing": ("receiver", "export", "out", "--public-key", "x", "--database", "proofs.db"),
    "receiver-list": ("receiver", "list", "--database", "proofs.db"),
    "receiver-no-file": ("receiver", "list", "--database", "missing.db"),
    "receiver-no-folder": ("receiver", "--port", "0", "--database", "missing/new.db"),
    "receiver-stats": ("receiver", "stats", "--database", "proofs.db"),
    "round-list": ("round", "list", "--outbox", "outbox.db"),
    "round-start-bad-goal": ("round", "start", _URL, *_ROUND, "--until", "10000 nonces"),
    "round-start-bad-value": ("round", "start", _URL, *_ROUND, "--block-height", "seven"),
    "round-start-missing-option": ("round", "start", _URL),
    "round-status-no-server": ("round", "status", _URL),
    "round-validate-no-file": ("round", "validate", _URL, "missing.json"),
    "serve-no-model": ("serve",),
    "target": ("target", "--hidden-size", "576", "--valid-rate", "0.1"),
    "target-both": ("target", "--hidden-size", "576", "--valid-rate", "0.1", "--r-target", "1.4"),
    "worker-no-model": ("worker", "--database", "postgresql://127.0.0.1:1/hallmark"),
    "verify-no-file": ("verify", "missing.json", "--model", "missing"),
}


def screens(busy_port: str = _BUSY_PORT) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the help of every command, common errors, results and views, each with what shows it."""
    for path in command_paths():
        yield "-".join(["help", *path]), partial(_run, *path, "--help")
    for name, arguments in _COMMANDS.items():
        yield name, partial(_run, *(busy_port if word == _BUSY_PORT else word for word in arguments))
    for name, show in VIEWS.items():
        yield f"view-{name}", show


def command_paths() -> Iterator[tuple[str, ...]]:
    """Yield the words of every command."""
    yield from _paths(typer.main.get_command(app), ())


def _run(*arguments: str) -> None:
    sys.argv = ["hallmark", *arguments]
    main()


def prepare(folder: Path) -> None:
    """Make the files that commands read: an outbox with its journal, and what a receiver has."""
    now = time.time()
    with closing(OutboxDatabase(folder / "outbox.db")) as database:
        _fill_outbox(DeliveryQueue(database), now)
        _fill_journal(database, now)
        with database.transaction() as connection:
            connection.execute("UPDATE deliveries SET webhook_id = format('msg_%032d', id)")
    inventory = f'[[nodes]]\nurl = "{_URL}"\n'
    (folder / "fleet.toml").write_text(inventory, encoding="utf-8")
    (folder / "unknown-key.toml").write_text(f'{inventory}tokn_file = "key"\n', encoding="utf-8")
    with closing(BatchStore(folder / "proofs.db")) as store:
        for number in range(3):
            body = {**PROOF, "public_key": _KEY if number else "my-key", "nonces": [number, 4, 8]}
            store.add("generated", body, f"msg_{number}")
        store.add("generated", body, "msg_2")
    with closing(sqlite3.connect(folder / "proofs.db")) as connection, connection:
        connection.execute("UPDATE batches SET received_at = ?", (now - 27.5 * _HOUR,))


def _fill_outbox(queue: DeliveryQueue, now: float) -> None:
    then = now - 27.5 * _HOUR
    for url in ("http://receiver.example:9000/v1/poc-batches", "https://other.example"):
        identifiers, _ = queue.add(url, "generated", [b"x" * 34_567] * 2, now=then, max_queued=100)
        queue.failed(identifiers[0], "HTTP 503 Service Unavailable", now + 29.5 * _HOUR)
    [dead], _ = queue.add("https://other.example", "validated", [b"x" * 999], now=then, max_queued=100)
    queue.bury(dead, "rejected", "HTTP 404 Not Found: no such path here; the body names the routes there are")


def _fill_journal(database: OutboxDatabase, now: float) -> None:
    journal = RoundJournal(database, DeliveryQueue(database), JournalLimits(2**19, 100))
    begun = now - 50.5 * _HOUR
    for number, key in enumerate((_KEY, "my-key", "my-key")):
        config = make_config(block_height=912_343 + number, public_key=key, node_id=0, node_count=4)
        template: dict[str, Any] = {"protocol": "hallmark/2"}
        identifier, _ = journal.begin(config, "digest", template, PoCState.GENERATING, begun)
        found = ComputedSpan(
            covered=(0, 20_479), nonces=(1, 2, 3), dist=(1.0, 1.0, 1.0), vectors=(), failed_nonces=()
        )
        journal.record(identifier, [found], begun + 3.5 * _HOUR)
        reason = "the engine has not answered for 300 s" if number == 2 else None
        journal.end(identifier, reason, begun + 3.5 * _HOUR)


def _paths(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from _paths(below, (*path, name))


def take(target: Path) -> None:
    """Take a picture of each screen in each size, and remove those of others.

    Args:
        target: Where they go, a folder for each size.
    """
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as busy:
        prepare(Path(name))
        os.chdir(name)
        os.environ |= {"HOME": name, "SHELL": "/bin/tcsh"}
        for columns, lines in SIZES:
            folder = target / f"{columns}x{lines}"
            folder.mkdir(parents=True, exist_ok=True)
            port = str(busy.getsockname()[1])
            pictures = {
                f"{screen}.txt": picture(show, columns, lines).replace(port, _BUSY_PORT)
                for screen, show in screens(port)
            }
            for file, shown in pictures.items():
                (folder / file).write_text(shown, encoding="utf-8")
            for other in {each.name for each in folder.iterdir()} - pictures.keys():
                (folder / other).unlink()


if __name__ == "__main__":
    take(Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else FOLDER)
