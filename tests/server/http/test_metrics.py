"""What Prometheus scrapes: the manager's own numbers, in families that follow its conventions."""

import asyncio
import re
import shutil
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import small_config as config
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from runtime import QUICK, Engine, eventually, honest_proof, running_manager, running_receiver, snapshot

from hallmark.poc.core.errors import EngineError
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.protocol.config import PoCState
from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager
from hallmark.server.http.metrics import register

STATES = tuple(f'state{{state="{state}"}}' for state in PoCState)
STALLS = tuple(f'stall_seconds{{quantile="{quantile}"}}' for quantile in ("0.5", "0.99", "1"))


@pytest.fixture
async def registry(manager: PoCManager) -> CollectorRegistry:
    """A registry of its own that shows the manager."""
    registry = CollectorRegistry(auto_describe=True)
    register(manager, registry)
    return registry


def scrape(registry: CollectorRegistry) -> dict[str, float]:
    """Every sample but the clock, as Prometheus reads it: by its name without the prefix, with its labels."""
    return samples(parse(generate_latest(registry).decode()))


def samples(families: Iterable[Metric]) -> dict[str, float]:
    found = {}
    for family in families:
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            found[sample.name.removeprefix("hallmark_") + (f"{{{labels}}}" if labels else "")] = sample.value
    del found["clock_seconds"]
    return found


def told(manager: PoCManager) -> dict[str, Any]:
    """What the status has for every sample but the clock and `time_since_progress_seconds`."""
    status = snapshot(manager)
    validation, callbacks = status["validation"], status["callbacks"]
    stalls, layer_ms = validation["stall_ms"], validation["layer_ms"]
    hold_ms = status["inference"]["longest_loop_hold_ms"]
    values = {
        **{f'state{{state="{state}"}}': status["state"] == state for state in PoCState},
        "round_failed": status["has_failed"],
        "gate_closed": manager.gate_closed,
        "inference_connections": status["inference"]["connections"],
        "inference_quiet_connections": status["inference"]["quiet_connections"],
        "longest_loop_hold_seconds": None if hold_ms is None else hold_ms / 1e3,
        "stuck": status["is_stuck"],
        "round_checked_nonces_total": status["total_checked"],
        "round_valid_nonces_total": status["total_valid"],
        "round_failed_nonces_total": status["total_failed"],
        "round_batches_total": status["batches"]["computed"],
        "round_slices_total": validation["slices"],
        "round_slices_concurrent_with_inference_total": validation["slices_concurrent_with_inference"],
        "round_slices_beside_inference_total": validation["slices_concurrent_with_inference"],
        "layer_seconds": None if layer_ms is None else layer_ms / 1000,
        "max_stall_seconds": manager.settings.max_stall_ms / 1e3,
        "max_stall_met": validation["max_stall_is_met"],
        "share_allowed_ratio": validation["share"],
        "share_used_ratio": validation["share_used"],
        "validation_queued_jobs": validation["queued_jobs"],
        "validation_queued_nonces": validation["queued_nonces"],
        "validation_nonces_per_second": validation["nonces_per_second"],
        "validation_completed_jobs_total": validation["completed_jobs"],
        "validation_cancelled_jobs_total": validation["cancelled_jobs"],
        "validation_checked_nonces_total": validation["checked_nonces"],
        "validation_failed_nonces_total": validation["failed_nonces"],
        "validation_fraud_verdicts_total": validation["fraud_verdicts"],
        "outbox_used_ratio": callbacks["used_ratio"],
        "outbox_free_bytes": callbacks["free_bytes"],
        **{f"callbacks_{key}_total": callbacks[key] for key in ("delivered", "retried")},
        **{
            f'callbacks_dropped_total{{reason="{reason}"}}': count
            for reason, count in callbacks["dropped_by_reason"].items()
        },
        **{
            f"callbacks_{key}": callbacks[key]
            for key in ("queued", "in_flight", "dead_letters", "kept", "bytes")
        },
        **{f"callbacks_{key}_seconds": callbacks[key] for key in ("oldest_age", "next_attempt")},
        "interrupted_round": 0,
        **{
            name: None if stalls[key] is None else stalls[key] / 1000
            for name, key in zip(STALLS, ("p50", "p99", "max"), strict=True)
        },
    }
    return {name: value for name, value in values.items() if value is not None}


def without_time(scraped: dict[str, float]) -> dict[str, float]:
    """Without the one sample that no two readings agree on."""
    return {name: value for name, value in scraped.items() if name != "time_since_progress_seconds"}


