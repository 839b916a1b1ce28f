"""A clock that is set, in a server and between two: nobody waits for it, and nothing is lost by it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from builders import small_config
from clock import Clock
from pydantic import SecretStr
from runtime import eventually
from virtual_time import VirtualTimeLoop

from hallmark.poc.core.clock import SettableClock
from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.protocol.config import PoCState
from hallmark.poc.settings.settings import Settings
from hallmark.poc.webhooks.signature import generate_secret, parse_secret, verify

URL = "http://receiver.example/v1"
YEAR = 365 * 86_400.0
STEPS = pytest.mark.parametrize("step", [-YEAR, -360.0, -1.5, 1.5, 360.0, YEAR])


class WallClock:
    """A clock that a test sets, on a steady one.

    Attributes:
        steady: The steady one.
        ahead: How far this one is ahead of it.
    """

    def __init__(self, steady: Clock | None = None) -> None:
        self.steady = steady or Clock(0.0)
        self.ahead = 1.8e9

    def __call__(self) -> float:
        return self.ahead + self.steady()


class Receiver:
    """A receiver that answers as it is told, then 200; it keeps what came and when."""

    def __init__(self, clock: WallClock, *answers: httpx.Response) -> None:
        self.clock = clock
        self.answers = list(answers)
        self.requests: list[tuple[float, httpx.Request]] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append((self.clock.steady(), request))
        return self.answers.pop(0) if self.answers else httpx.Response(200)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self.answer))

    @property
    def times(self) -> list[float]:
        """When each request came, by the steady clock."""
        return [at for at, _ in self.requests]


def refusals(count: int, **headers: str) -> list[httpx.Response]:
    return [httpx.Response(503, headers={k.replace("_", "-"): v for k, v in headers.items()})] * count


@pytest.mark.parametrize("step", [-YEAR, -1.0, 1.0, YEAR])
def test_a_clock_says_once_by_how_much_it_was_set_before_it_tells_the_time(step: float) -> None:
    steps: list[float] = []
    clock = WallClock()
    tell = SettableClock(clock, clock.steady, on_step=steps.append)
    clock.steady.advance(1e6)
    assert tell() == 1.8e9 + 1e6
    clock.ahead += 0.5
    assert tell() == 1.8e9 + 1e6 + 0.5
    assert steps == [], "time that passes is no step, and a little is none either"
    clock.ahead += step - 0.5
    clock.steady.advance(7)
    assert [tell(), tell()] == [1.8e9 + 1e6 + 7 + step] * 2
    assert steps == [step]


def in_virtual_time(test: Callable[[WallClock], Coroutine[Any, Any, None]]) -> None:
    """Run a test in which waiting takes no time, on clocks that go with the loop's."""
    loop = VirtualTimeLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(test(WallClock(loop.clock)))


def outbox_of(
    receiver: Receiver, settings: Settings, store: OutboxStore | None = None, **more: Any
) -> Outbox:
    clock = receiver.clock
    options = {"connect": receiver.client, "clock": clock, "steady": clock.steady, **more}
    return Outbox(settings, store, **options)


