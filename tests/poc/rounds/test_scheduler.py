"""When the scheduler calls the engine, for how many layers, and how long it leaves it alone.

All of it runs on a loop whose clock is virtual: waiting takes no time. Times are in layers of 2^-9 seconds,
so that their sums are exact. 5 of them keep within the 10 ms of `max_stall_ms`, 25 within `idle_slice_ms`.
"""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, ParamSpec

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from virtual_time import VirtualTimeLoop

from hallmark.poc.core.errors import EngineError
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.rounds.engine_protocol import ComputedBatch, Slice
from hallmark.poc.rounds.inference_activity import InferenceActivity
from hallmark.poc.rounds.scheduler import Scheduler
from hallmark.poc.settings.settings import Settings

_Arguments = ParamSpec("_Arguments")

LAYER = 2.0**-9
BATCH = [("02", nonce) for nonce in range(4)]


def in_virtual_time(
    test: Callable[_Arguments, Coroutine[Any, Any, None]],
) -> Callable[_Arguments, None]:
    @wraps(test)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


def now() -> float:
    """The time, in layers."""
    return asyncio.get_running_loop().time() / LAYER


async def wait(duration: float) -> None:
    await asyncio.sleep(duration * LAYER)


class ScriptedEngine:
    """Layers that cost what the test says, and a record of the calls.

    Attributes:
        calls: What was asked: the name and the layers.
        concurrent_with_inference: Whether inference was at work then.
        stalls: How long the calls took that did not fail.
        spans: Their beginnings and ends.
        passed: Layers that were computed.
        is_idle: Whether it has no inference to finish itself.
        has_inference: Whether inference is at work on the node.
        fails: What calls end with.
    """

    def __init__(self, layers: int, cost: float | Sequence[float], bubble: float) -> None:
        self._costs = [cost] * layers if isinstance(cost, int | float) else list(cost)
        self._bubble = bubble
        self._open: list[list[NonceKey]] = []
        self._left: list[float] = []
        self.calls: list[tuple[str, int | None]] = []
        self.concurrent_with_inference: list[bool] = []
        self.stalls: list[float] = []
        self.spans: list[tuple[float, float]] = []
        self.passed = 0
        self.has_inference: Callable[[], bool] = lambda: False
        self.is_idle = True
        self.fails: Exception | None = None

    async def start(self, batches: Sequence[Sequence[NonceKey]], layers: int | None) -> Slice:
        assert not self._left, "other batches are suspended"
        self._open = [list(keys) for keys in batches]
        self._left = self._costs * len(batches)
        return await self._go_on("start", layers)

    async def advance(self, layers: int | None) -> Slice:
        assert self._left, "nothing is suspended"
        return await self._go_on("advance", layers)

    async def _go_on(self, name: str, layers: int | None) -> Slice:
        self.calls.append((name, layers))
        self.concurrent_with_inference.append(self.has_inference())
        begun = now()
        passed = len(self._left) if layers is None else min(layers, len(self._left))
        stall = self._bubble + sum(self._left[:passed])
        await wait(stall)
        if self.fails is not None:
            self._left = []
            raise self.fails
        self.stalls.append(stall)
        self.spans.append((begun, now()))
        self._left = self._left[passed:]
        self.passed += passed
        batches = [ComputedBatch([[distance(key)] for key in keys], 0.0) for keys in self._open]
        return Slice(stall * LAYER, passed, None if self._left else batches)

    @property
    def layers(self) -> list[int | None]:
        return [layers for _, layers in self.calls]

    @property
    def pauses(self) -> list[float]:
        """From the end of each call to the beginning of the next."""
        begins, ends = [begin for begin, _ in self.spans], [end for _, end in self.spans]
        return [begin - end for begin, end in zip(begins[1:], ends[:-1], strict=True)]


def distance(key: NonceKey) -> float:
    """Any number that depends on the key alone."""
    return hashlib.sha256(repr(key).encode()).digest()[0] / 128


