"""A feed of events: the same for everybody, and nothing kept for those who are slow."""

import asyncio
import json
from collections.abc import AsyncIterator

from hallmark.poc.core.compact_json import compact_json
from hallmark.server.pages.live_feed import LiveFeed, server_sent_event


async def test_followers_get_the_opening_and_then_what_is_published() -> None:
    feed = LiveFeed()
    followers = [feed.follow(b"opening", lambda: False) for _ in range(3)]
    assert [await anext(follower) for follower in followers] == [b"opening"] * 3
    assert feed.followers == 3
    waiting = [asyncio.ensure_future(next_of(follower)) for follower in followers]
    await asyncio.sleep(0)
    feed.publish(b"event")
    assert await asyncio.gather(*waiting) == [b"event"] * 3


async def test_who_is_slow_gets_the_latest_event_and_none_that_were_missed() -> None:
    feed = LiveFeed()
    follower = feed.follow(b"opening", lambda: False)
    await anext(follower)
    waiting = asyncio.ensure_future(next_of(follower))
    await asyncio.sleep(0)
    feed.publish(b"first")
    feed.publish(b"second")
    assert await waiting == b"second"
    waiting = asyncio.ensure_future(next_of(follower))
    await asyncio.sleep(0)
    assert not waiting.done()
    feed.publish(b"third")
    assert await waiting == b"third"


async def test_it_ends_at_the_event_after_it_is_over_and_counts_nobody_who_left() -> None:
    feed = LiveFeed()
    over: list[bool] = []
    follower = feed.follow(b"opening", lambda: bool(over))
    other = feed.follow(b"opening", lambda: False)
    await anext(follower)
    await anext(other)
    waiting = asyncio.ensure_future(rest_of(follower))
    await asyncio.sleep(0)
    over.append(True)
    feed.publish(b"last")
    assert await waiting == [b"last"]
    assert feed.followers == 1
    await other.aclose()
    assert feed.followers == 0


async def test_it_ends_though_nothing_is_published_any_more() -> None:
    feed = LiveFeed()
    over: list[bool] = []
    follower = feed.follow(b"opening", lambda: bool(over))
    await anext(follower)
    waiting = asyncio.ensure_future(rest_of(follower))
    await asyncio.sleep(0)
    over.append(True)
    async with asyncio.timeout(30):
        assert await waiting == []


def test_an_event_is_one_line_of_json_below_its_name() -> None:
    text = server_sent_event("moment", compact_json({"words": "two\nlines"})).decode()
    name, data, *end = text.split("\n")
    assert name == "event: moment"
    assert json.loads(data.removeprefix("data: ")) == {"words": "two\nlines"}
    assert end == ["", ""]


async def next_of(follower: AsyncIterator[bytes]) -> bytes:
    return await anext(follower)


async def rest_of(follower: AsyncIterator[bytes]) -> list[bytes]:
    return [event async for event in follower]
