"""Large batches are gone through beside the event loop, small ones at once."""

import asyncio
import threading
from typing import Any

import pytest
from builders import make_batch, small_config
from runtime import Engine, honest_proof, running_manager, running_receiver

from hallmark.poc.core.errors import StateError
from hallmark.poc.outbox.sender_registry import SenderRegistry
from hallmark.poc.protocol.config import PoCState
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.rounds import active_round
from hallmark.poc.rounds.offload import Offload
from hallmark.poc.rounds.validation_job import ValidationJob
from hallmark.poc.settings.settings import Settings
from hallmark.poc.verdict.judge import Verdict


async def test_work_on_many_nonces_runs_on_another_thread_and_on_few_at_once() -> None:
    offload = Offload()
    assert await offload.run(10, threading.get_ident) == threading.get_ident()
    assert await offload.run(100_000, threading.get_ident) != threading.get_ident()
    offload.close()


@pytest.mark.parametrize("size", [10, 100_000])
async def test_what_it_raises_is_raised(size: int) -> None:
    def fail() -> None:
        raise StateError("no")

    offload = Offload()
    with pytest.raises(StateError, match="no"):
        await offload.run(size, fail)
    offload.close()


async def test_the_loop_goes_on_meanwhile() -> None:
    offload = Offload()
    may_end = threading.Event()
    work = asyncio.create_task(offload.run(100_000, may_end.wait))
    await asyncio.sleep(0)
    assert not work.done()
    may_end.set()
    assert await work
    offload.close()


async def test_no_large_batch_is_checked_judged_or_written_on_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """3,000 claims of 30 nonces, so that they are computed in no time."""
    seen: dict[str, int] = {}

    def watch(owner: object, name: str) -> None:
        function = getattr(owner, name)

        def watched(*arguments: Any) -> Any:
            seen[name] = threading.get_ident()
            return function(*arguments)

        monkeypatch.setattr(owner, name, watched)

    watch(ProofBatch, "check_against")
    watch(ValidationJob, "judge")
    watch(active_round, "validated_payload")
    watch(SenderRegistry, "post")
    async with running_receiver() as receiver, running_manager(Engine(), Settings()) as manager:
        asked = small_config(callback_url=receiver.url)
        await manager.start_round(asked, PoCState.VALIDATING)
        once = await honest_proof(asked, range(30))
        batch = ProofBatch.parse({**once.as_dict(), "nonces": [*range(30)] * 100, "dist": [*once.dist] * 100})
        assert (await manager.validate(batch)).verdict is Verdict.HONEST
    here = threading.get_ident()
    assert seen.pop("post") == here
    assert seen.keys() == {"check_against", "judge", "validated_payload"}
    assert here not in seen.values()


async def test_a_round_that_ends_while_a_batch_is_looked_at_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looking, may_go_on = threading.Event(), threading.Event()

    def check(*_: object) -> None:
        looking.set()
        may_go_on.wait()

    monkeypatch.setattr(ProofBatch, "check_against", check)
    async with running_manager(Engine()) as manager:
        await manager.start_round(small_config(), PoCState.VALIDATING)
        batch = make_batch([1] * 500)
        submitting = asyncio.create_task(manager.submit(batch))
        await asyncio.to_thread(looking.wait)
        await manager.stop("enough")
        may_go_on.set()
        with pytest.raises(Exception, match="has ended: enough"):
            await submitting
        assert manager.queue.stats["queued_jobs"] == 0
