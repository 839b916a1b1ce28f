"""The manager on a real engine: states, generation, validation, failures."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from builders import BLOCK, small_config
from clock import Clock
from runtime import (
    QUICK,
    CallbackReceiver,
    Engine,
    eventually,
    honest_proof,
    oracle,
    running_manager,
    running_receiver,
    snapshot,
)
from transformers_engine import tiny_model
from virtual_time import VirtualTimeLoop

from hallmark.poc.core.errors import (
    EngineError,
    FieldError,
    NotReadyError,
    QueueFullError,
    RoundCancelledError,
    StateError,
    UnknownRequestError,
)
from hallmark.poc.protocol.config import PoCState
from hallmark.poc.protocol.round_spec import RoundSpec
from hallmark.poc.rounds import engine_watch
from hallmark.poc.rounds.batch_times import MAX_BATCHES
from hallmark.poc.rounds.engine_protocol import Slice
from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager
from hallmark.poc.verdict.judge import Verdict

IDLE, GENERATING, VALIDATING, STOPPED = PoCState


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
async def manager(engine: Engine) -> AsyncIterator[PoCManager]:
    async with running_manager(engine) as manager:
        yield manager
        assert not engine.overlapped, "the engine takes one call at a time"


@pytest.fixture
async def receiver() -> AsyncIterator[CallbackReceiver]:
    async with running_receiver() as receiver:
        yield receiver


async def checked(manager: PoCManager, count: int = 1) -> None:
    """Wait until the present round has checked so many nonces."""
    await eventually(lambda: snapshot(manager)["total_checked"] >= count)


def nonces_of(engine: Engine) -> list[int]:
    return [nonce for keys in engine.keys for _, nonce in keys]


def gate_closed(manager: PoCManager) -> bool:
    """The property, read anew: mypy takes what was asserted of an attribute to hold from then on."""
    return manager.gate_closed


async def begin_to_stop(manager: PoCManager, reason: str = "stopped by request") -> asyncio.Task[None]:
    """Stop, where the engine is held and so does not let go of its batch yet."""
    stopping = asyncio.create_task(manager.stop(reason))
    await eventually(lambda: manager.state is STOPPED)
    return stopping


class TestStates:
    """IDLE → GENERATING ⇄ VALIDATING → STOPPED."""

    async def test_a_new_manager_is_idle_and_open(self, manager: PoCManager) -> None:
        assert manager.state is IDLE
        assert not manager.gate_closed
        status = snapshot(manager)
        assert (status["state"], status["config"], status["stats"]) == ("IDLE", None, None)
        assert not status["is_model_initialized"]

    async def test_init_sets_a_round_and_does_not_start_it(self, engine: Engine, manager: PoCManager) -> None:
        await manager.init(small_config())
        assert manager.state is IDLE
        assert engine.calls == ["open"]
        assert snapshot(manager)["is_model_initialized"]
        assert snapshot(manager)["config"]["block_hash"] == "0x8d3f2a"
        await manager.switch_phase(GENERATING)
        assert manager.state is GENERATING
        await checked(manager)
        assert engine.calls.count("open") == 1

    async def test_the_gate_is_the_state(self, manager: PoCManager) -> None:
        await manager.start_round(small_config())
        assert gate_closed(manager)
        await manager.switch_phase(VALIDATING)
        assert not gate_closed(manager), "6.2: inference is allowed during VALIDATING"
        await manager.switch_phase(GENERATING)
        assert gate_closed(manager)
        await manager.stop()
        assert not gate_closed(manager)

    async def test_a_setting_leaves_inference_open_while_generating(self, engine: Engine) -> None:
        async with running_manager(engine, Settings(inference_while_generating=True)) as manager:
            await manager.start_round(small_config())
            assert manager.state is GENERATING
            assert not manager.gate_closed

    async def test_the_same_request_again_changes_nothing(self, engine: Engine, manager: PoCManager) -> None:
        await manager.start_round(small_config(r_target=10))
        await checked(manager)
        for _ in range(3):
            await manager.start_round(small_config(r_target=10.0))
        assert engine.calls.count("open") == 1
        assert nonces_of(engine) == list(range(len(nonces_of(engine))))

    async def test_the_same_request_for_the_other_phase_only_turns_it(
        self, engine: Engine, manager: PoCManager
    ) -> None:
        await manager.start_round(small_config())
        await checked(manager)
        await manager.start_round(small_config(), VALIDATING)
        assert manager.state is VALIDATING
        await manager.start_round(small_config())
        assert manager.state is GENERATING
        assert engine.calls.count("open") == 1

    @pytest.mark.parametrize("change", [{"block_hash": "other"}, {"public_key": "03"}, {"seq_len": 4}])
    @pytest.mark.parametrize("phase", [GENERATING, VALIDATING])
    async def test_another_request_ends_the_round_and_begins_anew(
        self, engine: Engine, manager: PoCManager, change: dict[str, Any], phase: PoCState
    ) -> None:
        await manager.start_round(small_config())
        await checked(manager)
        first = manager.active
        assert first is not None
        await manager.start_round(small_config(**change), phase)
        assert manager.state is phase
        assert first.ended
        assert "replaced by a round for block" in str(first.reason)
        assert first.memory_bytes is None, "the old round was closed on the engine before the new one"
        opens = [name for name in engine.calls if name in ("open", "close")]
        assert opens == ["open", "close", "open"]

    async def test_a_refused_request_leaves_the_round_alone(self, manager: PoCManager) -> None:
        await manager.start_round(small_config())
        for change, error in (
            ({"seq_len": 100_000}, FieldError),
            ({"r_target": 1.4, "valid_rate": 0.9}, FieldError),
            ({"callback_url": "ftp://x"}, FieldError),
            ({"node_id": None}, FieldError),
            ({"node_id": 2**63 - 1, "group_id": 1, "n_groups": 2}, FieldError),
            ({"model": "another"}, StateError),
        ):
            with pytest.raises(error):
                await manager.start_round(small_config(**change))
            assert manager.state is GENERATING
        before = snapshot(manager)["total_checked"]
        await checked(manager, before + 1)

    @pytest.mark.parametrize("phase", [GENERATING, VALIDATING])
    async def test_there_is_no_phase_without_a_round(self, manager: PoCManager, phase: PoCState) -> None:
        for state in (IDLE, STOPPED):
            with pytest.raises(StateError, match=f"no round to enter {phase} with: the state is {state}"):
                await manager.switch_phase(phase)
            await manager.stop()

    @pytest.mark.parametrize("missing", ["node_id", "node_count"])
    async def test_generating_needs_to_know_its_nonces_and_validating_does_not(
        self, manager: PoCManager, missing: str
    ) -> None:
        await manager.start_round(small_config(**{missing: None}), VALIDATING)
        with pytest.raises(FieldError, match=f"{missing}: .*Node ID and node count must be set"):
            await manager.switch_phase(GENERATING)
        assert manager.state is VALIDATING

    @pytest.mark.parametrize("state", list(PoCState))
    async def test_stop_is_allowed_in_every_state_and_repeatable(
        self, engine: Engine, manager: PoCManager, state: PoCState
    ) -> None:
        if state is IDLE:
            await manager.init(small_config())
        elif state is not STOPPED:
            await manager.start_round(small_config(), state)
        await manager.stop()
        await manager.stop()
        assert manager.state is STOPPED
        await manager.start_round(small_config())
        assert manager.state is GENERATING
        await checked(manager)

    async def test_stop_answers_when_the_batch_in_flight_is_counted_and_delivered(
        self, engine: Engine, manager: PoCManager, receiver: CallbackReceiver
    ) -> None:
        engine.hold()
        engine.is_idle = True
        await manager.start_round(small_config(callback_url=receiver.url))
        await eventually(lambda: engine.keys)
        stopping = await begin_to_stop(manager)
        assert not manager.gate_closed, "inference is open again at once"
        engine.release()
        await stopping
        status = snapshot(manager)
        assert status["total_checked"] == 8
        assert engine.calls == ["open", "start", "close"], "nothing is begun after the stop"
        assert status["callbacks"]["queued"] == 0
        assert receiver.bodies("generated")[0]["nonces"] == list(range(8))
        assert status["projection"]["bytes"] == 0

    async def test_a_caller_who_does_not_wait_stops_the_round_all_the_same(
        self, engine: Engine, manager: PoCManager
    ) -> None:
        engine.hold()
        engine.is_idle = True
        await manager.start_round(small_config())
        await eventually(lambda: engine.keys)
        stopping = await begin_to_stop(manager)
        stopping.cancel()
        await asyncio.wait({stopping})
        engine.release()
        await manager.stop()
        assert engine.calls == ["open", "start", "close"], "the batch in flight came to its end"
        assert snapshot(manager)["total_checked"] == 8

    async def test_counters_are_final_when_stop_answers(self, engine: Engine, manager: PoCManager) -> None:
        engine.is_idle = True
        await manager.start_round(small_config())
        await checked(manager, 16)
        await manager.stop()
        counted = snapshot(manager)["total_checked"]
        assert engine.calls[-1] == "close"
        assert counted == sum(len(keys) for keys in engine.keys)

    async def test_stop_gives_up_a_batch_that_is_suspended(self, engine: Engine, manager: PoCManager) -> None:
        """Inference is at work, so that the batch stands still after its first layer."""
        engine.hold()
        await manager.start_round(small_config())
        await eventually(lambda: engine.keys)
        stopping = await begin_to_stop(manager)
        engine.release()
        await stopping
        assert engine.calls == ["open", "start", "close"]
        assert snapshot(manager)["total_checked"] == 0

    async def test_a_stopped_round_begins_from_its_first_nonce_again(
        self, engine: Engine, manager: PoCManager
    ) -> None:
        await manager.start_round(small_config())
        await checked(manager, 16)
        await manager.stop()
        await manager.start_round(small_config())
        await eventually(lambda: nonces_of(engine).count(0) == 2)


class TestOneRoundAfterTheOther:
    """What a receiver gets of two rounds comes one after the other, were they equal in everything."""

    @pytest.mark.parametrize("block", ["0x8d3f2a", "0xnext"])
    async def test_after_a_stop_the_new_rounds_callbacks_come_last(
        self, engine: Engine, manager: PoCManager, receiver: CallbackReceiver, block: str
    ) -> None:
        engine.is_idle = True
        await manager.start_round(small_config(callback_url=receiver.url))
        await checked(manager, 64)
        await manager.stop()
        old = snapshot(manager)["total_valid"]
        assert sum(len(body["nonces"]) for body in receiver.bodies("generated")) == old
        await manager.start_round(small_config(callback_url=receiver.url, block_hash=block))
        await checked(manager, 64)
        await manager.stop()
        found = [nonce for body in receiver.bodies("generated") for nonce in body["nonces"]]
        assert found == [*range(old), *range(snapshot(manager)["total_valid"])]

    async def test_a_round_in_the_place_of_another_comes_after_it(
        self, engine: Engine, manager: PoCManager, receiver: CallbackReceiver
    ) -> None:
        engine.is_idle = True
        receiver.answers = [503, 429]
        await manager.start_round(small_config(callback_url=receiver.url))
        await checked(manager, 64)
        await manager.start_round(small_config(callback_url=receiver.url, block_hash="0xnext"))
        await checked(manager, 64)
        await manager.stop()
        blocks = [body["block_hash"] for body in receiver.bodies("generated")]
        assert blocks == sorted(blocks, key=["0x8d3f2a", "0xnext"].index)
        assert len(set(blocks)) == 2


class TestGeneration:
    """The walk and what it reports."""

    async def test_nonces_are_walked_in_order_and_their_distances_are_the_oracles(
        self, engine: Engine, manager: PoCManager
    ) -> None:
        asked = small_config(node_id=2, node_count=5)
        await manager.start_round(asked)
        await checked(manager, 24)
        await manager.stop()
        status = snapshot(manager)
        walked = list(range(2, 10**6, 5))
        assert status["valid_nonces"] == walked[: status["total_checked"]]
        expected = await asyncio.to_thread(oracle, asked, [("02a1b2c3", nonce) for nonce in walked[:24]])
        assert status["valid_distances"][:24] == expected

    async def test_a_round_runs_with_the_projection_on(self, engine: Engine, manager: PoCManager) -> None:
        """6.1: Integration with PoCManager."""
        keys = [("02a1b2c3", nonce) for nonce in range(8)]
        found = {}
        for projection, held in ((True, 2 * 64 * 64 * 2), (False, 0)):
            asked = small_config(use_random_projection=projection)
            await manager.start_round(asked)
            await checked(manager, 8)
            status = snapshot(manager)
            assert status["projection"] == {"enabled": projection, "bytes": held}
            found[projection] = status["valid_distances"][:8]
            assert found[projection] == await asyncio.to_thread(oracle, asked, keys)
            await manager.switch_phase(VALIDATING)
            validated = await manager.validate(await honest_proof(asked, range(8)))
            assert validated.verdict is Verdict.HONEST
        assert not set(found[True]) & set(found[False]), "the projection changes every distance"
        await manager.stop()
        await eventually(lambda: engine.calls[-1] == "close")
        assert snapshot(manager)["projection"]["bytes"] == 0

    async def test_a_pause_for_validation_continues_the_walk(
        self, engine: Engine, manager: PoCManager
    ) -> None:
        await manager.start_round(small_config())
        await checked(manager, 8)
        await manager.switch_phase(VALIDATING)
        # Behind whatever was begun, or chosen to be, before the phase was switched; that counts too.
        assert (await manager.validate(await honest_proof(small_config(), [1, 2]))).verdict is Verdict.HONEST
        paused_at = snapshot(manager)["total_checked"]
        assert (await manager.validate(await honest_proof(small_config(), [3]))).verdict is Verdict.HONEST
        assert snapshot(manager)["total_checked"] == paused_at, "validation is not generation"
        await manager.switch_phase(GENERATING)
        await checked(manager, paused_at + 8)
        generated = [keys for keys in engine.keys if len(keys) == 8]
        assert [nonce for keys in generated for _, nonce in keys] == list(range(8 * len(generated)))

    async def test_run_batch_is_the_next_batch_of_the_walk(self, engine: Engine, manager: PoCManager) -> None:
        await manager.start_round(small_config(block_height=9))
        engine.hold()
        batches = [asyncio.create_task(manager.run_batch()) for _ in range(2)]
        await asyncio.sleep(0)
        engine.release()
        first, second = await asyncio.gather(*batches)
        assert first is not None
        assert first == second
        assert first.block_height == 9
        assert first.covered is not None
        assert first.covered[1] - first.covered[0] == 7
        assert first.numerics == {**engine.numerics, "batch_size": 8, "seq_len": 8}
        assert manager.active is not None
        assert first.round_digest == manager.active.round.digest
        first.check_against(manager.active.round)

    async def test_run_batch_needs_generating_and_ends_with_the_round(
        self, engine: Engine, manager: PoCManager
    ) -> None:
        with pytest.raises(StateError, match="the state is IDLE"):
            await manager.run_batch()
        engine.hold()
        await manager.start_round(small_config())
        batch = asyncio.create_task(manager.run_batch())
        await asyncio.sleep(0)
        await begin_to_stop(manager, "enough")
        with pytest.raises(RoundCancelledError, match="has ended: enough"):
            await batch

    async def test_a_batch_without_a_valid_nonce_is_none_and_still_counted(self, manager: PoCManager) -> None:
        await manager.start_round(small_config(valid_rate=1e-12))
        assert await manager.run_batch() is None
        status = snapshot(manager)
        assert status["total_checked"] >= 8
        assert status["total_valid"] == 0

    async def test_totals_are_exact_and_lists_bounded(self, manager: PoCManager) -> None:
        await manager.start_round(small_config(seq_len=1, batch_size=128))
        await checked(manager, 1100)
        await manager.stop()
        await eventually(lambda: manager.active is not None and manager.active.memory_bytes is None)
        status = snapshot(manager)
        total = status["total_checked"]
        assert status["total_valid"] == total
        assert status["valid_nonces"] == list(range(total - 1000, total))
        assert len(status["valid_distances"]) == 1000

    async def test_the_valid_ones_are_below_the_target(self, manager: PoCManager) -> None:
        await manager.start_round(small_config(valid_rate=0.5))
        await checked(manager, 64)
        await manager.stop()
        status = snapshot(manager)
        assert 0 < status["total_valid"] < status["total_checked"]
        assert max(status["valid_distances"]) < status["r_target"]
        assert status["valid_rate"] == 0.5

    async def test_failed_nonces_are_reported_as_failed(
        self, engine: Engine, manager: PoCManager, receiver: CallbackReceiver
    ) -> None:
        engine.failed_nonces = {1, 3}
        await manager.start_round(small_config(callback_url=receiver.url))
        await checked(manager, 8)
        await manager.stop()
        await eventually(lambda: receiver.bodies("generated"))
        first = receiver.bodies("generated")[0]
        assert first["failed_nonces"] == [1, 3]
        assert first["nonces"][:6] == [0, 2, 4, 5, 6, 7]
        status = snapshot(manager)
        assert status["total_failed"] == 2
        assert status["total_valid"] == status["total_checked"] - 2

    async def test_everything_found_is_delivered_once_in_the_walks_order(
        self, manager: PoCManager, receiver: CallbackReceiver
    ) -> None:
        receiver.answers = [503, 500, 200, 429]
        await manager.start_round(small_config(callback_url=receiver.url))
        await checked(manager, 40)
        await manager.switch_phase(VALIDATING)
        await manager.switch_phase(GENERATING)
        await checked(manager, 80)
        await manager.stop()
        await eventually(lambda: manager.active is not None and manager.active.memory_bytes is None)
        total = snapshot(manager)["total_valid"]

        def delivered() -> list[int]:
            bodies = {headers["webhook-id"]: body for _, headers, body in receiver.requests}
            return [nonce for body in bodies.values() for nonce in body["nonces"]]

        await eventually(lambda: snapshot(manager)["callbacks"]["queued"] == 0)
        assert delivered() == list(range(total))
        assert snapshot(manager)["callbacks"]["retried"] == 3
        body = receiver.bodies("generated")[0]
        assert body.keys() >= {"public_key", "block_hash", "block_height", "nonces", "dist", "node_id"}
        assert body["r_target"] == 2.0

    async def test_the_end_of_the_walk_ends_the_round(self, engine: Engine, manager: PoCManager) -> None:
        await manager.start_round(small_config(node_id=2**63 - 5))
        await eventually(lambda: manager.state is STOPPED)
        assert "the walk is at its end" in snapshot(manager)["reason"]
        assert nonces_of(engine) == list(range(2**63 - 5, 2**63))
        assert not manager.gate_closed

    async def test_a_batch_size_too_large_is_lowered_and_told(self, engine: Engine) -> None:
        small = Engine(max_batched_tokens=64, max_sequences=50)
        async with running_manager(small) as manager:
            await manager.start_round(small_config(batch_size=100))
            shown = snapshot(manager)["config"]
            assert (shown["batch_size"], shown["requested_batch_size"]) == (8, 100)
            await checked(manager)
            assert {len(keys) for keys in small.keys} == {8}


class TestValidation:
    """Batches of others are recomputed and judged."""

    async def test_an_honest_batch_is_honest_with_the_right_distances(
        self, manager: PoCManager, receiver: CallbackReceiver
    ) -> None:
        """Specification 6.2: validation still produces correct distances."""
        asked = small_config(callback_url=receiver.url)
        await manager.start_round(asked, VALIDATING)
        nonces = list(range(5, 205, 10))
        validated = await manager.validate(await honest_proof(asked, nonces))
        keys = [("02a1b2c3", nonce) for nonce in nonces]
        assert list(validated.computed_dist) == await asyncio.to_thread(oracle, asked, keys)
        assert validated.verdict is Verdict.HONEST
        assert validated.n_invalid == 0
        await eventually(lambda: receiver.bodies("validated"))
        assert receiver.bodies("validated")[0]["dist"] == list(validated.computed_dist)

    async def test_the_batchs_own_key_seeds_the_recomputation(self, manager: PoCManager) -> None:
        await manager.start_round(small_config(), VALIDATING)
        other = small_config(public_key="03ffee")
        assert (await manager.validate(await honest_proof(other, range(8)))).verdict is Verdict.HONEST
        stolen = await honest_proof(other, range(8), public_key="02a1b2c3")
        assert (await manager.validate(stolen)).verdict is Verdict.FRAUD

    async def test_fabricated_distances_are_fraud(self, manager: PoCManager) -> None:
        await manager.start_round(small_config(), VALIDATING)
        forged = await honest_proof(small_config(), range(20), dist=(1.0,) * 20)
        validated = await manager.validate(forged)
        assert validated.fraud_detected
        # Each is several s away from what is computed.
        assert validated.n_invalid == 20

    async def test_jobs_share_batches_in_order(self, engine: Engine, manager: PoCManager) -> None:
        await manager.start_round(small_config(), VALIDATING)
        engine.hold()
        proofs = [await honest_proof(small_config(public_key=f"0{n}"), [n, n + 1, n + 2]) for n in range(4)]
        verdicts = [asyncio.create_task(manager.validate(proof)) for proof in proofs]
        await eventually(lambda: manager.queue.stats["queued_jobs"] == 4)
        engine.release()
        assert all(validated.verdict is Verdict.HONEST for validated in await asyncio.gather(*verdicts))
        assert sum(len(keys) for keys in engine.keys) == 12
        assert max(len(keys) for keys in engine.keys) == 8, "one forward serves nonces of several batches"

    async def test_while_generating_batches_wait_for_their_phase(
        self, engine: Engine, manager: PoCManager, receiver: CallbackReceiver
    ) -> None:
        await manager.start_round(small_config(callback_url=receiver.url))
        job = await manager.submit(await honest_proof(small_config(public_key="03"), range(3)))
        before = snapshot(manager)["total_checked"]
        await checked(manager, before + 16)
        assert job.status == "queued", "generation interleaves nothing else"
        assert snapshot(manager)["validation"]["queued_nonces"] == 3
        await manager.switch_phase(VALIDATING)
        await job.settled.wait()
        assert job.outcome().verdict is Verdict.HONEST
        await eventually(lambda: receiver.bodies("validated"))
        assert receiver.bodies("validated")[0]["request_id"] == job.request_id
        assert manager.result(job.request_id) == job.to_keep()

    @pytest.mark.parametrize("state", [IDLE, STOPPED])
    async def test_without_a_running_round_batches_are_refused(
        self, manager: PoCManager, state: PoCState
    ) -> None:
        await manager.init(small_config())
        if state is STOPPED:
            await manager.stop()
        with pytest.raises(StateError, match=f"the state is {state}"):
            await manager.submit(await honest_proof(small_config(), [1]))

    @pytest.mark.parametrize("change", [{"block_hash": "0xother"}, {"block_height": 8}])
    async def test_another_block_is_refused_with_both_named(
        self, manager: PoCManager, change: dict[str, Any]
    ) -> None:
        await manager.start_round(small_config(), VALIDATING)
        named = f"{next(iter(change.values()))}.*the round about block '0x8d3f2a' at height 7"
        with pytest.raises(StateError, match=named):
            await manager.submit(await honest_proof(small_config(), [1], **change))

    async def test_a_full_queue_refuses_and_takes_again_later(self, engine: Engine) -> None:
        async with running_manager(engine, Settings(max_queued_nonces=10)) as manager:
            await manager.start_round(small_config(), VALIDATING)
            engine.hold()
            first = await manager.submit(await honest_proof(small_config(), range(8)))
            with pytest.raises(QueueFullError, match="limit of 10"):
                await manager.submit(await honest_proof(small_config(), range(3)))
            engine.release()
            await first.settled.wait()
            await manager.validate(await honest_proof(small_config(), range(3)))

    async def test_no_verdict_where_recomputing_failed_and_no_callback_that_would_read_as_one(
        self,
        engine: Engine,
        manager: PoCManager,
        receiver: CallbackReceiver,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        engine.failed_nonces = {1}
        asked = small_config(callback_url=receiver.url)
        await manager.start_round(asked, VALIDATING)
        undecided = await manager.validate(await honest_proof(asked, range(8)))
        assert undecided.verdict is Verdict.NO_VERDICT
        assert undecided.failed_nonces == (1,)
        assert "1 of 8 nonces could not be recomputed; no callback is sent" in caplog.text
        await manager.validate(await honest_proof(asked, [2, 3]))
        await eventually(lambda: receiver.bodies("validated"))
        assert [body["nonces"] for body in receiver.bodies("validated")] == [[2, 3]]
        assert snapshot(manager)["validation"]["failed_nonces"] == 1

    async def test_the_end_of_the_round_answers_what_was_submitted(
        self, engine: Engine, manager: PoCManager
    ) -> None:
        await manager.start_round(small_config(), VALIDATING)
        engine.hold()
        running = await manager.submit(await honest_proof(small_config(), range(8)))
        await eventually(lambda: running.status == "running")
        waiting = asyncio.create_task(manager.validate(await honest_proof(small_config(), range(3))))
        await eventually(lambda: manager.queue.stats["queued_jobs"] == 2)
        await begin_to_stop(manager, "enough")
        with pytest.raises(RoundCancelledError, match="'0x8d3f2a' has ended: enough"):
            await waiting
        assert running.status == "failed"
        engine.release()
        await manager.start_round(small_config(), VALIDATING)
        assert (await manager.validate(await honest_proof(small_config(), [4]))).verdict is Verdict.HONEST

    async def test_an_unknown_request_id(self, manager: PoCManager) -> None:
        with pytest.raises(UnknownRequestError):
            manager.result("never given")


class TestFailures:
    """Whatever fails, the state says so, and inference is open again."""

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (EngineError("rank 1: no memory for the projections"), "rank 1: no memory"),
            (RuntimeError("the engine core died"), "RuntimeError: the engine core died"),
        ],
    )
    @pytest.mark.parametrize("phase", [GENERATING, VALIDATING])
    async def test_a_round_that_cannot_start_ends_stopped_with_the_reason(
        self, engine: Engine, manager: PoCManager, phase: PoCState, error: Exception, reason: str
    ) -> None:
        engine.fail_open = error
        with pytest.raises(EngineError, match=reason):
            await manager.start_round(small_config(), phase)
        assert manager.state is STOPPED
        assert reason in snapshot(manager)["reason"]
        assert not manager.gate_closed
        engine.fail_open = None
        await manager.start_round(small_config(), phase)
        assert snapshot(manager)["reason"] is None
        assert manager.state is phase

    async def test_a_model_whose_weights_are_gone_ends_the_round(self) -> None:
        """No injected error: the model is on a device where nothing can be computed."""
        model = tiny_model()
        async with running_manager(Engine(model)) as manager:
            model.to("meta")
            await manager.start_round(small_config())
            await eventually(lambda: manager.state is STOPPED)
            assert "meta" in snapshot(manager)["reason"]
            assert not manager.gate_closed

    @pytest.mark.parametrize("error", [EngineError("all ranks failed"), ValueError("odd")])
    async def test_a_round_that_dies_ends_stopped_with_the_reason(
        self, engine: Engine, manager: PoCManager, receiver: CallbackReceiver, error: Exception
    ) -> None:
        await manager.start_round(small_config(callback_url=receiver.url))
        await checked(manager, 16)
        engine.fail_compute = error
        await eventually(lambda: manager.state is STOPPED)
        assert str(error) in snapshot(manager)["reason"]
        assert not manager.gate_closed
        await eventually(lambda: engine.calls[-1] == "close")
        await eventually(lambda: snapshot(manager)["callbacks"]["queued"] == 0)
        found = [nonce for body in receiver.bodies("generated") for nonce in body["nonces"]]
        assert found == list(range(snapshot(manager)["total_valid"])), "what was found before is delivered"
        engine.fail_compute = None
        await manager.start_round(small_config())
        await checked(manager)

    async def test_a_failure_while_validating_answers_every_batch(
        self, engine: Engine, manager: PoCManager
    ) -> None:
        await manager.start_round(small_config(), VALIDATING)
        engine.hold()
        engine.fail_compute = EngineError("rank 0 is out of memory")
        proofs = [await honest_proof(small_config(), range(n, n + 6)) for n in range(3)]
        verdicts = [asyncio.create_task(manager.validate(proof)) for proof in proofs]
        await eventually(lambda: manager.queue.stats["queued_jobs"] == 3)
        engine.release()
        for verdict in verdicts:
            with pytest.raises(RoundCancelledError, match="rank 0 is out of memory"):
                await verdict
        assert manager.state is STOPPED

    async def test_an_engine_that_answers_too_little_is_not_believed(
        self, engine: Engine, manager: PoCManager
    ) -> None:
        end = engine._end

        async def short(done: Slice) -> Slice:
            batches = [b._replace(numbers=b.numbers[:-1]) for b in (await end(done)).batches or ()]
            return done._replace(batches=batches or None)

        engine._end = short  # type: ignore[method-assign]
        await manager.start_round(small_config())
        await eventually(lambda: manager.state is STOPPED)
        assert snapshot(manager)["reason"] == "the engine answered the numbers of [7] nonces for [8]"

    async def test_an_idle_engine_computes_several_batches_in_one_call(
        self, engine: Engine, manager: PoCManager
    ) -> None:
        engine.is_idle = True
        await manager.start_round(small_config())
        # How many a call may compute follows from how long the first ones took.
        await eventually(lambda: len(engine.keys) > engine.calls.count("start") >= 4)
        await manager.stop()
        await eventually(lambda: engine.calls[-1] == "close")
        walked = [nonce for keys in engine.keys for _, nonce in keys]
        assert walked == list(range(len(walked))), "the walk goes on from batch to batch"
        status = snapshot(manager)
        assert status["total_checked"] == len(walked), "a call in flight at the stop is counted"
        batches = status["batches"]
        assert batches["computed"] == len(engine.keys)
        assert 1 <= batches["in_last_call"] <= MAX_BATCHES
        assert 0 < batches["host_seconds_each"] <= batches["seconds_each"]

    async def test_beside_inference_a_call_computes_one_batch(
        self, engine: Engine, manager: PoCManager
    ) -> None:
        await manager.start_round(small_config())
        await eventually(lambda: engine.calls.count("start") >= 8)
        await manager.stop()
        await eventually(lambda: engine.calls[-1] == "close")
        assert len(engine.keys) == engine.calls.count("start")
        assert snapshot(manager)["batches"]["in_last_call"] == 1

    async def test_several_batches_of_one_call_are_one_batch_each_for_the_rest(
        self, engine: Engine, manager: PoCManager
    ) -> None:
        """A failed nonce, and whoever waits for the next batch, see no difference."""
        engine.is_idle = True
        engine.failed_nonces = {9, 17}
        await manager.start_round(small_config())
        first = await manager.run_batch()
        assert first is not None
        assert len(first.nonces) + len(first.failed_nonces) == 8
        await checked(manager, 24)
        await manager.stop()
        await eventually(lambda: engine.calls[-1] == "close")
        assert snapshot(manager)["total_failed"] == 2

    async def test_a_failure_of_a_round_that_is_over_does_not_touch_the_next(
        self, engine: Engine, manager: PoCManager
    ) -> None:
        await manager.start_round(small_config())
        engine.hold()
        await eventually(lambda: engine._busy)
        engine.fail_compute = EngineError("late")
        start = asyncio.create_task(manager.start_round(small_config(block_hash="next"), VALIDATING))
        await asyncio.sleep(0)
        engine.release()
        await start
        engine.fail_compute = None
        assert manager.state is VALIDATING
        assert snapshot(manager)["reason"] is None

    async def test_a_cancelled_caller_does_not_cut_an_engine_call_short(
        self, engine: Engine, manager: PoCManager
    ) -> None:
        await manager.start_round(small_config())
        engine.hold()
        await eventually(lambda: engine._busy)
        for call in (manager.run_batch(), manager.start_round(small_config(block_hash="next"))):
            caller = asyncio.create_task(call)
            await asyncio.sleep(0.01)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
        engine.release()
        await checked(manager)
        assert snapshot(manager)["config"]["block_hash"] == "next", "what was asked for is done all the same"
        assert manager.state is GENERATING

    async def test_a_round_replaced_before_it_was_open_says_so(
        self, engine: Engine, manager: PoCManager
    ) -> None:
        await manager.start_round(small_config())
        engine.hold()
        await eventually(lambda: engine._busy)
        replaced = asyncio.create_task(manager.start_round(small_config(block_hash="second")))
        await eventually(
            lambda: manager.active is not None and manager.active.round.config.block_hash == "second"
        )
        assert not snapshot(manager)["is_model_initialized"]
        assert manager.gate_closed, "the state is GENERATING while the engine is not ready"
        last = asyncio.create_task(manager.start_round(small_config(block_hash="third")))
        with pytest.raises(RoundCancelledError, match="replaced by a round for block 'third'"):
            await replaced
        engine.release()
        await last
        await checked(manager)
        assert engine.calls.count("open") == 2, "the one in the middle was never opened"

    async def test_a_stalled_engine_shows_in_the_status(self, engine: Engine, manager: PoCManager) -> None:
        assert snapshot(manager)["seconds_since_progress"] is None
        await manager.start_round(small_config(), VALIDATING)
        assert snapshot(manager)["seconds_since_progress"] is None, "there is nothing to do"
        engine.hold()
        await manager.submit(await honest_proof(small_config(), [1]))
        first = await eventually(lambda: snapshot(manager)["seconds_since_progress"])
        await eventually(lambda: snapshot(manager)["seconds_since_progress"] > first)
        await begin_to_stop(manager)
        assert snapshot(manager)["seconds_since_progress"] is None


class TestProgress:
    """Whoever looks after the server is told whether the engine gets on, and how fast."""

    @pytest.fixture
    def clock(self) -> Clock:
        """What the manager measures with."""
        return Clock()

    @pytest.fixture
    async def manager(self, engine: Engine, clock: Clock) -> AsyncIterator[PoCManager]:
        async with running_manager(engine, clock=clock) as manager:
            yield manager
            assert not engine.overlapped, "the engine takes one call at a time"

    @pytest.mark.parametrize("phase", [GENERATING, VALIDATING])
    async def test_work_without_progress_for_too_long_is_stuck_and_progress_ends_it(
        self, engine: Engine, manager: PoCManager, clock: Clock, phase: PoCState
    ) -> None:
        engine.hold()
        await manager.start_round(small_config(), phase)
        if phase is VALIDATING:
            await manager.submit(await honest_proof(small_config(), range(40)))
        await eventually(lambda: engine.keys)
        clock.advance(59.9)
        assert snapshot(manager)["seconds_since_progress"] == pytest.approx(59.9)
        assert snapshot(manager)["is_stuck"] is False
        clock.advance(0.2)
        assert snapshot(manager)["is_stuck"] is True
        engine.release()
        await eventually(lambda: not snapshot(manager)["is_stuck"])
        assert manager.state is phase

    async def test_without_work_nothing_is_stuck(self, manager: PoCManager, clock: Clock) -> None:
        assert snapshot(manager)["is_stuck"] is False
        await manager.init(small_config())
        clock.advance(3600.0)
        assert snapshot(manager)["is_stuck"] is False
        await manager.switch_phase(VALIDATING)
        clock.advance(3600.0)
        assert snapshot(manager)["is_stuck"] is False
        await manager.stop()
        clock.advance(3600.0)
        assert snapshot(manager)["is_stuck"] is False

    async def test_a_batch_that_comes_after_a_quiet_hour_does_not_find_the_engine_stuck(
        self, engine: Engine, manager: PoCManager, clock: Clock
    ) -> None:
        await manager.start_round(small_config(), VALIDATING)
        clock.advance(3600.0)
        engine.hold()
        await manager.submit(await honest_proof(small_config(), [1]))
        assert snapshot(manager)["is_stuck"] is False
        await eventually(lambda: engine.keys)
        assert snapshot(manager)["is_stuck"] is False
        assert snapshot(manager)["seconds_since_progress"] == 0.0

    async def test_an_engine_that_does_not_open_the_round_is_stuck(
        self, engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        may_open = asyncio.Event()
        open_round = engine.open_round

        async def slow(spec: RoundSpec) -> int:
            await may_open.wait()
            return await open_round(spec)

        monkeypatch.setattr(engine, "open_round", slow)
        async with running_manager(engine, Settings(stuck_after=0.01), clock=clock) as manager:
            starting = asyncio.create_task(manager.init(small_config()))
            await asyncio.sleep(0)
            clock.advance(120.0)
            assert snapshot(manager)["is_stuck"] is True
            await eventually(lambda: "has not answered for 120 s" in caplog.text)
            may_open.set()
            await starting
            assert snapshot(manager)["is_stuck"] is False

    async def test_a_stuck_engine_is_logged_with_the_round_and_again_as_long_as_it_lasts(
        self, engine: Engine, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        def logged() -> list[str]:
            return [record.getMessage() for record in caplog.records if "is stuck" in record.getMessage()]

        async with running_manager(engine, Settings(stuck_after=0.01), clock=clock) as manager:
            await manager.start_round(small_config())
            await checked(manager)
            assert logged() == [], "on a clock that stands still nothing is late"
            engine.hold()
            calls = len(engine.calls)
            await eventually(lambda: len(engine.calls) > calls or engine._busy)
            clock.advance(75.0)
            await eventually(lambda: len(logged()) >= 2)
            assert set(logged()) == {
                "The round for block '0x8d3f2a' is stuck: the engine has not answered for 75 s"
            }
            assert {record.levelname for record in caplog.records} == {"ERROR"}
            engine.release()
            await eventually(lambda: not snapshot(manager)["is_stuck"])
            assert manager.state is GENERATING, "it is told, and nothing is ended"

    async def test_a_slow_engine_that_gets_on_is_not_logged(
        self, engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Each slice takes less than `stuck_after`, the batch more."""
        end = engine._end

        async def slow(done: Slice) -> Slice:
            await asyncio.sleep(0.03)
            clock.advance(0.009)
            return await end(done)

        monkeypatch.setattr(engine, "_end", slow)
        async with running_manager(engine, Settings(stuck_after=0.01), clock=clock) as manager:
            await manager.start_round(small_config())
            await checked(manager, 16)
        assert "advance" in engine.calls
        assert "is stuck" not in caplog.text

    async def test_the_speed_of_validation_is_told_once_it_is_known(
        self, engine: Engine, manager: PoCManager, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        end = engine._end

        async def two_seconds(done: Slice) -> Slice:
            clock.advance(0.0 if done.batches is None else 2.0)
            return await end(done)

        monkeypatch.setattr(engine, "_end", two_seconds)
        engine.is_idle = True
        await manager.start_round(small_config(), VALIDATING)
        assert snapshot(manager)["validation"]["nonces_per_second"] is None
        some = await honest_proof(small_config(), [0])
        await manager.validate(replace(some, nonces=tuple(range(200)), dist=some.dist * 200))
        assert snapshot(manager)["validation"]["nonces_per_second"] == pytest.approx(4.0, rel=0.01)
        await manager.stop()
        assert snapshot(manager)["validation"]["nonces_per_second"] == pytest.approx(4.0, rel=0.01)

    async def test_generating_says_nothing_of_the_speed_of_validation(self, manager: PoCManager) -> None:
        await manager.start_round(small_config())
        await checked(manager, 16)
        assert snapshot(manager)["validation"]["nonces_per_second"] is None


class TestShutdown:
    """The engine is gone by then."""

    async def test_nothing_calls_the_engine_and_what_was_found_is_delivered(
        self, engine: Engine, receiver: CallbackReceiver
    ) -> None:
        settings = Settings(callback_interval=3600)
        engine.is_idle = True
        async with running_manager(engine, settings) as manager:
            await manager.start_round(small_config(callback_url=receiver.url))
            await checked(manager, 16)
        assert engine.calls[-1] == "start"
        assert manager.state is STOPPED
        assert snapshot(manager)["reason"] == "the server is shutting down"
        found = [nonce for body in receiver.bodies("generated") for nonce in body["nonces"]]
        assert found == list(range(snapshot(manager)["total_valid"])), "the batch in flight included"
        for call in (manager.init(small_config()), manager.start_round(small_config())):
            with pytest.raises(NotReadyError, match="shutting down"):
                await call

    async def test_an_engine_that_never_answers_does_not_hold_it_up(self, engine: Engine) -> None:
        manager = PoCManager(engine, Settings(shutdown_timeout=0.01))
        engine.hold()
        await manager.start_round(small_config())
        await eventually(lambda: engine._busy)
        await manager.shutdown()
        assert manager.state is STOPPED

    async def test_a_round_that_was_replaced_and_still_waits_for_the_engine_is_not_left_behind(
        self, engine: Engine
    ) -> None:
        manager = PoCManager(engine, Settings(shutdown_timeout=0.01))
        engine.hold()
        await manager.start_round(small_config())
        await eventually(lambda: engine._busy)
        replacing = asyncio.create_task(manager.start_round(small_config(block_hash="next")))
        await asyncio.sleep(0)
        await manager.shutdown()
        with pytest.raises(RoundCancelledError, match="shutting down"):
            await replacing
        owners = [task for task in asyncio.all_tasks() if task.get_name() == "hallmark round"]
        engine.release()
        await asyncio.sleep(0.01)
        assert owners == []
        assert "close" not in engine.calls, "the engine may be gone"

    async def test_a_manager_that_has_done_nothing_shuts_down(self, engine: Engine) -> None:
        await PoCManager(engine, QUICK).shutdown()
        assert engine.calls == []


def test_a_stuck_engine_is_logged_at_waits_that_double(monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[float] = []

    loop = VirtualTimeLoop()
    monkeypatch.setattr(engine_watch.logger, "error", lambda *_: times.append(loop.clock()))

    async def run() -> None:
        await engine_watch.EngineWatch(BLOCK, 60.0, loop.clock).wait_for(asyncio.sleep(1000.0))

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(run())
    assert times == [60.0, 180.0, 420.0, 900.0]
