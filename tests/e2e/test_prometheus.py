"""A real Prometheus on a real server: alerts fire when something is wrong and not before, and panels fill.

Only times are shortened, so that nobody waits for minutes: see `SHORTENED`. What needs hours, other machines
or a full disk is left to promtool's cases: HallmarkMissing, HallmarkRoundInterrupted, HallmarkNoncesFailed,
HallmarkStallAboveSetting, HallmarkCallbacksDropped, both alerts of disks, HallmarkDeliveriesRefused and
HallmarkClock. That they stay silent is seen here all the same.
"""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from descendants import descendants
from node import HALLMARK, Node, proof, round_request, running_node
from prometheus_server import (
    CONFIGURATION,
    RULES,
    PrometheusServer,
    dashboard_queries,
    replaced,
    running_prometheus,
)

from hallmark.server.processes.child import ChildProcess, free_port

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

SETTINGS: Final = {
    "stuck_after": 5.0,
    "callback_backoff_cap": 1.0,
    # Whether slices keep within ten milliseconds is the processor's affair; within a minute all do.
    "max_stall_ms": 60_000.0,
    # What is stopped here for half a minute goes on afterwards.
    "engine_timeout": 300.0,
}
SHORTENED: Final = {
    r"\bfor: \d+m\b": ("for: 5s", 6),
    # HallmarkCallbacksAgeing, and the windows of HallmarkRoundStalled.
    r"> 600\b": ("> 10", 1),
    r"\[5m\]": ("[15s]", 4),
}
DISKS: Final = {"HallmarkOutboxNearlyFull", "HallmarkReceiverDiskNearlyFull"}
"""Alerts that a machine with less than 1 GiB free has all the time."""

ONLY_IN_TROUBLE: Final = {"Age of the oldest", "Alerts"}
"""Panels that show nothing while every callback is delivered and no alert fires."""

ROUND: Final = round_request(valid_rate=0.5, fraud_threshold=1e-7)
FORGED: Final = proof(ROUND, list(range(32)), [1.38] * 32, public_key="a thief")


class Deployment:
    """A node and a receiver that Prometheus scrapes."""

    def __init__(self, node: Node, receiver_port: int, folder: Path, stack: ExitStack) -> None:
        self.node = node
        self.node_instance = f"127.0.0.1:{node.port}"
        self.receiver_instance = f"127.0.0.1:{receiver_port}"
        self._receiver_port = receiver_port
        self._folder = folder
        self._stack = stack
        self.receiver = self.start_receiver()
        configuration = replaced(
            CONFIGURATION.read_text(encoding="utf-8"),
            {
                r"\b15s\b": ("1s", 2),
                r"\bnode:8000\b": (self.node_instance, 1),
                r"\breceiver:8099\b": (self.receiver_instance, 1),
            },
        )
        rules = replaced(RULES.read_text(encoding="utf-8"), SHORTENED)
        self.prometheus: PrometheusServer = stack.enter_context(
            running_prometheus(folder, configuration, rules)
        )

    def start_receiver(self) -> ChildProcess:
        """Start the receiver on its port and its database; the fixture ends it."""
        command = [
            *(*HALLMARK, "receiver", "--host", "127.0.0.1", "--port", str(self._receiver_port)),
            *("--database", str(self._folder / "receiver.sqlite3")),
        ]
        log = self._folder / "receiver.log"
        self.receiver = self._stack.enter_context(ChildProcess("hallmark receiver", command, log=log))

        def ready() -> bool:
            try:
                health = httpx.get(f"http://{self.receiver_instance}/health", timeout=30, trust_env=False)
            except httpx.TransportError:
                return False
            return health.status_code == 200

        self.receiver.wait_until(ready, seconds=60)
        return self.receiver

    def round(self, **fields: Any) -> dict[str, Any]:
        return {**ROUND, "callback_url": f"http://{self.receiver_instance}", **fields}

    def generate(self, **fields: Any) -> None:
        self.node.poc("/init/generate", self.round(**fields))
        self.node.wait_for(lambda status: status["total_valid"] > 0)

    def value_of(self, panel: str) -> float | None:
        """The value of a panel that has one query of one series; None while it has none."""
        [query] = [query for query in dashboard_queries() if query.panel == panel]
        series = self.prometheus.query(query.filled_in(self.node_instance, self.receiver_instance))
        return float(series[0]["value"][1]) if series else None

    def wait_until_shown(self, values: dict[str, float]) -> None:
        """Wait for values of panels; a scrape in vain, on a busy machine, leaves them empty for a while."""
        self.prometheus.wait_until(lambda: {panel: self.value_of(panel) for panel in values} == values)

    def panels_without_a_value(self) -> set[str]:
        """Panels of which a query has no series; each series has the labels that its legend names."""
        without = set()
        for query in dashboard_queries():
            series = self.prometheus.query(query.filled_in(self.node_instance, self.receiver_instance))
            if not series:
                without.add(query.panel)
            for each in series:
                assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= each["metric"].keys(), query
        return without

    def troubles(self) -> set[str]:
        """Alerts that fire, but for those of a full disk where the disk is full."""
        is_full = self.node.status()["callbacks"]["free_bytes"] < 2**30
        return {alert.name for alert in self.prometheus.firing()} - (DISKS if is_full else set())


