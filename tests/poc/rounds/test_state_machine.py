"""Anything that clients, inference and an engine can do to a node, in any order, and what holds all the same.

The engine is simulated: its distances are hashes, its layers take time on the clock of a loop that never
waits. So every example is the same each time it is run.
"""

import asyncio
import gc
import hashlib
import json
import math
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from types import CoroutineType
from typing import Any, TypeVar

import httpx
from builders import MODEL, make_batch, make_config
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from runtime import snapshot
from virtual_time import VirtualTimeLoop

from hallmark.poc.core.errors import (
    EngineError,
    HallmarkError,
    QueueFullError,
    RoundCancelledError,
    StateError,
)
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.protocol.config import DeployedModel, PoCState
from hallmark.poc.protocol.law import distance_of
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import Numerics
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.round_spec import RoundSpec
from hallmark.poc.rounds.engine_protocol import ComputedBatch, Slice
from hallmark.poc.rounds.validation_job import ValidationJob
from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager
from hallmark.poc.verdict.judge import Verdict

IDLE, GENERATING, VALIDATING, STOPPED = PoCState

_Result = TypeVar("_Result")

LAYERS = 3
ROOM = 40
CONFIGS = {
    block: make_config(
        block_hash=block,
        public_key="node",
        node_id=node_id,
        node_count=node_count,
        batch_size=4,
        seq_len=8,
        callback_url=url,
    )
    for block, node_id, node_count, url in (
        ("block a", 0, 1, "http://receiver/a"),
        ("block b", 1, 3, "http://receiver/b"),
        ("block c", 0, 1, None),
        ("block d", None, None, None),
    )
}
ROUNDS = {block: Round.resolve(config, MODEL) for block, config in CONFIGS.items()}
PHASES = st.sampled_from([GENERATING, VALIDATING])
BLOCKS = st.sampled_from(list(CONFIGS))


def number(spec: RoundSpec, key: NonceKey) -> float:
    """A hash; one nonce in 13 cannot be computed."""
    if key[1] % 13 == 12:
        return math.nan
    text = f"{spec.block_hash} {spec.digest} {key}"
    return hashlib.sha256(text.encode()).digest()[0] / 16 - 2.0


def distance(spec: RoundSpec, key: NonceKey) -> float:
    return distance_of(number(spec, key), spec.hidden_size)


