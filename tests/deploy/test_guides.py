"""What the guides for operators say is so: commands that are run here, alerts, configurations."""

import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from checkout import ROOT
from debian_programs import program

from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.poc.outbox.delivery_queue import DeliveryQueue
from hallmark.poc.webhooks.signature import generate_secret
from hallmark.server.cli.serve.plan import plan

GUIDES = ROOT / "docs" / "guides"
RULES = ROOT / "deploy" / "prometheus" / "hallmark.rules.yml"
AFTER = {"at once": 0, "2 min": 120, "5 min": 300, "6 min": 360, "15 min": 900}


def block(guide: str, language: str, beginning: str) -> str:
    """The block of a guide that begins so."""
    text = (GUIDES / guide).read_text(encoding="utf-8")
    [found] = [
        code
        for code in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
        if code.startswith(beginning)
    ]
    return str(found)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_backup_has_what_a_running_servers_outbox_has(tmp_path: Path, is_open: bool) -> None:
    outbox, backup = tmp_path / "outbox.db", tmp_path / "backup.db"
    database = OutboxDatabase(outbox)
    queue = DeliveryQueue(database)
    for n in range(50):
        queue.add("http://r.example", "generated", [b'{"n": %d}' % n], now=1e9, max_queued=100)
    expected = queue.listed()
    if is_open:
        assert outbox.with_name("outbox.db-wal").stat().st_size > 0, "a part of it is beside it"
    else:
        database.close()
    command = block("outbox.md", "", "python3 -c 'import sqlite3")
    command = command.replace("/var/lib/hallmark/outbox-port-8000.db backup.db", f"{outbox} {backup}")
    subprocess.run(["sh", "-ec", command.replace("python3", sys.executable)], check=True, cwd=tmp_path)
    if is_open:
        database.close()
    with closing(OutboxDatabase(backup)) as restored:
        assert DeliveryQueue(restored).listed() == expected


def test_the_alerts_are_those_of_the_rules() -> None:
    text = (GUIDES / "alerts.md").read_text(encoding="utf-8")
    told = {
        name: (severity, AFTER[after])
        for name, severity, after in re.findall(
            r"^\| (Hallmark\w+) \| (\w+) \| ([^|]*) \|", text, re.MULTILINE
        )
    }
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]
    there = {
        rule["alert"]: (rule["labels"]["severity"], 60 * int(rule.get("for", "0m").removesuffix("m")))
        for rule in rules
    }
    # Its expression looks five minutes back before its minute begins.
    severity, seconds = there["HallmarkRoundStalled"]
    there["HallmarkRoundStalled"] = (severity, seconds + 300)
    assert told == there


def test_the_scrape_configuration_for_kubernetes_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "prometheus.yml"
    # Debian's Prometheus is built without Kubernetes, so its pods stand here as addresses.
    configuration = yaml.safe_load(block("alerts.md", "yaml", "scrape_configs:"))
    [job] = configuration["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    path.write_text(yaml.safe_dump({"scrape_configs": [{**job, "static_configs": [{"targets": ["pod:1"]}]}]}))
    checked = subprocess.run(
        [program("promtool"), "check", "config", str(path)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_the_configuration_of_a_node_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the guide has it, beside the secrets that it makes."""
    monkeypatch.chdir(tmp_path)
    secret = block("run-a-node.md", "", "python3 -c 'import secrets").splitlines()[0]
    subprocess.run(["sh", "-ec", secret.replace("python3", sys.executable)], check=True)
    Path("webhook_secrets").write_text(generate_secret())
    Path("node.yaml").write_text(block("run-a-node.md", "yaml", "port:"))
    planned = plan("m", ["--config", "node.yaml"], {})
    assert planned.api_key == Path("api_key").read_text().strip()
    assert (planned.url, len(planned.settings.webhook_secrets)) == ("http://127.0.0.1:8000", 1)


def test_the_common_configuration_is_one(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    [node] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    token, path = tmp_path / "api_key", tmp_path / "node.yaml"
    token.write_text("a token of the tests")
    path.write_text(node.replace("/run/secrets/hallmark_api_key", str(token)))
    assert plan("m", ["--config", str(path)], {}).api_key == "a token of the tests"


def test_the_files_that_are_to_be_copied_are_there() -> None:
    text = (GUIDES / "run-a-node.md").read_text(encoding="utf-8")
    named = set(re.findall(r"deploy/[\w@./-]*\w", text))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
