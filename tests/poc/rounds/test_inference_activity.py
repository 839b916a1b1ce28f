"""Whether inference is at work: connections that are served, and what the engine has still to finish."""

import asyncio
from contextlib import ExitStack

import pytest
from clock import Clock
from runtime import Engine

from hallmark.poc.rounds.inference_activity import QUIET_SECONDS, InferenceActivity


@pytest.fixture
def engine() -> Engine:
    engine = Engine()
    engine.is_idle = True
    return engine


@pytest.fixture
def load(engine: Engine) -> InferenceActivity:
    return InferenceActivity(engine)


def is_active(load: InferenceActivity) -> bool:
    """The property, read anew: mypy takes what was asserted of an attribute to hold from then on."""
    return load.is_active


def test_at_first_nothing_is_at_work(load: InferenceActivity) -> None:
    assert load.connections == 0
    assert not load.is_active
    assert load.all_served.is_set()


def test_a_connection_is_at_work_from_its_beginning_to_its_end(load: InferenceActivity) -> None:
    with load.connection():
        assert load.connections == 1
        assert is_active(load), "the engine need not know of it yet"
        assert not load.all_served.is_set()
    assert load.connections == 0
    assert not is_active(load)
    assert load.all_served.is_set()


def test_all_are_served_when_the_last_one_is_whatever_their_order(load: InferenceActivity) -> None:
    first, second = ExitStack(), ExitStack()
    first.enter_context(load.connection())
    second.enter_context(load.connection())
    assert load.connections == 2
    first.close()
    assert load.connections == 1
    assert not load.all_served.is_set()
    first.enter_context(load.connection())
    second.close()
    assert load.is_active
    assert not load.all_served.is_set()
    first.close()
    assert load.connections == 0
    assert load.all_served.is_set()


@pytest.mark.parametrize("error", [RuntimeError("the app failed"), asyncio.CancelledError()])
def test_a_connection_that_ends_in_an_error_has_ended(load: InferenceActivity, error: BaseException) -> None:
    with pytest.raises(type(error)), load.connection():
        raise error
    assert load.connections == 0
    assert load.all_served.is_set()


def test_what_the_engine_has_to_finish_is_at_work_without_a_connection(
    engine: Engine, load: InferenceActivity
) -> None:
    engine.is_idle = False
    assert load.is_active
    assert load.connections == 0
    assert load.all_served.is_set(), "no connection waits for it"
    engine.is_idle = True
    assert not load.is_active


def test_a_connection_is_over_before_the_engine_has_finished_its_work(
    engine: Engine, load: InferenceActivity
) -> None:
    with load.connection():
        engine.is_idle = False
    assert load.is_active
    assert load.all_served.is_set()


async def test_who_waits_for_the_last_connection_is_woken_by_its_end(load: InferenceActivity) -> None:
    with load.connection():
        waiting = asyncio.create_task(load.all_served.wait())
        with load.connection():
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
    assert await waiting


def test_a_connection_held_in_silence_is_not_waited_for(engine: Engine) -> None:
    clock = Clock()
    load = InferenceActivity(engine, clock)
    with load.connection() as silent, load.connection() as talking:
        clock.advance(QUIET_SECONDS - 1)
        talking.note_movement()
        assert (load.connections, load.quiet_connections) == (2, 0)
        clock.advance(1)
        assert (load.connections, load.quiet_connections) == (2, 1)
        assert is_active(load), "the other one talks"
        clock.advance(QUIET_SECONDS)
        assert load.quiet_connections == 2
        assert not is_active(load)
        engine.is_idle = False
        assert is_active(load), "the engine works for one of them"
        engine.is_idle = True
        silent.note_movement()
        assert is_active(load)
        assert load.quiet_connections == 1