@pytest.fixture(scope="module")
def deployment(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The last test here ends the node."""
    folder = tmp_path_factory.mktemp("prometheus")
    with (
        running_node(
            small_model, folder / "server.log", "--enforce-eager", "--json-logs", settings=SETTINGS
        ) as node,
        ExitStack() as stack,
    ):
        deployment = Deployment(node, free_port(), folder, stack)
        # An increase is seen only of what was seen before.
        deployment.prometheus.wait_for_evaluations(3)
        yield deployment


def validate_beside_chat(node: Node, batch: dict[str, Any]) -> None:
    """Validate a batch again and again until the server can tell how chat fared meanwhile."""
    is_known = threading.Event()

    def chat() -> None:
        while not is_known.is_set():
            node.complete("A proof of compute is", 32)

    with ThreadPoolExecutor(2) as clients:
        chats = [clients.submit(chat) for _ in range(2)]
        try:
            deadline = time.monotonic() + 120
            while True:
                assert node.poc("/validate", batch)["fraud_detected"] is False
                told = node.status()["validation"]
                if told["stall_ms"]["p99"] is not None and told["share_used"] is not None:
                    break
                assert time.monotonic() < deadline, told
        finally:
            is_known.set()
        for each in chats:
            each.result()


def test_nothing_fires_in_a_healthy_round_and_every_panel_has_a_value(deployment: Deployment) -> None:
    node, prometheus = deployment.node, deployment.prometheus
    node.poc("/init/generate", deployment.round())
    node.wait_for(lambda status: status["total_valid"] >= 100)
    # Longer than the windows in which a round that finds nothing would be seen.
    until = time.monotonic() + 18
    prometheus.wait_until(lambda: time.monotonic() > until)
    deployment.wait_until_shown({"State": 1, "Chat now": 1})
    assert deployment.troubles() == set()

    node.poc("/phase/validate")
    found = node.status()
    validate_beside_chat(node, proof(ROUND, found["valid_nonces"][:32], found["valid_distances"][:32]))
    node.wait_for(lambda status: status["callbacks"]["queued"] == 0)
    deployment.wait_until_shown({"State": 2, "Chat now": 0})
    prometheus.wait_until(
        lambda: deployment.panels_without_a_value() <= ONLY_IN_TROUBLE, deployment.panels_without_a_value
    )
    prometheus.wait_for_evaluations(6)
    assert deployment.troubles() == set()
    assert all(rule["health"] == "ok" for rule in prometheus.group()["rules"])
    node.poc("/stop")


def test_a_receiver_that_dies_is_told_of_and_so_are_the_proofs_that_wait_for_it(
    deployment: Deployment,
) -> None:
    prometheus = deployment.prometheus
    deployment.generate(block_hash="nobody takes its proofs", valid_rate=0.05)
    deployment.receiver.kill()
    down = prometheus.wait_for_alert("HallmarkDown", deployment.receiver_instance)
    assert down.summary == f"{deployment.receiver_instance} does not answer"
    assert "hallmark-receiver" in down.description
    ageing = prometheus.wait_for_alert("HallmarkCallbacksAgeing", deployment.node_instance)
    assert re.fullmatch(rf"Proofs of {deployment.node_instance} wait for \d+(\.\d+)?s", ageing.summary)
    assert deployment.troubles() == {"HallmarkDown", "HallmarkCallbacksAgeing"}
    # What had no value in the healthy round; of the dead receiver there is none.
    prometheus.wait_until(lambda: not deployment.panels_without_a_value() & ONLY_IN_TROUBLE)
    prometheus.wait_until(lambda: (deployment.value_of("Age of the oldest") or 0) > 10)
    prometheus.wait_until(lambda: (deployment.value_of("Alerts firing") or 0) >= 2)

    deployment.start_receiver()
    prometheus.wait_until_clear("HallmarkDown", "HallmarkCallbacksAgeing")
    deployment.node.poc("/stop")
    deployment.node.wait_for(lambda status: status["callbacks"]["queued"] == 0)


def test_an_engine_that_stands_still_is_told_of_until_it_goes_on(deployment: Deployment) -> None:
    node, prometheus = deployment.node, deployment.prometheus
    worker = node.probe("pid")[0]["pid"]
    assert worker in descendants(node.process.pid)
    deployment.generate(block_hash="its engine stands still")
    os.kill(worker, signal.SIGSTOP)
    try:
        stuck = prometheus.wait_for_alert("HallmarkEngineStuck", deployment.node_instance)
        assert stuck.summary == f"The engine of {deployment.node_instance} does not answer"
        prometheus.wait_for_alert("HallmarkRoundStalled", deployment.node_instance)
        assert deployment.troubles() == {"HallmarkEngineStuck", "HallmarkRoundStalled"}
        before = node.status()["total_checked"]
    finally:
        os.kill(worker, signal.SIGCONT)
    prometheus.wait_until_clear("HallmarkEngineStuck", "HallmarkRoundStalled")
    assert node.status()["total_checked"] > before
    node.poc("/stop")


def test_a_round_that_fails_is_told_of_until_there_is_another(deployment: Deployment) -> None:
    node, prometheus = deployment.node, deployment.prometheus
    node.poc("/init/validate", deployment.round())
    node.probe("break_a_layer", "fail")
    node.poc("/validate", FORGED, status=409)
    failed = prometheus.wait_for_alert("HallmarkRoundFailed", deployment.node_instance)
    assert failed.summary == f"A round of {deployment.node_instance} ended by a failure"
    assert deployment.troubles() == {"HallmarkRoundFailed"}
    node.poc("/init/validate", deployment.round())
    prometheus.wait_until_clear("HallmarkRoundFailed")
    node.poc("/stop")


def test_the_log_of_all_that_is_json_in_each_process(deployment: Deployment) -> None:
    """A line that is none is printed, and not logged: by libraries in C++, and bars of progress."""
    node = deployment.node
    answer = node.http.post("/api/v1/pow/init/validate", json=ROUND, headers={"X-Request-Id": "of-the-test"})
    assert answer.status_code == 200
    node.poc("/stop")
    assert node.process.log is not None
    text = node.process.log.read_text(errors="replace").splitlines()
    lines = [json.loads(line) for line in text if line.startswith("{")]
    assert not [line for line in text if re.search(r" (INFO|WARNING|ERROR) .*\[\w+\.py:\d+\]", line)]
    assert {"hallmark.command", "uvicorn.access"} <= {line["logger"] for line in lines}
    processes = {line["pid"] for line in lines if line["logger"].startswith("vllm.")}
    assert len(processes) >= 3, "the API server, the engine and its worker"
    of_it = [line["message"] for line in lines if line.get("request_id") == "of-the-test"]
    assert any("has started in VALIDATING" in message for message in of_it)
    assert any("asked for by request of-the-test" in message for message in of_it)


def test_a_verdict_of_fraud_is_told_of_where_it_falls_and_where_it_arrives(deployment: Deployment) -> None:
    node, prometheus = deployment.node, deployment.prometheus
    node.poc("/init/validate", deployment.round())
    assert node.poc("/validate", FORGED)["fraud_detected"] is True
    for instance in (deployment.node_instance, deployment.receiver_instance):
        verdict = prometheus.wait_for_alert("HallmarkFraudVerdict", instance)
        assert verdict.summary == f"{instance} has a verdict of fraud"
    assert deployment.troubles() == {"HallmarkFraudVerdict"}
    node.poc("/stop")


def test_a_node_whose_engine_is_killed_is_down(deployment: Deployment) -> None:
    node = deployment.node
    worker = node.probe("pid")[0]["pid"]
    assert worker in descendants(node.process.pid)
    os.kill(worker, signal.SIGKILL)
    deployment.prometheus.wait_for_alert("HallmarkDown", deployment.node_instance)
    assert node.process.wait(60) == 1
    deployment.wait_until_shown({"State": -1})
