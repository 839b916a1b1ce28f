"""What an operator reads in the log of a round: its turns, a line each, and nothing of single requests."""

import logging

import pytest
from builders import small_config
from runtime import Engine, eventually, running_manager, running_receiver, snapshot

from hallmark.poc.core.errors import EngineError
from hallmark.poc.protocol.config import PoCState


async def test_a_rounds_life_is_a_line_for_each_turn(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hallmark")
    async with running_receiver() as receiver, running_manager(Engine()) as manager:
        asked = small_config(
            block_hash="0x" + "ab" * 32, public_key="02" + "cd" * 32, callback_url=receiver.url
        )
        await manager.start_round(asked)
        await eventually(lambda: snapshot(manager)["total_checked"] >= 24)
        await manager.switch_phase(PoCState.VALIDATING)
        await manager.stop()
        checked = snapshot(manager)["total_checked"]
    started, first, phase, ended = (
        record.getMessage() for record in caplog.records if record.name.endswith("round_log")
    )
    name = f"The round of block '0x{'ab' * 11}…'"
    assert all(line.startswith(name) for line in (started, first, phase, ended))
    assert " at height 7 has started in GENERATING after " in started
    host = receiver.url.removeprefix("http://")
    assert started.endswith(f"key '02{'cd' * 5}…', node 0 of 1, callbacks to {host}")
    assert " has its first proof, nonce 0, after 8 nonces, 8 valid, 0 failed, " in first
    assert " enters VALIDATING after " in phase
    assert f" has ended, stopped by request, after {checked} nonces, {checked} valid, 0 failed, " in ended


async def test_a_failure_is_an_error_with_what_there_was(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine()
    async with running_manager(engine) as manager:
        await manager.start_round(small_config(valid_rate=1e-12))
        await eventually(lambda: snapshot(manager)["total_checked"] >= 8)
        engine.fail_compute = EngineError("rank 1 is out of memory")
        await eventually(lambda: manager.state is PoCState.STOPPED)
    [line] = [record for record in caplog.records if record.name.endswith("round_log")]
    assert line.levelno == logging.ERROR
    assert "failed: rank 1 is out of memory; it had " in line.getMessage()
    assert ", 0 valid, 0 failed, " in line.getMessage()


async def test_a_block_cannot_write_lines_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hallmark")
    async with running_manager(Engine()) as manager:
        await manager.start_round(small_config(block_hash="a\nERROR b", public_key="c\r\nd"))
        await manager.stop()
    assert all("\n" not in record.getMessage() for record in caplog.records)