class SimulatedEngine:
    """`PoCEngine` without a model, that notes every breach of the protocol.

    Attributes:
        breaches: What its caller must not have done.
        opened: How often a round was opened for a block.
        is_idle: Whether it has no inference to finish.
        layer_seconds: What a layer takes.
        fails: What the present or the next call ends with.
        calls_to_live: After so many it answers nothing but errors.
        is_open: Whether a round is open.
        is_gone: Whether it must not be called any more.
    """

    model: DeployedModel = MODEL

    def __init__(self, calls_to_live: int | None) -> None:
        self.numerics: Numerics = {"engine": "simulated", "dtype": "bfloat16"}
        self.breaches: list[str] = []
        self.opened: Counter[str] = Counter()
        self.n_batches = 0
        self.is_idle = True
        self.layer_seconds = 0.002
        self.fails: Exception | None = None
        self.calls_to_live = calls_to_live
        self.is_open = self.is_gone = self.is_busy = False
        self._answers = asyncio.Event()
        self._answers.set()
        self._spec: RoundSpec | None = None
        self._suspended: list[list[NonceKey]] | None = None
        self._layers_left = 0

    @property
    def is_held(self) -> bool:
        return not self._answers.is_set()

    def hold(self) -> None:
        """Answer no call until `release`."""
        self._answers.clear()

    def release(self) -> None:
        self._answers.set()

    async def _call(self, seconds: float) -> None:
        if self.is_busy:
            self.breaches.append("two calls at once")
        if self.is_gone:
            self.breaches.append("a call after the end")
        self.is_busy = True
        try:
            await asyncio.sleep(seconds)
            await self._answers.wait()
            if self.calls_to_live is not None:
                self.calls_to_live -= 1
                if self.calls_to_live < 0:
                    raise EngineError("the engine is dead")
            if self.fails is not None:
                failure, self.fails = self.fails, None
                raise failure
        finally:
            self.is_busy = False

    async def open_round(self, spec: RoundSpec) -> int:
        if self.is_open:
            self.breaches.append("two rounds are open")
        self.is_open, self._spec = True, spec
        self.opened[spec.block_hash] += 1
        await self._call(0.001)
        return 4096

    async def start(self, batches: Sequence[Sequence[NonceKey]], layers: int | None) -> Slice:
        if self._spec is None:
            self.breaches.append("batches without a round")
            raise EngineError("no round is open")
        if self._suspended is not None:
            self.breaches.append("two starts at once")
        if not batches or any(not 0 < len(keys) <= self._spec.batch_size for keys in batches):
            self.breaches.append("a batch of the wrong size")
        self._suspended = [list(keys) for keys in batches]
        self._layers_left = LAYERS * len(batches)
        return await self._go_on(layers)

    async def advance(self, layers: int | None) -> Slice:
        if self._suspended is None:
            self.breaches.append("nothing is suspended")
        return await self._go_on(layers)

    async def _go_on(self, layers: int | None) -> Slice:
        passed = self._layers_left if layers is None else min(layers, self._layers_left)
        if passed < 1:
            self.breaches.append("a slice without a layer")
        await self._call(passed * self.layer_seconds)
        self._layers_left -= passed
        if self._layers_left or self._suspended is None or self._spec is None:
            return Slice(passed * self.layer_seconds, passed, None)
        spec, batches, self._suspended = self._spec, self._suspended, None
        self.n_batches += len(batches)
        computed = [
            ComputedBatch([[number(spec, key)] * spec.numbers for key in keys], 0.0) for keys in batches
        ]
        return Slice(passed * self.layer_seconds, passed, computed)

    async def close_round(self) -> None:
        self.is_open, self._spec, self._suspended = False, None, None
        await self._call(0.0)


rarely = precondition(lambda self: self.steps % 4 == 0)
"""For what ends rounds or holds everything up: most of them are to get somewhere."""