class Node:
    """A scheduler, its engine, and what is at work beside it."""

    def __init__(
        self,
        *,
        layers: int = 12,
        cost: float | Sequence[float] = 1,
        bubble: float = 0.0,
        **settings: Any,
    ) -> None:
        self.engine = ScriptedEngine(layers, cost, bubble)
        self.activity = InferenceActivity(self.engine)  # type: ignore[arg-type]  # it asks whether it is idle
        self.engine.has_inference = lambda: self.activity.is_active
        self.refuses = False
        self.ended = asyncio.Event()
        self.slices = 0
        self.scheduler = Scheduler(
            self.engine,  # type: ignore[arg-type]  # it starts and advances
            self.activity,
            Settings(**settings),
            lambda: self.refuses,
            clock=lambda: now() * LAYER,
        )

    async def compute(self, *batches: Sequence[NonceKey]) -> list[list[float]] | None:
        def on_slice() -> None:
            self.slices += 1
            assert self.slices == len(self.engine.spans)

        return await self.compute_what(lambda: batches or [BATCH], on_slice)

    async def compute_what(
        self, choose: Callable[[], Sequence[Sequence[NonceKey]]], on_slice: Callable[[], None] = lambda: None
    ) -> list[list[float]] | None:
        computed = await self.scheduler.compute(choose, ended=self.ended, on_slice=on_slice)
        return None if computed is None else [[number for [number] in batch.numbers] for batch in computed]

    async def serve(self, duration: float) -> None:
        """A request for inference."""
        with self.activity.connection():
            await wait(duration)


class TestBesideInference:
    """Slices are short, and after each the engine is left to inference."""

    @pytest.mark.parametrize(
        ("cost", "expected"),
        [(0.5, [1, 10, 10]), (1, [1, 5, 5, 5]), (1.5, [1, 3, 3, 3, 3]), (5, [1] * 12), (20, [1] * 12)],
    )
    @in_virtual_time
    async def test_a_slice_is_as_many_layers_as_keep_within_the_stall_and_at_least_one(
        self, cost: float, expected: list[int]
    ) -> None:
        node = Node(layers=12, cost=cost)
        with node.activity.connection():
            assert await node.compute() == [[distance(key) for key in BATCH]]
        assert node.engine.layers == expected
        assert max(node.engine.stalls) <= max(5, cost)
        assert node.engine.passed == 12

    @in_virtual_time
    async def test_a_request_that_the_engine_alone_knows_of_counts_as_well(self) -> None:
        node = Node(max_stall_ms=4.0)
        node.engine.is_idle = False
        await node.compute()
        assert node.engine.layers == [1, 2, 2, 2, 2, 2, 2]
        assert node.engine.pauses == [3, *[6] * 5]

    @in_virtual_time
    async def test_what_a_call_costs_beside_its_layers_is_part_of_the_stall(self) -> None:
        node = Node(layers=200, bubble=0.75)
        with node.activity.connection():
            await node.compute()
        assert max(node.engine.stalls) == 4.75, "one layer more, and it would be more than 5.12"

    @in_virtual_time
    async def test_a_dearer_layer_makes_the_very_next_slice_shorter(self) -> None:
        node = Node(cost=[1.0] * 6 + [2.5] * 6)
        with node.activity.connection():
            await node.compute()
        assert node.engine.layers == [1, 5, 5, 2]
        assert node.engine.stalls == [1, 5, 12.5, 2.5]

    @pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
    @in_virtual_time
    async def test_after_a_slice_of_t_the_engine_is_left_alone_for_t_times_the_others_share(
        self, share: float
    ) -> None:
        node = Node(validation_share=share)
        with node.activity.connection():
            await node.compute()
        assert node.engine.stalls == pytest.approx([1, 5, 5, 1])
        assert node.engine.pauses == pytest.approx([t * (1 - share) / share for t in (1, 5, 5)])

    @in_virtual_time
    async def test_with_the_whole_share_slices_are_short_and_follow_each_other(self) -> None:
        node = Node(validation_share=1.0)
        with node.activity.connection():
            await node.compute()
        assert node.engine.layers == [1, 5, 5, 5]
        assert node.engine.pauses == [0] * 3

    @in_virtual_time
    async def test_the_last_slice_of_a_batch_is_paid_for_before_the_next_batch(self) -> None:
        node = Node(layers=2)
        with node.activity.connection():
            await node.compute()
            await node.compute()
        assert node.engine.calls == [("start", 1), ("advance", 5), ("start", 5)]
        assert node.engine.pauses == [3, 3]

    @in_virtual_time
    async def test_after_a_rest_nothing_is_owed(self) -> None:
        node = Node(layers=2)
        with node.activity.connection():
            await node.compute()
            node.scheduler.rest()
            await node.compute()
        assert node.engine.pauses == [3, 0]

    @in_virtual_time
    async def test_a_call_that_failed_is_followed_by_a_fresh_start(self) -> None:
        node = Node()
        node.engine.fails = EngineError("rank 1 is out of memory")
        with node.activity.connection():
            with pytest.raises(EngineError, match="rank 1"):
                await node.compute()
            node.engine.fails = None
            assert await node.compute() == [[distance(key) for key in BATCH]]
        assert [name for name, _ in node.engine.calls] == ["start", "start", *["advance"] * 3]
        assert node.slices == 4 == node.scheduler.stats["slices"], "a failed call has no slice to be counted"


