"""A real Prometheus, and what `deploy/` has for it and for Grafana."""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Final, NamedTuple

import httpx
from checkout import ROOT
from debian_programs import program
from prometheus_client import CollectorRegistry, generate_latest
from runtime import Engine, running_manager

from hallmark.server.http.metrics import register
from hallmark.server.processes.child import ChildProcess, free_port
from hallmark.server.receiver.metrics import ReceiverMetrics

CONFIGURATION: Final = ROOT / "deploy" / "prometheus" / "prometheus.yml"
RULES: Final = ROOT / "deploy" / "prometheus" / "hallmark.rules.yml"
RULE_TESTS: Final = ROOT / "deploy" / "prometheus" / "hallmark.rules.test.yml"
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "dashboards" / "hallmark.json"


class Query(NamedTuple):
    """A query of the dashboard, its variables still in it."""

    panel: str
    expression: str
    legend: str

    def filled_in(self, node: str, receiver: str) -> str:
        """The same as Grafana sends it for one node and one receiver, given by their instances."""
        return Template(self.expression).substitute(
            node=_as_pattern(node), receiver=_as_pattern(receiver), __rate_interval="1m"
        )


def _as_pattern(instance: str) -> str:
    """A regular expression within PromQL's quotes."""
    return re.escape(instance).replace("\\", r"\\")


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return read


def dashboard_queries() -> list[Query]:
    return [
        Query(panel["title"], target["expr"], target["legendFormat"])
        for panel in dashboard()["panels"]
        for target in panel.get("targets", [])
    ]


def metrics_named(text: str) -> set[str]:
    """The names of Hallmark's own metrics in a text."""
    return set(re.findall(r"\bhallmark_\w+", text))


async def exposed_metrics() -> set[str]:
    """What a node and a receiver show, as Prometheus has it: with `_total`, and without a value too."""
    registry = CollectorRegistry(auto_describe=True)
    async with running_manager(Engine()) as manager:
        register(manager, registry)
        text = generate_latest(registry) + ReceiverMetrics(lambda: 1).text()
    return set(re.findall(r"^# TYPE (\w+)", text.decode(), re.MULTILINE))


def replaced(text: str, replacements: Mapping[str, tuple[str, int]]) -> str:
    """Replace patterns in a text, each of which must be there so many times."""
    for pattern, (new, expected) in replacements.items():
        text, count = re.subn(pattern, new, text)
        assert count == expected, f"{pattern} is there {count} times"
    return text


@dataclass(frozen=True)
class Alert:
    """An alert that fires."""

    name: str
    instance: str
    summary: str
    description: str


class PrometheusServer:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def close(self) -> None:
        self.http.close()

    def is_ready(self) -> bool:
        try:
            return self.http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[Any]:
        """The series that a query has now."""
        data = self._get("query", query=expression)
        assert data["resultType"] == "vector", data
        series: list[Any] = data["result"]
        return series

    def firing(self) -> set[Alert]:
        return {
            Alert(
                alert["labels"]["alertname"],
                alert["labels"]["instance"],
                alert["annotations"]["summary"],
                alert["annotations"]["description"],
            )
            for alert in self._get("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def group(self) -> dict[str, Any]:
        """The group of the rules, and how their last evaluation went."""
        group: dict[str, Any]
        [group] = self._get("rules")["groups"]
        return group

    def wait_for_alert(self, name: str, instance: str) -> Alert:
        """Return the alert once it fires."""
        found: list[Alert] = []

        def fires() -> bool:
            found[:] = [alert for alert in self.firing() if (alert.name, alert.instance) == (name, instance)]
            return bool(found)

        self.wait_until(fires)
        [alert] = found
        return alert

    def wait_until_clear(self, *names: str) -> None:
        """Return once no alert of these names fires."""
        self.wait_until(lambda: not {alert.name for alert in self.firing()} & set(names))

    def wait_for_evaluations(self, count: int) -> None:
        """Return once all rules have been evaluated so many times from now on."""
        seen = {self.group()["lastEvaluation"]}

        def enough() -> bool:
            seen.add(self.group()["lastEvaluation"])
            return len(seen) > count

        self.wait_until(enough)

    def wait_until(
        self,
        condition: Callable[[], bool],
        shown: Callable[[], object] | None = None,
        *,
        seconds: float = 90.0,
    ) -> None:
        """Return once a condition holds; where it does not, show what is given, else what fires."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (shown or self.firing)()
            time.sleep(0.2)

    def _get(self, path: str, **parameters: str) -> Any:
        response = self.http.get(f"/api/v1/{path}", params=parameters)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["status"] == "success", answer
        assert not answer.get("warnings"), answer
        return answer["data"]


@contextmanager
def running_prometheus(folder: Path, configuration: str, rules: str) -> Iterator[PrometheusServer]:
    """Start Prometheus on this machine alone, and end it afterwards.

    Args:
        folder: Where it keeps everything; empty.
        configuration: The text of its configuration, which names the rules as the one in `deploy/` does.
        rules: The text of the rules.
    """
    (folder / CONFIGURATION.name).write_text(configuration, encoding="utf-8")
    (folder / RULES.name).write_text(rules, encoding="utf-8")
    port = free_port()
    command = [
        program("prometheus"),
        f"--config.file={folder / CONFIGURATION.name}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (
        ChildProcess("prometheus", command, log=folder / "prometheus.log") as process,
        closing(PrometheusServer(f"http://127.0.0.1:{port}")) as server,
    ):
        try:
            process.wait_until(server.is_ready, seconds=60)
        except Exception as error:
            error.add_note(process.log_tail())
            raise
        yield server
