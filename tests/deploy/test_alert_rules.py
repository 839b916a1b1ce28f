"""The alert rules: promtool accepts them, each fires in a case of its own, and what they name is there."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from debian_programs import program
from prometheus_server import CONFIGURATION, RULE_TESTS, RULES, exposed_metrics, metrics_named

Rule = dict[str, Any]

# Between alternatives that fire each by itself.
OR = re.compile(r"\s+or(?: on \([^)]*\))?\s+")


def alert_rules() -> list[Rule]:
    [group] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rules: list[Rule] = group["rules"]
    return rules


ALERTS = {rule["alert"]: rule for rule in alert_rules()}
ALTERNATIVES = [
    (name, place) for name, rule in ALERTS.items() for place in range(len(OR.split(rule["expr"])))
]
WITH_PATIENCE = [name for name, rule in ALERTS.items() if "for" in rule]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("promtool"), *arguments], check=False, capture_output=True, text=True)


def cases_fail_with(rules: list[Rule], folder: Path, name: str) -> bool:
    """Whether the cases in which an alert fires find fault with other rules, which promtool can read."""
    # As text: to PyYAML the series 0x30 is a number.
    head, *cases = re.split(r"^(?=  - name: )", RULE_TESTS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = head + "".join(case for case in cases if f'alertname="{name}"' in case)
    group = {"groups": [{"name": "hallmark", "rules": rules}]}
    (folder / RULES.name).write_text(yaml.safe_dump(group), encoding="utf-8")
    (folder / RULE_TESTS.name).write_text(text, encoding="utf-8")
    checked = promtool("check", "rules", folder / RULES.name)
    assert checked.returncode == 0, checked.stderr
    return promtool("test", "rules", folder / RULE_TESTS.name).returncode != 0


@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", RULES), ("check", "config", CONFIGURATION), ("test", "rules", RULE_TESTS)],
    ids=lambda arguments: " ".join(map(str, arguments[:2])),
)
def test_promtool_accepts_the_files(arguments: tuple[str | Path, ...]) -> None:
    done = promtool(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_loads_the_rules() -> None:
    assert yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))["rule_files"] == [RULES.name]


@pytest.mark.parametrize("name", ALERTS)
def test_the_cases_of_an_alert_pass_as_the_next_tests_run_them(name: str, tmp_path: Path) -> None:
    assert not cases_fail_with(alert_rules(), tmp_path, name)


@pytest.mark.parametrize(("name", "place"), ALTERNATIVES)
def test_each_alternative_of_each_alert_has_a_case_in_which_it_alone_fires(
    name: str, place: int, tmp_path: Path
) -> None:
    rules = alert_rules()
    [rule] = [rule for rule in rules if rule["alert"] == name]
    alternatives = OR.split(rule["expr"])
    del alternatives[place]
    # Where there is no other, nothing at all.
    rule["expr"] = " or ".join(alternatives or ["vector(0) > 0"])
    assert cases_fail_with(rules, tmp_path, name)


@pytest.mark.parametrize("name", WITH_PATIENCE)
def test_each_alert_that_waits_has_a_case_in_which_it_does(name: str, tmp_path: Path) -> None:
    rules = alert_rules()
    [rule] = [rule for rule in rules if rule["alert"] == name]
    del rule["for"]
    assert cases_fail_with(rules, tmp_path, name)


async def test_rules_and_cases_name_metrics_that_are_there() -> None:
    exposed = await exposed_metrics()
    for file in (RULES, RULE_TESTS):
        named = metrics_named(file.read_text(encoding="utf-8"))
        assert named
        assert named <= exposed


def test_rules_name_jobs_that_are_scraped() -> None:
    scraped = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))["scrape_configs"]
    jobs = {job["job_name"] for job in scraped}
    named = {
        job
        for rule in alert_rules()
        for jobs_named in re.findall(r'job=~?"([^"]+)"', rule["expr"])
        for job in jobs_named.split("|")
    }
    assert named == jobs


def firing_labels(name: str) -> set[str]:
    """Labels that every firing alert of this name has in the cases."""
    cases = RULE_TESTS.read_text(encoding="utf-8")
    fired = re.findall(rf"ALERTS\{{(alertname=\"{name}\"[^}}]*)\}}", cases)
    return set.intersection(*(set(re.findall(r"(\w+)=", labels)) for labels in fired))


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_says_how_bad_it_is_what_is_wrong_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Hallmark([A-Z][a-z]+)+", name)
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description"}
    for text in rule["annotations"].values():
        assert text == " ".join(text.split())
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= firing_labels(name)
    # A headline, which names the machine, and sentences.
    assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
    assert not rule["annotations"]["summary"].endswith((".", " ", ":"))
    assert rule["annotations"]["description"].endswith(".")