class TestAlone:
    """Nobody is at work: slices follow each other and grow."""

    @in_virtual_time
    async def test_slices_grow_to_the_idle_one_without_a_pause(self) -> None:
        node = Node(layers=100)
        await node.compute()
        assert node.engine.layers == [1, 25, 25, 25, 25]
        assert node.engine.stalls == [1, 25, 25, 25, 24]
        assert node.engine.pauses == [0] * 4

    @in_virtual_time
    async def test_a_request_that_comes_makes_the_next_slice_short_and_its_end_the_next_long(self) -> None:
        node = Node(layers=100, validation_share=0.5)
        computing = asyncio.create_task(node.compute())
        await wait(30)
        await node.serve(53)
        await computing
        # It comes at 30, in the middle of a slice that ends at 51 and is paid for, and is served at 83.
        assert node.engine.layers == [1, 25, 25, 5, 25, 25]
        assert node.engine.spans[3] == (76.0, 81.0)
        assert node.engine.spans[4][0] == 83
        assert node.engine.stalls == [1, 25, 25, 5, 25, 19]

    @in_virtual_time
    async def test_several_batches_are_one_stretch_of_layers(self) -> None:
        node = Node(layers=10)
        batches = [[("02", nonce)] for nonce in range(3)]
        assert await node.compute(*batches) == [[distance(key)] for (key,) in batches]
        assert node.engine.layers == [1, 25, 25]
        assert node.engine.passed == 30


