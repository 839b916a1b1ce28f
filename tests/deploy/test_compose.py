"""compose.yaml, with and without its override for CPUs, as Docker Compose reads it; and node.yaml."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import ROOT

from hallmark.poc.settings.secret_sources import API_KEY_VARIABLE, WEBHOOK_SECRETS_VARIABLE
from hallmark.server.cli.serve.plan import ServePlan, plan

DOCKER = ROOT / "deploy" / "docker"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
SECRET = "whsec_" + "A" * 44
FILES = {"cuda": ["compose.yaml"], "cpu": ["compose.yaml", "compose.cpu.yaml"]}


def compose(kind: str, *arguments: str, env_file: Path = DOCKER / ".env.example") -> str:
    """What Docker Compose prints; a variable of this machine changes nothing of it."""
    program = Path(sys.executable).parent / "docker-compose"
    files = [word for name in FILES[kind] for word in ("--file", str(DOCKER / name))]
    done = subprocess.run(
        [program, "--env-file", env_file, *files, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
    )
    # The program from PyPI ends with 0 whatever happened.
    if done.returncode or not done.stdout:
        raise ValueError(done.stderr)
    assert "level=warning" not in done.stderr
    return done.stdout


@pytest.fixture(params=list(FILES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def project(kind: str) -> dict[str, Any]:
    read = json.loads(compose(kind, "config", "--format", "json"))
    assert isinstance(read, dict)
    return read


@pytest.fixture
def services(project: dict[str, Any]) -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = project["services"]
    assert set(services) == {"node", "receiver", "prometheus", "grafana"}
    return services


def test_no_service_has_more_rights_than_it_needs(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode", "user"}
        assert service["restart"] == "unless-stopped"
        assert not [mount for mount in service["volumes"] if mount["source"].endswith("docker.sock")]


def test_ports_are_open_on_loopback_only(services: dict[str, dict[str, Any]]) -> None:
    ports = {
        name: [(port["host_ip"], port["published"], port["target"]) for port in service["ports"]]
        for name, service in services.items()
    }
    assert ports == {
        "node": [("127.0.0.1", "8000", 8000)],
        "receiver": [("127.0.0.1", "8099", 8099)],
        "prometheus": [("127.0.0.1", "9090", 9090)],
        "grafana": [("127.0.0.1", "3000", 3000)],
    }


def test_secrets_are_files_and_stand_in_no_environment(
    project: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    given = {
        name: {secret["target"] for secret in service.get("secrets", [])}
        for name, service in services.items()
    }
    assert given == {
        "node": {"/run/secrets/hallmark_api_key", "/run/secrets/hallmark_webhook_secrets"},
        "receiver": {"/run/secrets/hallmark_webhook_secrets"},
        "prometheus": set(),
        "grafana": {"/run/secrets/grafana_admin_password"},
    }
    for name, secret in project["secrets"].items():
        assert secret["file"] == str(DOCKER / "secrets" / name)
    for service in services.values():
        for variable, value in service.get("environment", {}).items():
            assert variable not in (API_KEY_VARIABLE, WEBHOOK_SECRETS_VARIABLE)
            if re.search("KEY|TOKEN|SECRET|PASSWORD", variable):
                assert variable.endswith("__FILE")
                assert value in {secret["target"] for secret in service["secrets"]}


def test_git_never_takes_a_secret() -> None:
    def is_ignored(path: str) -> bool:
        done = subprocess.run(["git", "check-ignore", "--quiet", DOCKER / path], cwd=ROOT, check=False)
        return done.returncode == 0

    assert is_ignored("secrets/hallmark_api_key")
    assert is_ignored(".env")
    assert not is_ignored(".env.example")


def test_every_file_that_is_mounted_is_in_the_repository(services: dict[str, dict[str, Any]]) -> None:
    mounts = [mount for service in services.values() for mount in service["volumes"]]
    bound = {Path(mount["source"]) for mount in mounts if mount["type"] == "bind"}
    assert all(mount["read_only"] for mount in mounts if mount["type"] == "bind")
    bound.remove(DOCKER / "models")  # the operator's
    assert bound == {
        DOCKER / "node.yaml",
        ROOT / "deploy" / "prometheus" / "prometheus.yml",
        ROOT / "deploy" / "prometheus" / "hallmark.rules.yml",
        ROOT / "deploy" / "grafana" / "provisioning",
        ROOT / "deploy" / "grafana" / "dashboards",
    }
    assert not [path for path in bound if not path.exists()]


def test_what_has_to_outlive_a_container_is_on_a_named_volume(services: dict[str, dict[str, Any]]) -> None:
    kept = {
        name: {mount["target"] for mount in service["volumes"] if mount["type"] == "volume"}
        for name, service in services.items()
    }
    assert kept == {
        "node": {"/var/lib/hallmark", "/var/cache/hallmark"},
        "receiver": {"/var/lib/hallmark"},
        "prometheus": {"/prometheus"},
        "grafana": {"/var/lib/grafana"},
    }


def test_each_service_has_a_health_check_and_waits_for_what_it_needs(
    services: dict[str, dict[str, Any]],
) -> None:
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["healthcheck"]["start_period"] in ("20m0s" if name == "node" else "1m0s")
    for name, port in (("node", 8000), ("receiver", 8099)):
        environment = services[name].get("environment", {})
        assert environment.get("HEALTH_PORT", "8000") == str(port)
    assert services["node"]["healthcheck"]["test"] == services["receiver"]["healthcheck"]["test"]
    assert services["node"]["depends_on"]["receiver"]["condition"] == "service_healthy"
    assert services["grafana"]["depends_on"]["prometheus"]["condition"] == "service_healthy"


def test_images_are_pinned_and_ours_is_the_projects_version(
    kind: str, services: dict[str, dict[str, Any]]
) -> None:
    for service in services.values():
        assert re.search(r":v?\d+\.\d+\.\d+(-cpu)?$", service["image"])
    ours = f"hallmark:{VERSION}{'-cpu' if kind == 'cpu' else ''}"
    assert services["node"]["image"] == services["receiver"]["image"] == ours
    build = services["node"]["build"]
    assert (Path(build["context"]) / build["dockerfile"]) == DOCKER / f"{kind}.Dockerfile"
    assert build["context"] == str(ROOT)


def test_only_the_node_has_gpus_and_on_cpus_nobody(kind: str, services: dict[str, dict[str, Any]]) -> None:
    text = json.dumps({name: service.get("deploy") for name, service in services.items()})
    assert text.count("nvidia") == (0 if kind == "cpu" else 1)
    if kind == "cpu":
        assert services["node"]["environment"]["VLLM_CPU_KVCACHE_SPACE"] == "4"
    else:
        (device,) = services["node"]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]


def test_a_model_has_to_be_named(kind: str) -> None:
    with pytest.raises(ValueError, match=r"HALLMARK_MODEL.*name the model in \.env"):
        compose(kind, "config", env_file=Path(os.devnull))


def test_the_receiver_is_started_with_options_that_it_has(services: dict[str, dict[str, Any]]) -> None:
    given = services["receiver"]["command"]
    told = subprocess.run(
        [sys.executable, "-P", "-m", "hallmark.server", *given[:1], "--help"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    ).stdout
    options = dict(option.split("=", 1) for option in given[1:])
    assert all(option in told for option in options)
    assert options["--port"] == "8099"
    assert options["--database"].startswith("/var/lib/hallmark/")
    assert options["--secrets-file"] == "/run/secrets/hallmark_webhook_secrets"


def test_prometheus_and_grafana_find_what_they_ask(services: dict[str, dict[str, Any]]) -> None:
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in scraped["scrape_configs"]}
    assert targets == {"hallmark-node": ["node:8000"], "hallmark-receiver": ["receiver:8099"]}
    networks = {name: set(service["networks"]) for name, service in services.items()}
    assert networks["prometheus"] >= networks["node"] | networks["receiver"]
    assert networks["grafana"] & networks["prometheus"]
    assert not networks["grafana"] & networks["node"]
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "hallmark.yml").read_text())["providers"]
    mounts = {mount["source"]: mount["target"] for mount in services["grafana"]["volumes"]}
    assert mounts[str(ROOT / "deploy" / "grafana" / "dashboards")] == provider["options"]["path"]


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """node.yaml, with its secrets in files of this test."""
    (tmp_path / "hallmark_api_key").write_text("a-token\n")
    (tmp_path / "hallmark_webhook_secrets").write_text(f"{SECRET}\n")
    text = (DOCKER / "node.yaml").read_text()
    assert text.count("/run/secrets/") == 2
    file = tmp_path / "node.yaml"
    file.write_text(text.replace("/run/secrets/", f"{tmp_path}/"))
    return file


def planned(services: dict[str, dict[str, Any]], configuration: Path) -> ServePlan:
    command, model, *flags = services["node"]["command"]
    assert command == "serve"
    mounted = {mount["target"]: mount["source"] for mount in services["node"]["volumes"]}
    # Two words: vLLM takes no notice of a file that stands behind `--config=`.
    place = flags.index("--config") + 1
    assert mounted[flags[place]] == str(DOCKER / "node.yaml")
    flags[place] = str(configuration)
    return plan(model, flags, {})


def test_the_node_accepts_its_configuration(
    kind: str, services: dict[str, dict[str, Any]], configuration: Path
) -> None:
    serves = planned(services, configuration)
    assert serves.model == "Qwen/Qwen3-8B"
    assert serves.address == ("0.0.0.0", 8000)  # noqa: S104  # compared, not bound
    assert serves.api_key == "a-token"
    assert [secret.get_secret_value() for secret in serves.settings.webhook_secrets] == [SECRET]
    assert serves.settings.callback_allowed_hosts is not None
    assert set(serves.settings.callback_allowed_hosts) <= set(services)
    assert any(flag == "--dtype=bfloat16" for flag in serves.command) is (kind == "cpu")


def test_vllm_reads_the_same_out_of_it(configuration: Path) -> None:
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    words = FlexibleArgumentParser().load_config_file(str(configuration))
    flags = dict(zip(words[::2], words[1::2], strict=True))
    written = yaml.safe_load(configuration.read_text())
    assert json.loads(flags.pop("--additional-config")) == written["additional-config"]
    assert flags == {"--host": "0.0.0.0", "--port": "8000"}  # noqa: S104
