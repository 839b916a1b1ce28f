"""What a server takes up of the last one's: its callbacks, and its round where it was."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from sqlite3 import Connection
from tempfile import TemporaryDirectory
from typing import Any, Self

import pytest
from builders import small_config
from clock import Clock
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime import CallbackReceiver, Engine, eventually, honest_proof, running_receiver, snapshot
from transformers_engine import tiny_model

from hallmark.poc.core.errors import EngineError, HallmarkError, OutboxError
from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.protocol.config import PoCConfig, PoCState
from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager
from hallmark.poc.verdict.judge import Verdict

IDLE, GENERATING, VALIDATING, STOPPED = PoCState

QUICK = Settings(callback_interval=0.0, callback_backoff_base=0.0, callback_backoff_cap=0.0)
RESUMING = QUICK.model_copy(update={"resume_on_start": True})


class Server:
    """A server on a file, from its start to its end, which may be a crash.

    Attributes:
        engine: Its engine.
        store: Its store.
        manager: Its manager.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings = QUICK,
        engine: Engine | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.engine = engine or Engine()
        self.store = OutboxStore(path)
        if clock is None:
            self.outbox = Outbox(settings, self.store)
            self.manager = PoCManager(self.engine, settings, self.outbox)
        else:
            self.outbox = Outbox(settings, self.store, clock=clock, steady=clock)
            self.manager = PoCManager(self.engine, settings, self.outbox, clock=clock, now=clock)

    @classmethod
    async def start(cls, path: Path, *args: Any, **options: Any) -> Self:
        """A server that has taken up what the last one left."""
        server = cls(path, *args, **options)
        await server.manager.recover()
        return server

    @property
    def first_nonce(self) -> int:
        """The first nonce that it has computed."""
        return self.engine.keys[0][0][1]

    async def checked(self, count: int) -> None:
        """Wait until the round has checked so many nonces."""
        await eventually(lambda: snapshot(self.manager)["total_checked"] >= count)

    async def crash(self) -> None:
        """End as by SIGKILL: what is not on the disk now never gets there."""
        await self.store._run(self.store._database.close)
        self.engine.release()
        tasks = [round_.owner for round_ in self.manager._driven if round_.owner is not None]
        registry = self.outbox._senders
        senders = [*registry._senders.values()]
        tasks += [sender._delivering for sender in senders if sender._delivering is not None]
        tasks += [task for task in (registry._watching, *self.outbox._announcing) if task is not None]
        for timer, _ in self.outbox._merges.values():
            timer.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(sender.disconnect() for sender in registry._senders.values()))
        # What the tasks have asked for in their end fails, and is said in the log.
        await asyncio.sleep(0)
        assert self.store._thread is not None
        await asyncio.to_thread(self.store._thread.shutdown)

    async def shut_down(self) -> None:
        """End as by SIGTERM."""
        self.engine.release()
        await self.manager.shutdown()


@asynccontextmanager
async def running(path: Path, *args: Any, **options: Any) -> AsyncIterator[Server]:
    """A server that is shut down afterwards."""
    server = await Server.start(path, *args, **options)
    try:
        yield server
    finally:
        await server.shut_down()


async def crashed(
    path: Path, asked: PoCConfig | None = None, phase: PoCState = GENERATING, count: int = 16, **options: Any
) -> int:
    """Let a server crash in a round that has checked so many nonces; returns how many are in the journal."""
    server = await Server.start(path, **options)
    await server.manager.start_round(asked or small_config())
    await server.checked(count)
    if phase is not GENERATING:
        await server.manager.switch_phase(phase)
    await server.crash()
    store = OutboxStore(path)
    with store._database.reading() as connection:
        [position] = connection.execute("SELECT position FROM rounds").fetchone()
    await store.close()
    assert position >= count
    return int(position)


async def left_behind(path: Path) -> Any:
    """What the status of a next server would say of the interrupted round."""
    async with running(path) as server:
        return snapshot(server.manager)["interrupted_round"]


