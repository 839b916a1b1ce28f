"""The dashboard and its provisioning: Grafana's own models read it, and its queries name what is there."""

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from debian_programs import program
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_server import (
    CONFIGURATION,
    DASHBOARD,
    Query,
    dashboard,
    dashboard_queries,
    exposed_metrics,
    metrics_named,
)

PROVISIONING = DASHBOARD.parents[1] / "provisioning"
COLUMNS = 24
# Versions that Grafana 11 writes: 11.0 the first, 11.6 the last.
SCHEMAS = range(39, 42)
UNITS = {"short", "none", "s", "bytes", "percentunit"}
# Those that make one number of all machines.
TOTALS = re.compile(r"(sum|count)\(")

Panel = dict[str, Any]


def panels() -> list[Panel]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def settings(folder: str, file: str) -> Any:
    return yaml.safe_load((PROVISIONING / folder / file).read_text(encoding="utf-8"))


def lost(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Where the second lacks something of the first, or has something else."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from lost(value, after.get(key, "missing"), f"{path}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, pair in enumerate(zip(before, after, strict=True)):
            yield from lost(*pair, f"{path}[{place}]")
    elif before != after:
        yield f"{path}: {before} became {after}"


def test_grafanas_models_know_every_field_of_it() -> None:
    """What they do not know, they drop."""
    register_default_plugins()
    written = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard())))
    assert list(lost(dashboard(), written)) == []


def test_any_grafana_can_take_it() -> None:
    """An id of one Grafana would be another dashboard's in the next."""
    read = dashboard()
    assert read["uid"] == "hallmark"
    assert "id" not in read
    assert all("id" not in panel for panel in read["panels"])
    assert read["schemaVersion"] in SCHEMAS


def test_panels_lie_side_by_side_below_their_rows() -> None:
    taken: set[tuple[int, int]] = set()
    bottom = 0
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        lines = range(place["y"], place["y"] + place["h"])
        assert columns.start >= 0, panel["title"]
        assert columns.stop <= COLUMNS, panel["title"]
        if panel["type"] == "row":
            assert (place["y"], place["w"], panel["panels"]) == (bottom, COLUMNS, []), panel["title"]
        cells = set(product(columns, lines))
        assert not cells & taken, panel["title"]
        taken |= cells
        bottom = max(bottom, lines.stop)
    assert len(taken) == COLUMNS * bottom, "no gaps either"


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_each_panel_says_what_it_shows_and_in_which_unit(panel: Panel) -> None:
    assert re.fullmatch(r"[A-Z][^.]*\.", panel["description"])
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert [target["refId"] for target in panel["targets"]] == list("ABCDEFGH")[: len(panel["targets"])]
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert target["instant"] is not target["range"]


def test_titles_are_unique() -> None:
    titles = [panel["title"] for panel in dashboard()["panels"]]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("query", dashboard_queries(), ids=lambda query: f"{query.panel}: {query.legend}")
def test_legends_name_the_machine_and_differ(query: Query) -> None:
    of_panel = [each.legend for each in dashboard_queries() if each.panel == query.panel]
    # Clocks of nodes and receivers are told apart by their instances.
    assert of_panel.count(query.legend) == 1 or query.panel == "Clock difference"
    assert ("{{instance}}" in query.legend) is (TOTALS.match(query.expression) is None)


def test_promtool_parses_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{place}", "expr": query.filled_in("10.0.0.1:8000", "receiver:8099")}
        for place, query in enumerate(dashboard_queries())
    ]
    assert rules
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run(
        [program("promtool"), "check", "rules", file], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout


async def test_queries_and_variables_name_metrics_that_are_there() -> None:
    """Those of vLLM are asked for of a real server, in the end-to-end tests."""
    named = metrics_named(DASHBOARD.read_text(encoding="utf-8"))
    assert named
    assert named <= await exposed_metrics()


@pytest.mark.parametrize("query", dashboard_queries(), ids=lambda query: f"{query.panel}: {query.legend}")
def test_rates_are_of_counters(query: Query) -> None:
    rated = re.findall(r"\b(?:rate|increase)\(([\w:]+)", query.expression)
    assert all(name.endswith("_total") for name in rated)
    assert query.expression.count("$__rate_interval") == len(rated)


def test_every_variable_is_used_and_each_that_is_used_is_there() -> None:
    variables = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard()["panels"])))
    assert used - {"__rate_interval"} == variables


@pytest.mark.parametrize(
    ("name", "metric"), [("node", "gate_closed"), ("receiver", "receiver_clock_seconds")]
)
def test_machines_are_chosen_from_those_that_are_scraped_and_all_are_at_first(name: str, metric: str) -> None:
    [variable] = [each for each in dashboard()["templating"]["list"] if each["name"] == name]
    assert variable["query"]["query"] == f"label_values(hallmark_{metric}, instance)"
    assert variable["multi"] is variable["includeAll"] is True
    assert variable["current"]["value"] == ["$__all"]
    assert variable["datasource"]["uid"] == "${datasource}"


def test_jobs_are_those_of_the_scrape_example() -> None:
    scraped = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))["scrape_configs"]
    named = re.findall(r'job=~?"([^"]+)"', "".join(query.expression for query in dashboard_queries()))
    assert {job for jobs in named for job in jobs.split("|")} == {job["job_name"] for job in scraped}


def test_provisioning_fits_the_dashboard_and_the_scrape_example() -> None:
    [source] = settings("datasources", "prometheus.yml")["datasources"]
    [variable] = [each for each in dashboard()["templating"]["list"] if each["name"] == "datasource"]
    assert (variable["type"], variable["query"]) == ("datasource", source["type"])
    assert variable["current"]["value"] == source["uid"]
    assert variable["current"]["text"] == source["name"]
    assert source["url"] == "http://prometheus:9090"
    scraped = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
    [provider] = settings("dashboards", "hallmark.yml")["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
    assert [file.name for file in DASHBOARD.parent.iterdir()] == [DASHBOARD.name]
