"""Fleets of servers in this process, with the real routes and small engines, and commands against them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from command_line import Cli, Result
from runtime import QUICK, Engine, application, running_manager, serving

from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager


@dataclass(frozen=True)
class Member:
    """A server of the fleet."""

    url: str
    engine: Engine
    manager: PoCManager


class Fleet:
    """An inventory, and the commands about it."""

    def __init__(self, cli: Cli, file: Path) -> None:
        self._cli = cli
        self.file = file

    def write(self, *urls: str, **more: dict[str, str]) -> None:
        """List nodes by their URLs; `node_2={...}` adds keys to the third one's table."""
        tables = []
        for number, url in enumerate(urls):
            keys = {"url": url, **more.get(f"node_{number}", {})}
            tables.append("\n".join(["[[nodes]]", *(f'{key} = "{value}"' for key, value in keys.items())]))
        self.file.write_text("\n\n".join(tables))

    async def __call__(self, command: str, *arguments: object) -> Result:
        return await asyncio.to_thread(self._cli, "fleet", command, self.file, *arguments)


@asynccontextmanager
async def serving_many(count: int, settings: Settings = QUICK) -> AsyncIterator[list[Member]]:
    """So many servers, whose rounds compute nothing before `release` is called on their engines."""
    async with AsyncExitStack() as stack:
        members: list[Member] = []
        for _ in range(count):
            engine = Engine()
            engine.hold()
            manager = await stack.enter_async_context(running_manager(engine, settings))
            url = await stack.enter_async_context(serving(application(manager)))
            members.append(Member(url, engine, manager))
        try:
            yield members
        finally:
            for member in members:
                member.engine.release()
                await member.manager.stop()


@asynccontextmanager
async def hanging() -> AsyncIterator[str]:
    """A server that takes every request and answers none; yields its URL."""
    ended = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        ended.set()
        server.close()
        await server.wait_closed()