class TestInterrupted:
    """A round that is not gone on with by itself."""

    async def test_a_first_start_has_none(self, path: Path) -> None:
        async with running(path, RESUMING) as server:
            assert server.manager.state is IDLE
            assert snapshot(server.manager)["interrupted_round"] is None

    async def test_it_is_shown_and_inference_is_open(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = time.time()
        position = await crashed(path, small_config(block_hash="0xabc", node_id=2, node_count=5))
        async with running(path) as server:
            manager = server.manager
            assert (manager.state, manager.gate_closed, manager.active) == (IDLE, False, None)
            shown = snapshot(manager)["interrupted_round"]
            assert before <= shown.pop("begun_at") <= shown.pop("updated_at") <= time.time()
            assert len(shown.pop("round")) > 8
            assert shown == {
                "block_hash": "0xabc",
                "block_height": 7,
                "public_key": "02a1b2c3",
                "node_id": 2,
                "callback_url": None,
                "phase": "GENERATING",
                "total_checked": position,
                "total_valid": position,
                "total_failed": 0,
                "reason": None,
                "is_resumed": False,
            }
            assert server.engine.calls == []
        assert f"ended in GENERATING of block '0xabc', with {position} nonces checked" in caplog.text

    async def test_it_is_shown_again_and_again(self, path: Path) -> None:
        position = await crashed(path)
        for _ in range(3):
            shown = await left_behind(path)
            assert shown["total_checked"] == position

    async def test_what_it_had_found_is_delivered_all_the_same(self, path: Path) -> None:
        async with running_receiver() as receiver:
            server = await Server.start(path, QUICK.model_copy(update={"callback_interval": 3600.0}))
            await server.manager.start_round(small_config(callback_url=receiver.url))
            await server.checked(24)
            await server.crash()
            assert receiver.requests == []
            async with running(path) as second:
                await eventually(lambda: receiver.requests)
                [body] = receiver.bodies("generated")
                position = snapshot(second.manager)["interrupted_round"]["total_checked"]
                assert body["covered"] == [0, position - 1]
                assert body["nonces"] == list(range(position))

    async def test_a_stop_forgets_it(self, path: Path) -> None:
        await crashed(path)
        async with running(path) as server:
            await server.manager.stop()
            assert snapshot(server.manager)["interrupted_round"] is None
            assert server.manager.state is STOPPED
        assert await left_behind(path) is None

    @pytest.mark.parametrize("fails", [False, True])
    async def test_a_new_round_forgets_it(self, path: Path, fails: bool) -> None:
        await crashed(path)
        async with running(path) as server:
            if fails:
                server.engine.fail_open = EngineError("no memory")
                with pytest.raises(EngineError, match="no memory"):
                    await server.manager.init(small_config(block_hash="another"))
            else:
                await server.manager.init(small_config(block_hash="another"))
            assert snapshot(server.manager)["interrupted_round"] is None
        shown = await left_behind(path)
        assert (None if shown is None else shown["block_hash"]) == (None if fails else "another")

    async def test_a_request_that_is_refused_does_not(self, path: Path) -> None:
        await crashed(path)
        async with running(path) as server:
            with pytest.raises(HallmarkError):
                await server.manager.init(small_config(model="another"))
            assert snapshot(server.manager)["interrupted_round"]["block_hash"] == "0x8d3f2a"
        assert await left_behind(path) is not None


class TestResumed:
    """A round that is gone on with."""

    async def test_it_goes_on_at_the_very_nonce(self, path: Path) -> None:
        asked = small_config(node_id=2, node_count=5, valid_rate=0.5)
        position = await crashed(path, asked)
        async with running(path, RESUMING) as server:
            manager = server.manager
            assert (manager.state, manager.gate_closed) == (GENERATING, True)
            shown = snapshot(manager)
            assert shown["interrupted_round"]["is_resumed"]
            before = shown["interrupted_round"]
            assert (shown["total_checked"], shown["total_valid"]) == (position, before["total_valid"])
            await server.checked(position + 16)
            assert server.first_nonce == 2 + 5 * position
            shown = snapshot(manager)
            assert shown["total_valid"] - before["total_valid"] >= len(shown["valid_nonces"]) > 0
            assert min(shown["valid_nonces"]) >= 2 + 5 * position
            assert shown["config"]["block_hash"] == asked.block_hash

    async def test_its_rate_is_that_of_this_server(self, path: Path) -> None:
        position = await crashed(path, count=64)
        async with running(path, RESUMING) as server:
            server.engine.hold()
            await eventually(lambda: server.engine.keys)
            shown = snapshot(server.manager)
            assert shown["total_checked"] == position
            assert shown["rate_per_second"] == 0

    @pytest.mark.parametrize("phase", [IDLE, VALIDATING])
    async def test_it_is_in_its_phase_again(self, path: Path, phase: PoCState) -> None:
        if phase is IDLE:
            first = await Server.start(path)
            await first.manager.init(small_config())
            await first.crash()
            position = 0
        else:
            position = await crashed(path, phase=VALIDATING)
        async with running(path, RESUMING) as server:
            manager = server.manager
            assert manager.state is phase
            assert not manager.gate_closed
            if phase is VALIDATING:
                verdict = await manager.validate(await honest_proof(small_config(), range(20, 24)))
                assert verdict.verdict is Verdict.HONEST
                server.engine.keys.clear()
            await manager.switch_phase(GENERATING)
            await server.checked(position + 8)
            assert server.first_nonce == position

    async def test_a_round_that_only_validates_needs_no_walk(self, path: Path) -> None:
        asked = small_config(node_id=None, node_count=None)
        first = await Server.start(path)
        await first.manager.start_round(asked, VALIDATING)
        await first.crash()
        async with running(path, RESUMING) as server:
            assert server.manager.state is VALIDATING
            await server.manager.start_round(asked, VALIDATING)
            assert server.engine.calls == ["open"], "the same request is the same round"

    async def test_the_same_request_goes_on_with_it_and_another_replaces_it(self, path: Path) -> None:
        position = await crashed(path)
        async with running(path, RESUMING) as server:
            await server.manager.start_round(small_config())
            await server.checked(position + 8)
            assert server.first_nonce == position
            await server.manager.start_round(small_config(block_hash="another"))
            assert snapshot(server.manager)["interrupted_round"] is None
        shown = await left_behind(path)
        assert shown["block_hash"] == "another"

    async def test_a_change_of_phase_before_it_is_open_is_in_the_journal(self, path: Path) -> None:
        await crashed(path)
        server = await Server.start(path, RESUMING)
        assert not snapshot(server.manager)["is_model_initialized"]
        await server.manager.switch_phase(VALIDATING)
        await server.crash()
        shown = await left_behind(path)
        assert shown["phase"] == "VALIDATING"

    @pytest.mark.parametrize("is_open", [False, True])
    async def test_a_stop_ends_it_for_good(self, path: Path, is_open: bool) -> None:
        position = await crashed(path)
        async with running(path, RESUMING) as server:
            if is_open:
                await server.checked(position + 8)
            await server.manager.stop()
            assert server.manager.state is STOPPED
        assert await left_behind(path) is None

    async def test_it_is_gone_on_with_while_its_callbacks_are_just_young_enough(self, path: Path) -> None:
        clock = Clock()
        position = await crashed(path, clock=clock)
        clock.advance(RESUMING.callback_max_age)
        async with running(path, RESUMING, clock=clock) as server:
            await server.checked(position + 8)
            assert server.first_nonce == position

    async def test_an_engine_that_does_not_open_it_leaves_it_for_the_next_start(self, path: Path) -> None:
        position = await crashed(path)
        engine = Engine()
        engine.fail_open = EngineError("no memory")
        async with running(path, RESUMING, engine) as server:
            await eventually(lambda: server.manager.state is STOPPED)
            assert snapshot(server.manager)["reason"] == "no memory"
        async with running(path, RESUMING) as server:
            await server.checked(position + 8)
            assert server.first_nonce == position


class TestNotResumed:
    """A round that cannot be gone on with is shown, and said to be so."""

    @asynccontextmanager
    async def refused(
        self, path: Path, caplog: pytest.LogCaptureFixture, reason: str, *args: Any, **options: Any
    ) -> AsyncIterator[Server]:
        async with running(path, *(args or (RESUMING,)), **options) as server:
            assert server.manager.state is IDLE
            assert server.manager.active is None
            assert snapshot(server.manager)["interrupted_round"]["is_resumed"] is False
            assert "The round of block '0x8d3f2a' is not gone on with: " in caplog.text
            assert reason in caplog.text
            yield server
            assert server.engine.calls == []

    async def test_when_it_is_too_old(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        clock = Clock()
        await crashed(path, clock=clock)
        clock.advance(RESUMING.callback_max_age + 60)
        age = f"it was interrupted {RESUMING.callback_max_age + 60:.0f} s ago"
        async with self.refused(path, caplog, f"{age}, and callbacks would be too old by now", clock=clock):
            pass

    async def test_when_the_model_gives_other_settings(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        await crashed(path)
        other = Engine(tiny_model(hidden_size=128))
        async with self.refused(path, caplog, "with this model they would be", RESUMING, other):
            pass

    async def test_when_its_callbacks_may_not_go_there_any_more(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        await crashed(path, small_config(callback_url="http://127.0.0.1:9"))
        strict = RESUMING.model_copy(update={"callback_allowed_hosts": ("receiver.example",)})
        async with self.refused(path, caplog, "callback_url: 'http://127.0.0.1:9'", strict):
            pass

    async def test_a_stop_forgets_it(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        clock = Clock()
        await crashed(path, clock=clock)
        clock.advance(RESUMING.callback_max_age + 60)
        async with self.refused(path, caplog, "too old", clock=clock) as server:
            await server.manager.stop()
            assert snapshot(server.manager)["interrupted_round"] is None
        assert await left_behind(path) is None


class TestEnds:
    """Which ends leave a round to be gone on with."""

    async def test_a_graceful_shutdown_does(self, path: Path) -> None:
        async with running_receiver() as receiver:
            first = await Server.start(path)
            await first.manager.start_round(small_config(callback_url=receiver.url))
            await first.checked(16)
            await first.shut_down()
            position = snapshot(first.manager)["total_checked"]
            async with running(path, RESUMING) as second:
                shown = snapshot(second.manager)["interrupted_round"]
                assert (shown["reason"], shown["total_checked"]) == ("the server is shutting down", position)
                await second.checked(position + 8)
                assert second.first_nonce == position
            check_reports(receiver, snapshot(second.manager)["total_checked"])

    async def test_a_stop_does_not(self, path: Path) -> None:
        async with running_receiver() as receiver:
            async with running(path) as server:
                await server.manager.start_round(small_config(callback_url=receiver.url))
                await server.checked(16)
                await server.manager.stop()
            assert await left_behind(path) is None
            check_reports(receiver, snapshot(server.manager)["total_checked"])

    async def test_nor_does_a_stop_right_before_a_crash(self, path: Path) -> None:
        server = await Server.start(path)
        await server.manager.start_round(small_config())
        await server.checked(16)
        await server.manager.stop()
        await server.crash()
        assert await left_behind(path) is None

    async def test_a_replaced_one_does_not(self, path: Path) -> None:
        async with running(path) as server:
            await server.manager.start_round(small_config())
            await server.checked(16)
            await server.manager.start_round(small_config(block_hash="another"))
            await server.manager.stop()
        assert await left_behind(path) is None

    @pytest.mark.parametrize("error", [EngineError("CUDA error"), ValueError("odd")])
    async def test_an_engine_that_fails_does(self, path: Path, error: Exception) -> None:
        async with running(path) as server:
            await server.manager.start_round(small_config())
            await server.checked(16)
            server.engine.fail_compute = error
            await eventually(lambda: server.manager.state is STOPPED)
            position = snapshot(server.manager)["total_checked"]
        async with running(path, RESUMING) as server:
            assert str(error) in snapshot(server.manager)["interrupted_round"]["reason"]
            await server.checked(position + 8)
            assert server.first_nonce == position
            assert snapshot(server.manager)["reason"] is None

    async def test_unless_it_is_stopped_after_that(self, path: Path) -> None:
        async with running(path) as server:
            await server.manager.start_round(small_config())
            server.engine.fail_compute = EngineError("CUDA error")
            await eventually(lambda: server.manager.state is STOPPED)
            await server.manager.stop()
            assert snapshot(server.manager)["reason"] == "CUDA error"
        assert await left_behind(path) is None

    async def test_a_walk_at_its_end_does_not(self, path: Path) -> None:
        async with running(path) as server:
            await server.manager.start_round(small_config(node_id=2**63 - 4, node_count=1))
            await eventually(lambda: server.manager.state is STOPPED)
            assert "2^63" in snapshot(server.manager)["reason"]
            assert snapshot(server.manager)["total_checked"] == 4
        assert await left_behind(path) is None

    async def test_a_disk_that_fails_does_and_nothing_is_told_that_is_not_kept(self, path: Path) -> None:
        async with running(path) as server:
            await server.manager.start_round(small_config())
            await server.checked(16)
            with broken(server.store._database):
                await eventually(lambda: server.manager.state is STOPPED)
                told = snapshot(server.manager)["total_checked"]
            assert "broken" in snapshot(server.manager)["reason"]
        shown = await left_behind(path)
        assert shown["total_checked"] == told


@contextmanager
def broken(database: OutboxDatabase) -> Iterator[None]:
    """A database whose rounds cannot be written for a while."""

    other = OutboxDatabase(database.path, for_server=False)
    try:
        with other.transaction() as connection:
            connection.execute(
                "CREATE TRIGGER broken BEFORE UPDATE OF position ON rounds"
                " BEGIN SELECT raise(ABORT, 'broken'); END"
            )
        yield
        with other.transaction() as connection:
            connection.execute("DROP TRIGGER broken")
    finally:
        other.close()


def check_reports(receiver: CallbackReceiver, total: int) -> None:
    """Repetitions apart, every nonce of the walk came once, in order, up to a total."""
    reports: dict[str, Any] = {}
    for _, headers, body in receiver.requests:
        assert reports.setdefault(headers["webhook-id"], body) == body
    ends = [index for body in reports.values() for index in body["covered"]]
    assert ends[0::2] == [0, *(last + 1 for last in ends[1:-1:2])]
    assert ends[-1] == total - 1
    assert [nonce for body in reports.values() for nonce in body["nonces"]] == list(range(total))


class MortalDatabase(OutboxDatabase):
    """A database whose process dies at a chosen commit, right before it or right after.

    Attributes:
        commits_left: How many commits there are up to that one.
        loses_the_last: Whether it dies before that commit.
        is_dead: Whether it has died.
    """

    commits_left = 10**9
    loses_the_last = False

    @property
    def is_dead(self) -> bool:
        return self.commits_left <= 0

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        if self.commits_left <= 0:  # `is_dead` by another name: mypy would take that to stay false below
            raise OutboxError("killed before")
        with super().transaction() as connection:
            yield connection
            self.commits_left -= 1
            if self.is_dead and self.loses_the_last:
                raise OutboxError("killed before the commit")
        if self.is_dead:
            raise OutboxError("killed after the commit")


async def live_and_die(path: Path, asked: PoCConfig, commits: int, loses_the_last: bool) -> None:
    """A server's life up to a commit: it goes on with the round, or begins it where there is none."""
    server = Server(path, RESUMING)
    server.store._database.__class__ = MortalDatabase
    mortal = server.store._database
    assert isinstance(mortal, MortalDatabase)
    mortal.commits_left, mortal.loses_the_last = commits, loses_the_last
    with suppress(HallmarkError):
        await server.manager.recover()
        if server.manager.interrupted is None:
            await server.manager.start_round(asked)
        await eventually(lambda: mortal.is_dead)
    assert mortal.is_dead
    if server.manager.interrupted is not None and server.engine.keys:
        assert server.first_nonce == server.manager.interrupted.position
    await server.crash()


@settings(max_examples=12, deadline=None)
@given(deaths=st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=5))
def test_whenever_servers_are_killed_no_nonce_is_skipped_and_none_reported_twice(
    deaths: list[tuple[int, bool]],
) -> None:
    async def run(path: Path) -> None:
        async with running_receiver() as receiver:
            asked = small_config(callback_url=receiver.url)
            for commits, loses_the_last in deaths:
                await live_and_die(path, asked, commits, loses_the_last)
            async with running(path, RESUMING) as server:
                before = snapshot(server.manager)["total_checked"]
                if server.manager.interrupted is None:
                    await server.manager.start_round(asked)
                await server.checked(before + 8)
                assert server.first_nonce == before
            status = snapshot(server.manager)
            assert status["total_valid"] == status["total_checked"]
            check_reports(receiver, status["total_checked"])

    with TemporaryDirectory() as name:
        asyncio.run(run(Path(name) / "outbox.db"))
