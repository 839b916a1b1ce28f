"""How long the event loop was held while it had chat to stream."""

import asyncio
import time

from builders import small_config
from runtime import Engine, eventually, running_manager, snapshot

from hallmark.poc.rounds.inference_activity import InferenceActivity
from hallmark.poc.rounds.loop_holds import LoopHolds


def longest(holds: LoopHolds) -> float | None:
    """The attribute, read anew."""
    return holds.longest


async def test_what_holds_the_loop_beside_inference_is_seen() -> None:
    activity = InferenceActivity(Engine())
    holds = LoopHolds(activity)
    measuring = asyncio.create_task(holds.measure())
    await asyncio.sleep(0.02)
    assert longest(holds) is None, "nobody waits for a token"
    with activity.connection():
        await eventually(lambda: longest(holds) is not None)
        time.sleep(0.05)  # noqa: ASYNC251  # it holds the loop
        await asyncio.sleep(0.02)
        assert (longest(holds) or 0.0) >= 0.04
    measuring.cancel()


async def test_the_status_tells_it_for_the_round() -> None:
    async with running_manager(Engine()) as manager:
        await manager.init(small_config())
        assert snapshot(manager)["inference"]["longest_loop_hold_ms"] is None
        with manager.activity.connection():
            await eventually(lambda: snapshot(manager)["inference"]["longest_loop_hold_ms"])
        await manager.stop()
        assert snapshot(manager)["inference"]["longest_loop_hold_ms"] > 0
        await manager.init(small_config())
        assert snapshot(manager)["inference"]["longest_loop_hold_ms"] is None