def at_once(work: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of what waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        result: _Result = done.value
        return result
    raise AssertionError("it waits")


class NodeMachine(RuleBasedStateMachine):
    """A manager on a simulated engine, with clients, receivers and inference around it."""

    @initialize(
        inference_while_generating=st.booleans(),
        validation_share=st.sampled_from([0.25, 1.0]),
        shutdown_timeout=st.sampled_from([0.0, 0.5]),
        calls_to_live=st.sampled_from([None, None, None, 3, 30]),
        pace=st.sampled_from([0.0, 0.004, 0.1]),
        block=st.sampled_from(["block a", "block c"]),
        phase=st.sampled_from([None, GENERATING, VALIDATING]),
    )
    def begin(
        self, calls_to_live: int | None, pace: float, block: str, phase: PoCState | None, **chosen: Any
    ) -> None:
        """A node, with a round that runs already or without."""
        gc.freeze()  # so that the collection at the end has this example's objects to look at only
        self.loop = VirtualTimeLoop()
        self.unhandled: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.unhandled.append(context))
        self.engine = SimulatedEngine(calls_to_live)
        self.bodies: list[tuple[str, Any]] = []
        self.settings = Settings(
            max_queued_nonces=ROOM, callback_interval=0.05, stuck_after=1.0, max_stall_ms=5.0, **chosen
        )
        outbox = Outbox(
            self.settings,
            connect=lambda: httpx.AsyncClient(transport=httpx.MockTransport(self._receive)),
            clock=self.loop.clock,
            steady=self.loop.clock,
        )
        self.manager = PoCManager(
            self.engine, self.settings, outbox, clock=self.loop.clock, now=self.loop.clock
        )
        self.jobs: list[tuple[ValidationJob, bool]] = []
        self.outcomes: dict[str, tuple[str, object]] = {}
        self.clients: list[asyncio.Task[Any]] = []
        self.connections: list[ExitStack] = []
        self.pace, self.steps = pace, 0
        if phase is not None:
            self.call(self.manager.start_round(CONFIGS[block], phase))

    def _receive(self, request: httpx.Request) -> httpx.Response:
        if request.method == "HEAD":  # a round that begins asks whether it is there
            return httpx.Response(200)
        path = request.extensions["target"]
        self.bodies.append((path.decode(), json.loads(request.content)))
        return httpx.Response(200)

    def call(self, work: Coroutine[Any, Any, Any]) -> None:
        """A client's call; it goes on while other things happen."""
        assert isinstance(work, CoroutineType), "what an `async def` makes; it has a name"
        self.clients.append(self.loop.create_task(work, name=work.__name__))
        self._go_on()

    def _go_on(self) -> None:
        """What a step brings about; clients may or may not leave it the time to get far."""
        if self.pace:
            self.loop.run_until_complete(asyncio.sleep(self.pace))
        self.loop.settle()

    # What clients do.

    @rarely
    @rule(block=BLOCKS)
    def init(self, block: str) -> None:
        self.call(self.manager.init(CONFIGS[block]))

    @rarely
    @rule(block=BLOCKS, phase=PHASES)
    def start(self, block: str, phase: PoCState) -> None:
        self.call(self.manager.start_round(CONFIGS[block], phase))

    @rule(phase=PHASES)
    def start_the_same_again(self, phase: PoCState) -> None:
        active = self.manager.active
        config = CONFIGS["block a"] if active is None else active.round.config
        self.call(self.manager.start_round(config, phase))

    @rule(phase=PHASES)
    def switch_phase(self, phase: PoCState) -> None:
        self.call(self.manager.switch_phase(phase))

    @rarely
    @rule()
    def stop(self) -> None:
        self.call(self.manager.stop())

    @rule()
    def wait_for_a_batch(self) -> None:
        self.call(self.manager.run_batch())

    @precondition(lambda self: any(not client.done() for client in self.clients))
    @rule(data=st.data())
    def a_client_goes_away(self, data: st.DataObject) -> None:
        waiting = [client for client in self.clients if not client.done()]
        waiting[data.draw(st.integers(0, len(waiting) - 1))].cancel()
        self._go_on()

    def _submit(self, block: str, prover: str, nonces: list[int], is_honest: bool) -> None:
        spec = ROUNDS[block].spec()
        right = [distance(spec, (prover, nonce)) for nonce in nonces]
        claims = [1.0 if math.isnan(d) else d if is_honest else 2.0 - d for d in right]
        proof = make_batch(nonces, claims, public_key=prover, block_hash=block)
        before = self.manager.queue.stats
        state, active = self.manager.state, self.manager.active
        try:
            self.jobs.append((at_once(self.manager.submit(proof)), is_honest))
        except (StateError, QueueFullError) as error:
            assert self.manager.queue.stats == before, "a refused batch leaves no trace"
            if isinstance(error, QueueFullError):
                assert sum(job.size for job in self.unsettled) + len(nonces) > ROOM
            else:
                assert state in (IDLE, STOPPED) or active is None or active.round.config.block_hash != block

    @rule(
        prover=st.sampled_from(["p", "q", "r"]),
        nonces=st.lists(st.integers(0, 30), min_size=1, max_size=ROOM // 2),
        is_honest=st.booleans(),
    )
    def submit(self, prover: str, nonces: list[int], is_honest: bool) -> None:
        active = self.manager.active
        block = "block a" if active is None else active.round.config.block_hash
        self._submit(block, prover, nonces, is_honest)
        self._go_on()

    @rule(block=BLOCKS)
    def submit_of_any_block(self, block: str) -> None:
        self._submit(block, "p", [1, 2], True)
        self._go_on()

    @precondition(lambda self: self.unsettled)
    @rule(data=st.data())
    def a_client_abandons_its_batch(self, data: st.DataObject) -> None:
        unsettled = self.unsettled
        job = unsettled[data.draw(st.integers(0, len(unsettled) - 1))]
        self.manager.abandon(job)
        assert job.settled.is_set() is (job.round.config.callback_url is None)
        self._go_on()

    # What inference does.

    @rule()
    def a_connection_comes(self) -> None:
        connection = ExitStack()
        connection.enter_context(self.manager.activity.connection())
        self.connections.append(connection)
        self._go_on()

    @precondition(lambda self: self.connections)
    @rule()
    def a_connection_goes(self) -> None:
        self.connections.pop(0).close()
        self._go_on()

    @rule()
    def inference_of_the_engine_begins_or_ends(self) -> None:
        self.engine.is_idle = not self.engine.is_idle

    # What the engine does.

    @rarely
    @rule()
    def the_engine_answers_nothing(self) -> None:
        self.engine.hold()

    @precondition(lambda self: self.engine.is_held)
    @rule()
    def the_engine_answers_again(self) -> None:
        self.engine.release()
        self._go_on()

    @rarely
    @rule(failure=st.sampled_from([EngineError, RuntimeError]))
    def a_call_fails(self, failure: type[Exception]) -> None:
        self.engine.fails = failure("rank 1 failed")
        self.engine.release()
        self._go_on()

    @rule(layer_seconds=st.sampled_from([0.001, 0.002, 0.02]))
    def layers_take_another_time(self, layer_seconds: float) -> None:
        self.engine.layer_seconds = layer_seconds

    def _let_pass(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.loop.settle()

    @rule(milliseconds=st.integers(1, 10))
    def a_moment_passes(self, milliseconds: int) -> None:
        self._let_pass(milliseconds / 1e3)

    @rule(milliseconds=st.integers(10, 200))
    def a_while_passes(self, milliseconds: int) -> None:
        self._let_pass(milliseconds / 1e3)

    @precondition(lambda self: not self.engine.is_held)
    @rule()
    def all_that_can_be_done_is_done(self) -> None:
        """Nothing waits for ever: with time, whatever was asked for is answered."""
        checked = snapshot(self.manager)["total_checked"]

        def is_done() -> bool:
            if any(not client.done() for client in self.clients if client.get_name() != "run_batch"):
                return False
            if self.manager.state is GENERATING:
                return bool(snapshot(self.manager)["total_checked"] > checked)
            return self.manager.state is not VALIDATING or not self.unsettled

        # A call of 64 batches, the longest there is, may owe inference three times as long.
        for _ in range(200):
            if not is_done():
                self._let_pass(0.1)
        assert is_done()
        assert not snapshot(self.manager)["is_stuck"]

    # What holds.

    @property
    def unsettled(self) -> list[ValidationJob]:
        return [job for job, _ in self.jobs if not job.settled.is_set()]

    @invariant()
    def what_holds_at_all_times(self) -> None:
        self.steps += 1
        self.the_engine_is_called_as_it_may_be()
        self.nothing_went_wrong_unseen()
        self.the_status_is_the_state()
        self.the_walk_has_neither_gaps_nor_repetitions()
        self.every_batch_is_answered_once_and_rightly()
        self.the_queues_counters_add_up()

    def the_engine_is_called_as_it_may_be(self) -> None:
        assert self.engine.breaches == []

    def nothing_went_wrong_unseen(self) -> None:
        assert self.unhandled == []

    def the_status_is_the_state(self) -> None:
        manager, active = self.manager, self.manager.active
        status = snapshot(manager)
        is_generating = manager.state is GENERATING
        assert manager.gate_closed is (is_generating and not self.settings.inference_while_generating)
        assert status["state"] == manager.state
        assert (status["reason"] is not None) is (active is not None and manager.state is STOPPED)
        assert (status["config"] is None) is (active is None)
        assert (status["stats"] is not None) is is_generating
        if status["is_model_initialized"]:
            assert self.engine.is_open
            assert manager.state is not STOPPED
        inference = status["inference"]
        assert inference["connections"] == len(self.connections)
        assert inference["is_active"] is (bool(self.connections) or not self.engine.is_idle)
        if manager.state is STOPPED:
            assert not self.unsettled
            assert status["seconds_since_progress"] is None

    def the_walk_has_neither_gaps_nor_repetitions(self) -> None:
        active, status = self.manager.active, snapshot(self.manager)
        if active is None:
            return
        config, spec = active.round.config, active.round.spec()
        if config.node_id is None or config.node_count is None:
            assert status["total_checked"] == 0
            return
        first, step = config.node_id, config.node_count
        walked = range(first, first + status["total_checked"] * step, step)
        valid = [nonce for nonce in walked if nonce % 13 != 12]
        assert status["total_valid"] == len(valid)
        assert status["total_failed"] == len(walked) - len(valid)
        assert status["valid_nonces"] == valid[-1000:]
        assert status["valid_distances"] == [distance(spec, ("node", nonce)) for nonce in valid[-1000:]]

    def every_batch_is_answered_once_and_rightly(self) -> None:
        for job, is_honest in self.jobs:
            if not job.settled.is_set():
                assert job.status in ("queued", "running")
                continue
            assert job.released.is_set()
            outcome = self.outcomes.setdefault(job.request_id, (job.status, job.error or job.outcome()))
            assert outcome == (job.status, job.error or job.outcome()), "what is settled stays so"
            assert self.manager.result(job.request_id) == job.to_keep()
            if job.error is not None:
                assert isinstance(job.error, RoundCancelledError | StateError)
                continue
            judged, spec, prover = job.outcome(), job.round.spec(), job.proof.public_key
            assert judged.nonces == tuple(dict.fromkeys(job.proof.nonces))
            expected = [distance(spec, (prover, nonce)) for nonce in judged.nonces]
            assert list(map(str, judged.computed_dist)) == list(map(str, expected))
            if any(map(math.isnan, expected)):
                assert judged.verdict is Verdict.NO_VERDICT
            elif is_honest:
                assert judged.verdict is Verdict.HONEST

    def the_queues_counters_add_up(self) -> None:
        stats = self.manager.queue.stats
        assert stats["queued_jobs"] == len(self.unsettled)
        assert stats["queued_nonces"] == sum(job.n_open for job in self.unsettled)
        statuses = Counter(status for status, _ in self.outcomes.values())
        assert stats["completed_jobs"] == statuses["completed"]
        assert stats["cancelled_jobs"] == statuses["failed"]

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.engine.is_gone = True
            self.loop.run_until_complete(self.manager.shutdown())
            self.loop.settle()
            self._check_the_end()
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.settle()
            self.loop.close()
            gc.unfreeze()

    def _check_the_end(self) -> None:
        left = asyncio.all_tasks(self.loop)
        assert not left, f"somebody is left behind: {left}"
        for client in self.clients:
            if not client.cancelled():
                assert isinstance(client.exception(), HallmarkError | None)
        assert not self.unsettled
        self.what_holds_at_all_times()
        json.dumps(snapshot(self.manager), allow_nan=False)
        self._check_callbacks()
        self._submit_all_there_is_room_for()
        self.clients.clear()
        gc.collect()
        self.nothing_went_wrong_unseen()

    def _check_callbacks(self) -> None:
        """What was reported is the walk, from its first nonce in each round; and each verdict comes once."""
        assert self.manager.outbox.stats()["dropped"] == 0
        for block, config in CONFIGS.items():
            bodies = [
                body
                for path, body in self.bodies
                if path.endswith("/generated") and body["block_hash"] == block
            ]
            begun, due = 0, 0
            for body in bodies:
                assert config.node_id is not None
                assert config.node_count is not None
                first, last = body["covered"]
                begun += first == 0
                assert first in (0, due)
                due = last + 1
                walked = [config.node_id + k * config.node_count for k in range(first, due)]
                assert sorted(body["nonces"] + body["failed_nonces"]) == walked
            assert begun <= self.engine.opened[block]
            active = self.manager.active
            if active is not None and active.round.config == config and config.callback_url is not None:
                assert due == active.statistics.total_checked or not active.statistics.total_checked
        told = [body["request_id"] for path, body in self.bodies if path.endswith("/validated")]
        assert sorted(told) == sorted(
            job.request_id
            for job, _ in self.jobs
            if job.status == "completed"
            and job.round.config.callback_url is not None
            and job.outcome().verdict is not Verdict.NO_VERDICT
        )

    def _submit_all_there_is_room_for(self) -> None:
        proof = make_batch(range(ROOM), [1.0] * ROOM, public_key="p", block_hash="block a")
        self.manager.queue.submit(ValidationJob(proof, ROUNDS["block a"], None))


TestNode = NodeMachine.TestCase
TestNode.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