async def test_before_any_round_what_is_not_known_is_left_out(
    manager: PoCManager, registry: CollectorRegistry
) -> None:
    scraped = scrape(registry)
    assert scraped == told(manager)
    assert {name: value for name, value in scraped.items() if value} == {
        'state{state="IDLE"}': 1,
        "share_allowed_ratio": 0.25,
        "max_stall_seconds": 0.01,
    }
    unknown = {"layer_seconds", "max_stall_met", "share_used_ratio", "validation_nonces_per_second"}
    assert not scraped.keys() & {*STALLS, *unknown, "time_since_progress_seconds"}


async def test_while_generating(manager: PoCManager, registry: CollectorRegistry, engine: Engine) -> None:
    engine.failed_nonces = {1, 3}
    await manager.start_round(config(valid_rate=0.5))
    await eventually(lambda: snapshot(manager)["total_valid"] > 4)
    scraped = scrape(registry)
    assert without_time(scraped) == told(manager)
    assert scraped["time_since_progress_seconds"] >= 0
    assert [scraped[state] for state in STATES] == [0, 1, 0, 0]
    assert scraped["gate_closed"] == 1
    assert scraped["round_failed_nonces_total"] == 2
    assert scraped["round_checked_nonces_total"] == 8 * scraped["round_batches_total"]


async def test_while_validating_with_inference(
    manager: PoCManager, registry: CollectorRegistry, engine: Engine
) -> None:
    engine.failed_nonces = {5}
    await manager.start_round(config(), PoCState.VALIDATING)
    with manager.activity.connection():
        await manager.validate(await honest_proof(config(), range(12)))
        scraped = scrape(registry)
        assert scraped == told(manager)
        assert scraped["inference_connections"] == 1
    assert [scraped[state] for state in STATES] == [0, 0, 1, 0]
    assert (scraped["gate_closed"], scraped["validation_completed_jobs_total"]) == (0, 1)
    assert scraped["validation_checked_nonces_total"] == 12
    assert scraped["validation_failed_nonces_total"] == 1
    assert scraped["round_slices_beside_inference_total"] == scraped["round_slices_total"] > 0
    assert 0 < scraped[STALLS[0]] <= scraped[STALLS[1]] <= scraped[STALLS[2]]
    assert scraped["layer_seconds"] > 0
    assert scraped["validation_nonces_per_second"] > 0
    assert 0 < scraped["share_used_ratio"] <= 1


async def test_what_waits_is_counted_and_what_is_given_up(
    manager: PoCManager, registry: CollectorRegistry
) -> None:
    await manager.start_round(config())
    await manager.submit(await honest_proof(config(), range(12)))
    scraped = scrape(registry)
    assert (scraped["validation_queued_jobs"], scraped["validation_queued_nonces"]) == (1, 12)
    await manager.stop()
    scraped = scrape(registry)
    assert scraped == told(manager)
    assert [scraped[state] for state in STATES] == [0, 0, 0, 1]
    assert (scraped["validation_queued_jobs"], scraped["validation_cancelled_jobs_total"]) == (0, 1)


async def test_an_engine_that_does_not_answer_is_stuck(engine: Engine) -> None:
    registry = CollectorRegistry()
    async with running_manager(engine, Settings(stuck_after=0.05)) as manager:
        register(manager, registry)
        engine.hold()
        await manager.start_round(config())
        await eventually(lambda: scrape(registry)["stuck"])
        assert scrape(registry)["time_since_progress_seconds"] >= 0.05
        engine.release()
        await eventually(lambda: not scrape(registry)["stuck"])


async def test_a_round_that_fails_is_told_from_one_that_is_stopped(
    manager: PoCManager, registry: CollectorRegistry, engine: Engine
) -> None:
    await manager.start_round(config())
    await manager.stop()
    assert (snapshot(manager)["state"], scrape(registry)["round_failed"]) == ("STOPPED", 0)
    await manager.start_round(config())
    engine.fail_compute = EngineError("the device is lost")
    await eventually(lambda: snapshot(manager)["state"] == "STOPPED")
    assert (snapshot(manager)["reason"], scrape(registry)["round_failed"]) == ("the device is lost", 1)
    await manager.init(config(block_hash="another"))
    assert scrape(registry)["round_failed"] == 0


async def test_verdicts_of_fraud_are_counted(manager: PoCManager, registry: CollectorRegistry) -> None:
    await manager.start_round(config(), PoCState.VALIDATING)
    honest = await honest_proof(config(), range(12))
    forged = replace(honest, dist=tuple(distance / 2 for distance in honest.dist), vectors=None)
    await manager.validate(honest)
    assert scrape(registry)["validation_fraud_verdicts_total"] == 0
    await manager.validate(forged)
    assert scrape(registry)["validation_fraud_verdicts_total"] == 1