class TestRefusingInference:
    """No new request comes; what runs gets its steps."""

    @pytest.mark.parametrize("refuses", [True, False])
    @pytest.mark.parametrize("connected", [True, False])
    @pytest.mark.parametrize("engine_is_idle", [True, False])
    @in_virtual_time
    async def test_a_batch_runs_to_its_end_only_where_nobody_can_wait_for_it(
        self, refuses: bool, connected: bool, engine_is_idle: bool
    ) -> None:
        node = Node()
        node.refuses, node.engine.is_idle = refuses, engine_is_idle
        to_itself = refuses and engine_is_idle and not connected
        serving = asyncio.create_task(node.serve(1000)) if connected else None
        await asyncio.sleep(0)
        assert node.scheduler.has_the_engine_to_itself is to_itself
        assert await node.compute() == [[distance(key) for key in BATCH]]
        assert (node.engine.layers == [None]) is to_itself
        assert (None in node.engine.layers) is to_itself
        if serving is not None:
            await serving

    @in_virtual_time
    async def test_what_is_running_gets_short_slices_and_no_pause(self) -> None:
        node = Node()
        node.refuses = True
        with node.activity.connection():
            await node.compute()
        assert node.engine.layers == [1, 5, 5, 5]
        assert node.engine.pauses == [0] * 3

    @in_virtual_time
    async def test_the_rest_of_a_batch_runs_to_its_end_once_the_last_request_is_served(self) -> None:
        node = Node(layers=20)
        node.refuses = True
        serving = asyncio.create_task(node.serve(3))
        await asyncio.sleep(0)
        await node.compute()
        await serving
        assert node.engine.calls == [("start", 1), ("advance", 5), ("advance", None)]

    @in_virtual_time
    async def test_once_inference_is_refused_no_further_pause_is_owed(self) -> None:
        node = Node()
        serving = asyncio.create_task(node.serve(1000))
        await asyncio.sleep(0)
        computing = asyncio.create_task(node.compute())
        await wait(6)
        node.refuses = True
        await computing
        assert node.engine.pauses == [3, 0, 0]
        await serving

    @in_virtual_time
    async def test_what_to_compute_is_chosen_after_the_pause(self) -> None:
        """Before it, many batches may keep nobody waiting, and after it hold everybody up."""
        node = Node(layers=1)
        begun: list[float] = []

        def choose() -> list[list[NonceKey]]:
            begun.append(now())
            return [BATCH]

        with node.activity.connection():
            await node.compute_what(choose)
            assert await node.compute_what(choose) == [[distance(key) for key in BATCH]]
        assert begun == [0, 4], "one layer, and three for inference"


class TestThePauseEnds:
    """Earlier than it is owed, where nobody is there to be left alone."""

    @in_virtual_time
    async def test_with_the_last_connection(self) -> None:
        node = Node()
        first, second = (asyncio.create_task(node.serve(duration)) for duration in (2, 12))
        await asyncio.sleep(0)
        await node.compute()
        await asyncio.gather(first, second)
        assert node.engine.spans[1] == (4.0, 9.0), "one of two connections is not the last"
        assert node.engine.spans[2][0] == 12, "and not 24"
        assert node.engine.layers == [1, 5, 25]

    @in_virtual_time
    async def test_with_the_round_and_the_batch_is_given_up(self) -> None:
        node = Node()
        with node.activity.connection():
            computing = asyncio.create_task(node.compute())
            await wait(3)
            node.ended.set()
            assert await computing is None
            assert now() == 3
        assert node.engine.calls == [("start", 1)]

    @in_virtual_time
    async def test_in_time_where_only_the_engine_is_at_work(self) -> None:
        node = Node(layers=2)
        node.engine.is_idle = False
        await node.compute()
        assert node.engine.pauses == [3]

    @pytest.mark.parametrize("how", ["served", "ended", "timed out"])
    @in_virtual_time
    async def test_without_leaving_anybody_behind_who_waits(self, how: str) -> None:
        node = Node()
        serving = asyncio.create_task(node.serve(3.5 if how == "served" else 1000))
        await asyncio.sleep(0)
        computing = asyncio.create_task(node.compute())
        await wait(3)
        if how == "ended":
            node.ended.set()
        await computing
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task(), serving} - (
            {serving} if serving.done() else set()
        )
        await serving

    @in_virtual_time
    async def test_with_whoever_is_cancelled_and_leaves_nobody_behind_who_waits(self) -> None:
        node = Node()
        serving = asyncio.create_task(node.serve(1000))
        await asyncio.sleep(0)
        computing = asyncio.create_task(node.compute())
        await wait(3)
        computing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await computing
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task(), serving}
        await serving