class TestInAServer:
    """The clock is set while a server runs."""

    @STEPS
    @pytest.mark.parametrize("asked", [False, True], ids=["backoff", "Retry-After"])
    def test_a_wait_is_as_long_as_it_was_meant(self, step: float, asked: bool) -> None:
        async def test(clock: WallClock) -> None:
            answers = refusals(2, Retry_After="50") if asked else refusals(2)
            receiver = Receiver(clock, *answers)
            outbox = outbox_of(receiver, Settings(), wait=lambda _: 1.0 if asked else 50.0)
            await outbox.post(URL, "generated", compact_json({}))
            await asyncio.sleep(10)
            clock.ahead += step
            await asyncio.sleep(5)
            assert outbox.stats()["next_attempt"] == pytest.approx(35, abs=1.5)
            assert outbox.stats()["oldest_age"] == pytest.approx(15, abs=1.5)
            await asyncio.sleep(100)
            assert receiver.times == pytest.approx([0, 50, 100], abs=3)
            await outbox.close(1)

        in_virtual_time(test)

    @STEPS
    def test_an_age_is_the_time_that_has_passed(self, step: float) -> None:
        async def test(clock: WallClock) -> None:
            receiver = Receiver(clock, *refusals(1000))
            outbox = outbox_of(receiver, Settings(callback_max_age=3600.0), wait=lambda _: 60.0)
            await outbox.post(URL, "generated", compact_json({}))
            await asyncio.sleep(600)
            clock.ahead += step
            await outbox.post(URL, "generated", compact_json({}))
            await asyncio.sleep(2900)
            stats: Any = outbox.stats()
            assert (stats["queued"], stats["dropped"]) == (2, 0)
            await asyncio.sleep(200)
            stats = outbox.stats()
            assert (stats["queued"], stats["dropped_by_reason"]["expired"]) == (1, 1)
            await asyncio.sleep(600)
            assert outbox.stats()["dropped_by_reason"]["expired"] == 2
            await outbox.close(1)

        in_virtual_time(test)

    @pytest.mark.parametrize("step", [-365.0, 365.0])
    def test_a_receiver_that_is_an_hour_away_gets_what_is_signed_anew(self, step: float) -> None:
        """Its clock is right, ours is set right by six minutes, more than signatures may be off."""

        async def test(clock: WallClock) -> None:
            secret = generate_secret()
            receiver = Receiver(clock, *refusals(59))
            outbox = outbox_of(receiver, Settings(webhook_secrets=(SecretStr(secret),)), wait=lambda _: 60.0)
            await outbox.post(URL, "generated", compact_json({"n": 1}))
            await asyncio.sleep(1810)
            clock.ahead += step
            await asyncio.sleep(1810)
            assert outbox.stats()["delivered"] == 1
            await outbox.close(1)
            assert len(receiver.requests) == 60
            signed = set()
            for at, request in receiver.requests:
                now = 1.8e9 + at + (step if at > 1810 else 0)
                verify([parse_secret(secret)], request.headers, request.content, now=now, tolerance=2)
                signed.add((request.headers["webhook-timestamp"], request.headers["webhook-signature"]))
            assert len(signed) == 60
            assert len({request.headers["webhook-id"] for _, request in receiver.requests}) == 1
            assert len({request.content for _, request in receiver.requests}) == 1

        in_virtual_time(test)

    async def test_what_a_file_has_is_moved_with_it(self, tmp_path: Path) -> None:
        """So that it is right for tools, and for the next server."""
        path, clock = tmp_path / "outbox.db", WallClock()
        outbox = outbox_of(Receiver(clock, *refusals(1)), Settings(), OutboxStore(path), wait=lambda _: 50.0)
        await outbox.post(URL, "generated", compact_json({}))
        await eventually(lambda: outbox.stats()["next_attempt"])
        await eventually(lambda: outbox.stats()["in_flight"] == 0)
        clock.ahead -= YEAR
        await outbox.post(URL, "generated", compact_json({}))
        with closing(sqlite3.connect(path)) as raw:
            rows = raw.execute("SELECT created_at, not_before FROM deliveries ORDER BY id").fetchall()
        now = 1.8e9 - YEAR
        assert rows == [(now, now + 50), (now, 0)]
        await outbox.close(0)


def test_a_disk_that_is_full_for_a_day_does_not_fill_the_log_too(caplog: pytest.LogCaptureFixture) -> None:
    """What was found is not lost, and goes out when there is room again."""
    caplog.set_level("INFO")

    async def test(clock: WallClock) -> None:
        receiver = Receiver(clock)
        store = OutboxStore()
        outbox = outbox_of(receiver, Settings(callback_interval=0.0, callback_max_age=1e6), store)
        identifier = await outbox.begin_round(
            small_config(callback_url=URL), "digest", {}, PoCState.GENERATING
        )
        await outbox.post(URL, "generated", compact_json({}))
        store._database._writer.execute("PRAGMA query_only = ON")
        outbox.end_round(identifier, URL, None)
        await asyncio.sleep(86_400)
        said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        for what in ("Callbacks to", "What was found", "The end of the round"):
            assert 0 < sum(text.startswith(what) for text in said) < 40
        store._database._writer.execute("PRAGMA query_only = OFF")
        await asyncio.sleep(60)
        assert outbox.stats()["queued"] == 0
        over = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
        assert sum(text.startswith("No longer, after 864") for text in over) == 3
        await outbox.close(1)

    in_virtual_time(test)


