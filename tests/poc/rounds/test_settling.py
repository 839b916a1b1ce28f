"""Every batch that was taken is answered, whatever fails on the way to its verdict."""

import asyncio
import re
from typing import Any

import pytest
from builders import small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime import Engine, eventually, honest_proof

from hallmark.poc.core.errors import EngineError, FieldError, HallmarkError, OutboxError, RoundCancelledError
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.protocol.config import PoCState
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.rounds.validation_job import ValidationJob
from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager
from hallmark.poc.verdict.judge import Verdict

URL = "http://127.0.0.1:9"
ROOM = 64
# Nobody listens there, and nobody is asked again.
SETTINGS = Settings(
    callback_interval=0.0, callback_backoff_base=60.0, callback_backoff_cap=60.0, max_queued_nonces=ROOM
)


class FullOutbox(Outbox):
    """An outbox in which some verdicts find no room.

    Attributes:
        refused: Which of them, by their order.
        asked: How many there were.
    """

    refused: frozenset[int] = frozenset()
    asked = 0

    async def post(self, *arguments: Any, **options: Any) -> None:
        self.asked += 1
        if self.asked - 1 in self.refused:
            raise OutboxError("the outbox cannot be written: database or disk is full")
        await super().post(*arguments, **options)


async def submitted(manager: PoCManager, sizes: list[int]) -> list[ValidationJob]:
    """Batches of several provers, all of which are queued before the first is computed."""
    # A forward takes what is there: while a proof is made, the first would be computed alone.
    proofs = [await cached_proof(f"0{prover}", size) for prover, size in enumerate(sizes)]
    return [await manager.submit(proof) for proof in proofs]


_PROOFS: dict[tuple[str, int], ProofBatch] = {}


async def cached_proof(prover: str, size: int) -> ProofBatch:
    if (prover, size) not in _PROOFS:
        _PROOFS[prover, size] = await honest_proof(small_config(public_key=prover), range(size))
    return _PROOFS[prover, size]


async def everybody_is_answered(jobs: list[ValidationJob]) -> None:
    async with asyncio.timeout(30):
        for job in jobs:
            await job.settled.wait()


async def check(sizes: list[int], refused: frozenset[int], stops: bool) -> None:
    outbox = FullOutbox(SETTINGS)
    outbox.refused = refused
    engine = Engine()
    manager = PoCManager(engine, SETTINGS, outbox)
    try:
        await manager.start_round(small_config(callback_url=URL), PoCState.GENERATING)
        jobs = await submitted(manager, sizes)
        engine.hold()
        await manager.switch_phase(PoCState.VALIDATING)
        ending = asyncio.create_task(manager.stop()) if stops else None
        engine.release()
        await everybody_is_answered(jobs)
        if ending is not None:
            await ending
        for job in jobs:
            try:
                assert job.outcome().verdict is Verdict.HONEST
            except RoundCancelledError:
                assert refused or stops, "nothing else ends a round here"
        await manager.stop()
        assert manager.queue.stats["queued_jobs"] == manager.queue.stats["queued_nonces"] == 0
        # The whole room is there for the next round.
        outbox.refused = frozenset()
        await manager.start_round(small_config(block_hash="next"), PoCState.VALIDATING)
        whole = await honest_proof(small_config(block_hash="next"), [1] * ROOM, dist=(1.4,) * ROOM)
        assert (await manager.validate(whole)).n_duplicates == ROOM - 1
    finally:
        engine.release()
        await manager.shutdown()


@settings(max_examples=15)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.frozensets(st.integers(0, 5), max_size=6),
    st.booleans(),
)
def test_reports_that_fail_leave_nobody_waiting_and_no_room_taken(
    sizes: list[int], refused: frozenset[int], stops: bool
) -> None:
    asyncio.run(check(sizes, refused, stops))