class TestTheEndOfTheRound:
    """It is looked for between slices."""

    @in_virtual_time
    async def test_nothing_is_begun_after_it(self) -> None:
        node = Node()
        node.ended.set()
        assert await node.compute() is None
        assert node.engine.calls == []

    @pytest.mark.parametrize("connected", [True, False])
    @in_virtual_time
    async def test_a_suspended_batch_is_given_up_after_its_slice(self, connected: bool) -> None:
        node = Node()
        serving = asyncio.create_task(node.serve(25 if connected else 0))
        await asyncio.sleep(0)
        computing = asyncio.create_task(node.compute())
        await wait(0.5)
        node.ended.set()
        assert await computing is None
        assert now() == 1
        assert node.engine.calls == [("start", 1)]
        assert node.slices == 1, "what the slice has cost is counted all the same"
        await serving

    @in_virtual_time
    async def test_a_batch_that_is_computed_by_then_is_not(self) -> None:
        node = Node(layers=1)
        computing = asyncio.create_task(node.compute())
        await wait(0.5)
        node.ended.set()
        assert await computing == [[distance(key) for key in BATCH]]


class TestStatistics:
    """What `/status` shows."""

    @in_virtual_time
    async def test_slices_are_counted_as_they_were(self) -> None:
        node = Node(layers=101)
        with node.activity.connection():
            await node.compute()
        await node.compute()
        stats = node.scheduler.stats
        assert stats == {
            "slices": 26,
            "slices_concurrent_with_inference": 21,
            "slices_beside_inference": 21,
            "layer_ms": LAYER * 1e3,
            "max_stall_is_met": True,
            "stall_ms": dict.fromkeys(("p50", "p99", "max"), 5 * LAYER * 1e3),
            # The last pause was over at once, with inference itself.
            "share_used": pytest.approx(101 / (101 * 4 - 15)),
        }

    @pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0])
    @in_virtual_time
    async def test_the_share_that_is_used_is_the_one_that_is_set(self, share: float) -> None:
        node = Node(layers=40, validation_share=share)
        with node.activity.connection():
            for _ in range(3):
                await node.compute()
        assert node.scheduler.stats["share_used"] == pytest.approx(share)

    @in_virtual_time
    async def test_an_idle_while_is_not_counted_as_inferences_share(self) -> None:
        node = Node(layers=40, validation_share=0.5)
        with node.activity.connection():
            for _ in range(3):
                await node.compute()
                node.scheduler.rest()
                await wait(1000)
        assert node.scheduler.stats["share_used"] == pytest.approx(0.5)

    @in_virtual_time
    async def test_a_layer_longer_than_the_stall_is_told(self) -> None:
        node = Node(cost=6)
        assert node.scheduler.stats["max_stall_is_met"] is None
        await node.compute()
        assert node.scheduler.stats["max_stall_is_met"] is False


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    cost=st.integers(1, 40).map(lambda half: half / 2),
    layers=st.integers(1, 40),
    n_batches=st.integers(1, 3),
    requests=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 100)), max_size=6),
    turns=st.lists(st.integers(0, 200), max_size=3),
    share=st.sampled_from([0.1, 0.25, 0.75, 1.0]),
)
@in_virtual_time
async def test_whoever_comes_and_goes_distances_are_the_same_and_no_stall_is_too_long(
    cost: float,
    layers: int,
    n_batches: int,
    requests: list[tuple[int, int]],
    turns: list[int],
    share: float,
) -> None:
    node = Node(layers=layers, cost=cost, validation_share=share)

    async def request(after: float, duration: float) -> None:
        await wait(after)
        await node.serve(duration)

    async def turn(after: float) -> None:
        await wait(after)
        node.refuses = not node.refuses

    others = [asyncio.create_task(request(*times)) for times in requests]
    others += [asyncio.create_task(turn(after)) for after in turns]
    batches = [[(f"0{batch}", nonce) for nonce in range(3)] for batch in range(n_batches)]
    assert await node.compute(*batches) == [[distance(key) for key in keys] for keys in batches]
    engine = node.engine
    for asked, stall, is_concurrent in zip(
        engine.layers, engine.stalls, engine.concurrent_with_inference, strict=True
    ):
        if is_concurrent:
            assert asked is not None
            assert stall <= max(5.12, cost)
        elif asked is not None:
            assert stall <= max(25.6, cost)
    assert engine.passed == layers * n_batches
    assert [name for name, _ in engine.calls] == ["start", *["advance"] * (len(engine.calls) - 1)]
    await asyncio.gather(*others)
