"""Viewers of a live page: each reads the stream of events, and nothing else.

    python -P bench/_viewers.py URL COUNT

It says `looking` once each has had an event, and goes on until it is ended.
"""

import asyncio
import sys

import httpx


async def main(url: str, count: int) -> None:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60, trust_env=False) as http:
        begun = asyncio.Barrier(count + 1)
        async with asyncio.TaskGroup() as viewers:
            for _ in range(count):
                viewers.create_task(look(http, begun))
            await begun.wait()
            print("looking", flush=True)


async def look(http: httpx.AsyncClient, begun: asyncio.Barrier) -> None:
    async with http.stream("GET", "/poc/events") as answer:
        assert answer.status_code == 200, answer.status_code
        is_begun = False
        async for _ in answer.aiter_bytes():
            if not is_begun:
                is_begun = True
                await begun.wait()
    raise RuntimeError("the stream has ended")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
