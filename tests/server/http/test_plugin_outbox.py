"""What the plugin says of an outbox that a server cannot have, before the engine is set up."""

import asyncio
import sqlite3
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import pytest
from fastapi import FastAPI

from hallmark.poc.core.errors import OutboxError
from hallmark.poc.outbox.store import OutboxStore
from hallmark.server.http.plugin import create_plugin

ARGUMENTS = Namespace(host="127.0.0.1", port=8000, uds=None)


async def set_up(path: Path) -> None:
    """As vLLM does; an engine that has nothing but settings is not to be asked for anything."""
    settings = {"hallmark": {"outbox_path": str(path)}}
    client = Namespace(vllm_config=Namespace(additional_config=settings))
    await create_plugin().init_state(client, FastAPI().state, ARGUMENTS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An outbox that a server has had."""
    path = tmp_path / "outbox.db"
    asyncio.run(made(path))
    return path


async def made(path: Path) -> None:
    store = OutboxStore(path)
    for n in range(50):
        await store.add("http://receiver", "generated", [b"%1000d" % n], now=0, max_queued=99)
    await store.close()


def test_an_outbox_that_another_server_has_is_refused(path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from hallmark.poc.outbox.store import OutboxStore;"
        " store = OutboxStore(Path(sys.argv[1])); print(flush=True); input()"
    )
    command = [sys.executable, "-P", "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        with pytest.raises(OutboxError) as refused:
            asyncio.run(set_up(path))
        other.kill()
    expected = f"another server has the outbox {path}: give this one its own with the setting outbox_path"
    assert str(refused.value) == expected
    # What a killed server had is anybody's.
    asyncio.run(made(path))


async def test_a_damaged_outbox_is_refused(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(5 * 4096)
        file.write(b"not a page" * 1000)
    with pytest.raises(OutboxError, match=rf"the outbox {path} is damaged: .*; move it away, or repair it"):
        await set_up(path)


async def test_a_file_that_is_no_outbox_is_refused(tmp_path: Path) -> None:
    text, other = tmp_path / "text.db", tmp_path / "other.db"
    text.write_text("a few words, and no database\n" * 100)
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE something (id INTEGER)")
    for file, expected in ((text, "is damaged: file is not a database"), (other, "no outbox of Hallmark's")):
        before = file.read_bytes()
        with pytest.raises(OutboxError, match=expected):
            await set_up(file)
        assert file.read_bytes() == before


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A folder that every user may enter and write, unlike pytest's own."""
    directory = Path(mkdtemp(prefix="hallmark-"))
    directory.chmod(0o777)
    yield directory
    rmtree(directory)


def test_a_read_only_outbox_is_refused(everybodys: Path) -> None:
    path = everybodys / "outbox.db"
    asyncio.run(made(path))
    Path(f"{path}.lock").unlink(missing_ok=True)
    path.chmod(0o444)
    # Permissions do not bind root, who becomes somebody else once all is imported.
    script = f"""
import asyncio, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_plugin_outbox import OutboxError, set_up
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    asyncio.run(set_up(Path({str(path)!r})))
except OutboxError as exc:
    print(exc)
"""
    ran = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"the outbox {path} cannot be opened: [Errno 13] Permission denied"), (
        ran.stdout
    )