async def test_the_clock_is_the_machines(registry: CollectorRegistry) -> None:
    before = time.time()
    [family] = [f for f in parse(generate_latest(registry).decode()) if f.name == "hallmark_clock_seconds"]
    assert before <= family.samples[0].value <= time.time()


async def test_the_outbox_is_as_full_as_its_bytes_or_its_longest_queue(
    engine: Engine, tmp_path: Path
) -> None:
    registry = CollectorRegistry()
    settings = Settings(outbox_max_bytes=2**16, callback_max_queue=10, callback_backoff_base=60.0)
    store = OutboxStore(tmp_path / "outbox.db", max_bytes=2**16, max_queued=10)
    outbox = Outbox(settings, store)
    manager = PoCManager(engine, settings, outbox)
    register(manager, registry)
    async with running_receiver() as receiver:
        receiver.answers = [503] * 9
        for _ in range(4):
            await outbox.post(receiver.url, "generated", b"{}")
        assert scrape(registry)["outbox_used_ratio"] == 4 / 10
        await outbox.post(receiver.url, "generated", b"x" * 2**15)
        assert scrape(registry)["outbox_used_ratio"] == (2**15 + 8) / 2**16
        free = shutil.disk_usage(tmp_path).total
        assert 0 < scrape(registry)["outbox_free_bytes"] < free
    await manager.shutdown()


async def test_a_new_round_counts_anew(manager: PoCManager, registry: CollectorRegistry) -> None:
    await manager.start_round(config())
    await eventually(lambda: scrape(registry)["round_checked_nonces_total"])
    await manager.init(config(block_hash="another"))
    scraped = scrape(registry)
    ours = {name: value for name, value in scraped.items() if name.startswith("round_")}
    assert ours == dict.fromkeys(ours, 0)
    assert len(ours) == 8


async def test_callbacks_are_counted_and_no_receiver_is_named(
    manager: PoCManager, registry: CollectorRegistry
) -> None:
    async with running_receiver() as receiver:
        receiver.answers = [503, 400]
        await manager.start_round(config(callback_url=f"{receiver.url}/private"))
        await eventually(lambda: manager.outbox.stats()["delivered"] > 2)
        await manager.stop()
        # Until none is left, the age of the oldest grows from one look to the next.
        await eventually(lambda: not manager.outbox.stats()["queued"] + manager.outbox.stats()["in_flight"])
        text = generate_latest(registry).decode()
        scraped = samples(parse(text))
        assert scraped == told(manager)
    assert scraped["callbacks_retried_total"] == 1
    assert scraped['callbacks_dropped_total{reason="rejected"}'] == 1
    assert scraped["callbacks_kept"] == 1
    assert scraped["callbacks_delivered_total"] > 2
    assert "private" not in text
    assert receiver.url not in text


class WatchedManager(PoCManager):
    """A manager that notes which threads read it."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, QUICK)
        self.readers: list[int] = []

    @property
    def state(self) -> PoCState:
        self.readers.append(threading.get_ident())
        return super().state


async def test_the_manager_is_read_on_its_own_thread_whoever_scrapes(engine: Engine) -> None:
    """vLLM answers /metrics in a thread, and /metrics/ on the event loop."""
    manager, registry = WatchedManager(engine), CollectorRegistry()
    register(manager, registry)
    assert await asyncio.to_thread(scrape, registry) == scrape(registry) == told(manager)
    assert set(manager.readers) == {threading.get_ident()}
    await manager.shutdown()


async def test_the_names_and_types_follow_prometheus(
    manager: PoCManager, registry: CollectorRegistry
) -> None:
    """The rules of `promtool check metrics`, in both formats."""
    await manager.start_round(config())
    await eventually(lambda: snapshot(manager)["total_checked"])
    for text, read in (
        (generate_latest(registry).decode(), parse),
        (openmetrics.generate_latest(registry).decode(), parse_openmetrics),
    ):
        families = list(read(text))
        assert families
        for family in families:
            assert re.fullmatch(r"hallmark_[a-z]+(_[a-z]+)*", family.name)
            assert family.documentation.endswith(".")
            assert family.type in ("gauge", "counter", "summary")
            assert not re.search(
                r"_(ms|milliseconds|percent|count|sum|bucket|gauge|counter)(_|$)", family.name
            )
            for sample in family.samples:
                assert sample.name.endswith("_total") == (family.type == "counter")
                assert ("quantile" in sample.labels) == (family.type == "summary")


async def test_a_registry_shows_one_manager_at_a_time(manager: PoCManager) -> None:
    registry = CollectorRegistry(auto_describe=True)
    collector = register(manager, registry)
    with pytest.raises(ValueError, match="hallmark_state"):
        register(manager, registry)
    registry.unregister(collector)
    assert generate_latest(registry) == b""
    register(manager, registry)