class TestOverARestart:
    """What a server was told holds for the next one."""

    @asynccontextmanager
    async def server(self, path: Path, receiver: Receiver, **chosen: Any) -> AsyncIterator[Outbox]:
        outbox = outbox_of(receiver, Settings(**chosen), OutboxStore(path), wait=lambda _: 40.0)
        await outbox.recover()
        try:
            yield outbox
        finally:
            await outbox.close(deadline=30)

    async def posted(self, outbox: Outbox, count: int = 1) -> None:
        """Post callbacks, and wait until the first has been refused and the file says so."""
        for n in range(count):
            await outbox.post(URL, "generated", compact_json({"n": n}))
        await eventually(lambda: outbox.stats()["next_attempt"])
        await eventually(lambda: outbox.stats()["in_flight"] == 0)

    async def waits(self, path: Path, receiver: Receiver, **chosen: Any) -> float:
        """How long a server that is started now makes the receiver's next callback wait."""
        async with self.server(path, receiver, **chosen) as outbox:
            await eventually(lambda: outbox.stats()["next_attempt"])
            return outbox.stats()["next_attempt"] or 0.0

    async def test_a_receiver_that_asked_to_be_left_alone_is(self, path: Path) -> None:
        clock = WallClock()
        receiver = Receiver(clock, *refusals(1, Retry_After="300"))
        async with self.server(path, receiver) as outbox:
            await self.posted(outbox, 3)
            assert outbox.stats()["next_attempt"] == 300
        for _ in range(2):
            clock.steady.advance(100)
            assert await self.waits(path, receiver) == 300 - clock.steady()
        assert receiver.times == [0], "neither at a stop nor at a start"
        clock.steady.advance(100)
        async with self.server(path, receiver) as outbox:
            await eventually(lambda: outbox.stats()["delivered"] == 3)
        assert receiver.times == [0, 300, 300, 300]

    async def test_the_time_it_asked_for_is_not_cut_short_by_a_wait_of_ours(self, path: Path) -> None:
        """It asked for less than we wait: at a stop only its own counts."""
        clock = WallClock()
        receiver = Receiver(clock, *refusals(2, Retry_After="30"))
        async with self.server(path, receiver) as outbox:
            await self.posted(outbox)
            clock.steady.now = 29
        assert receiver.times == [0]
        async with self.server(path, receiver) as outbox:
            assert await eventually(lambda: outbox.stats()["next_attempt"]) == 11
            clock.steady.now = 31
        assert receiver.times == [0, 31], "a wait of ours is cut short at a stop"

    @pytest.mark.parametrize("max_retries", [None, 0])
    async def test_it_is_left_alone_by_the_next_callback_too(
        self, path: Path, max_retries: int | None
    ) -> None:
        """Where the one that it was told about is given up, at once or by hand."""
        clock = WallClock()
        receiver = Receiver(clock, *refusals(1, Retry_After="300"))
        async with self.server(path, receiver, callback_max_retries=max_retries) as outbox:
            await self.posted(outbox, 2)
            if max_retries is None:
                [first, _] = outbox._store.listed()
                outbox._store._queue.drop([first.id])
            clock.steady.now = 10
            await eventually(lambda: outbox.stats()["next_attempt"] == 290 and outbox.stats()["queued"] == 1)
        assert await self.waits(path, receiver) == 290
        assert receiver.times == [0]

    @pytest.mark.parametrize("every", [False, True])
    async def test_an_operator_may_call_it_all_the_same(self, path: Path, every: bool) -> None:
        clock = WallClock()
        receiver = Receiver(clock, *refusals(1, Retry_After="300"))
        async with self.server(path, receiver) as outbox:
            await self.posted(outbox)
            [waiting] = outbox._store.listed()
            assert waiting.due_at == waiting.left_alone_until == 1.8e9 + 300
            outbox._store._queue.retry(None if every else [waiting.id])
            await eventually(lambda: outbox.stats()["delivered"] == 1)

    @pytest.mark.parametrize("step", [-YEAR, -3600.0, -10.0])
    async def test_a_clock_that_was_set_back_between_two_servers_holds_nobody_up(
        self, path: Path, step: float
    ) -> None:
        clock = WallClock()
        other = "http://other.example"
        receiver = Receiver(clock, *refusals(1, Retry_After="300"), *refusals(10))
        async with self.server(path, receiver) as outbox:
            await self.posted(outbox)
            await outbox.post(other, "generated", compact_json({}))
            await eventually(lambda: outbox.stats()["receivers"][other]["next_attempt"])
            await eventually(lambda: outbox.stats()["in_flight"] == 0)
        clock.ahead += step
        async with self.server(path, receiver) as outbox:
            await eventually(lambda: all(r["next_attempt"] for r in outbox.stats()["receivers"].values()))
            stats: Any = outbox.stats()["receivers"]
            assert stats[URL]["next_attempt"] == 300, "never longer than it asked for"
            assert stats[other]["next_attempt"] == pytest.approx(min(40 - step, 60))
            assert stats[URL]["oldest_age"] == 0, "it is not from the future"
            [asked, _] = outbox._store.listed()
            assert asked.created_at == clock()

    async def test_an_older_clock_makes_nothing_live_longer(self, path: Path) -> None:
        clock = WallClock()
        async with self.server(path, Receiver(clock, *refusals(9)), callback_max_age=100.0) as outbox:
            await self.posted(outbox)
        clock.ahead -= YEAR
        receiver = Receiver(clock, *refusals(9))
        async with self.server(path, receiver, callback_max_age=100.0) as outbox:
            await eventually(lambda: outbox.stats()["next_attempt"])
            clock.steady.advance(101)
            await eventually(lambda: outbox.stats()["dropped_by_reason"]["expired"] == 1)