async def test_the_verdicts_of_one_forward_are_told_though_the_first_finds_no_room() -> None:
    outbox = FullOutbox(SETTINGS)
    outbox.refused = frozenset({0})
    engine = Engine()
    manager = PoCManager(engine, SETTINGS, outbox)
    try:
        await manager.start_round(small_config(callback_url=URL), PoCState.VALIDATING)
        engine.hold()
        jobs = await submitted(manager, [3, 3])
        await eventually(lambda: engine.keys)
        engine.release()
        await everybody_is_answered(jobs)
        assert [job.outcome().verdict for job in jobs] == [Verdict.HONEST] * 2
        assert outbox.asked == 2, "the second is reported where there is room for it"
        await eventually(lambda: manager.state is PoCState.STOPPED)
        assert manager.active is not None
        assert "disk is full" in str(manager.active.reason)
    finally:
        await manager.shutdown()


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        (FieldError("n_covered", 2**63, "an integer below"), PoCState.VALIDATING),
        (EngineError("2 numbers were computed for nonce 0 instead of 1"), PoCState.STOPPED),
    ],
    ids=["by what it says", "by what the engine says"],
)
async def test_a_batch_that_cannot_be_judged_fails_alone(
    monkeypatch: pytest.MonkeyPatch, failure: HallmarkError, state: PoCState
) -> None:
    """A prover may not end a validator's round by what it sends; an engine that computes nonsense does."""
    engine = Engine()
    manager = PoCManager(engine, SETTINGS)
    judge = ValidationJob.judge

    def fail_first(job: ValidationJob) -> None:
        if job is jobs[0]:
            raise failure
        judge(job)

    monkeypatch.setattr(ValidationJob, "judge", fail_first)
    try:
        await manager.start_round(small_config(), PoCState.VALIDATING)
        engine.hold()
        jobs = await submitted(manager, [3, 3])
        await eventually(lambda: engine.keys)
        engine.release()
        await everybody_is_answered(jobs)
        with pytest.raises(type(failure), match=re.escape(str(failure))):
            jobs[0].outcome()
        assert jobs[1].outcome().verdict is Verdict.HONEST
        assert manager.queue.stats["queued_nonces"] == 0
        if state is PoCState.VALIDATING:
            later = await manager.validate(await cached_proof("00", 2))
            assert later.verdict is Verdict.HONEST
        await eventually(lambda: manager.state is state)
    finally:
        await manager.shutdown()


async def test_a_server_that_ends_in_the_middle_of_a_verdict_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report waits for a disk that does not answer, longer than the server waits."""
    reporting = asyncio.Event()

    class StuckOutbox(Outbox):
        async def post(self, url: str, *arguments: Any, **options: Any) -> None:
            reporting.set()
            await asyncio.Event().wait()

    hurried = SETTINGS.model_copy(update={"shutdown_timeout": 0.01})
    manager = PoCManager(Engine(), hurried, StuckOutbox(hurried))
    await manager.start_round(small_config(callback_url=URL), PoCState.GENERATING)
    jobs = await submitted(manager, [2, 2])
    await manager.switch_phase(PoCState.VALIDATING)
    await reporting.wait()
    await manager.shutdown()
    await everybody_is_answered(jobs)
    assert jobs[0].outcome().verdict is Verdict.HONEST, "it had one"
    with pytest.raises(HallmarkError, match="given up in the middle of a verdict"):
        jobs[1].outcome()


async def test_a_server_that_ends_while_an_engine_does_not_close_leaves_nobody_at_work() -> None:
    closing = asyncio.Event()

    class StuckEngine(Engine):
        async def close_round(self) -> None:
            closing.set()
            await asyncio.Event().wait()

    manager = PoCManager(StuckEngine(), SETTINGS.model_copy(update={"shutdown_timeout": 0.01}))
    await manager.start_round(small_config(), PoCState.VALIDATING)
    stopping = asyncio.create_task(manager.stop())
    await closing.wait()
    await manager.shutdown()
    await asyncio.wait({stopping})
    await asyncio.sleep(0)  # what has been cancelled ends
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task.get_name() for task in left]
