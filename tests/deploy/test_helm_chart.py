"""The Helm chart: what it renders is valid, starts what the values say, and holds no secret."""

import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import typer
import yaml
from checkout import ROOT
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from typer.core import TyperGroup

from hallmark.server.cli.serve.plan import ServePlan, plan
from hallmark.server.commands import app
from hallmark.server.http.readiness import router as readiness
from hallmark.server.receiver.app import create_app

CHART = ROOT / "deploy" / "helm" / "hallmark"
VALUE_SETS = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").iterdir())
WITH_NODE = [name for name in VALUE_SETS if name != "receiver-only"]

TOKEN = "a token of the tests"  # noqa: S105  # no secret of anybody
WEBHOOK_SECRET = "whsec_" + "A" * 32
MOUNTED = "/run/secrets/hallmark"
CONFIG = "/etc/hallmark/node.yaml"

Manifest = dict[str, Any]
Values = dict[str, Any]


@pytest.fixture(scope="module")
def chart() -> Iterator[helm_python.Chart]:
    with helm_python.Chart.load(CHART) as chart:
        yield chart


def value_set(name: str) -> Values:
    values: Values = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text(encoding="utf-8"))
    return values


def with_token(**values: Any) -> Values:
    return {"secrets": {"apiKey": {"existingSecret": "hallmark-api-key"}}, **values}


def rendered(chart: helm_python.Chart, values: Values, release: str = "demo") -> list[Manifest]:
    files = chart.render(values, name=release, namespace="proofs")
    return [
        manifest
        for name, text in files.items()
        if name.endswith(".yaml")
        for manifest in yaml.safe_load_all(text)
        if manifest
    ]


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] == kind}


def pod_of(manifests: list[Manifest], component: str) -> Manifest:
    pod: Manifest = of_kind(manifests, "StatefulSet")[f"demo-hallmark-{component}"]["spec"]["template"]
    return pod


def container_of(manifests: list[Manifest], component: str) -> Manifest:
    [container] = pod_of(manifests, component)["spec"]["containers"]
    found: Manifest = container
    return found


def planned(manifests: list[Manifest], folder: Path, monkeypatch: pytest.MonkeyPatch) -> ServePlan:
    """What `hallmark serve` would do in the node's container, with what is mounted there in a folder."""
    config = of_kind(manifests, "ConfigMap")["demo-hallmark-node"]["data"][Path(CONFIG).name]
    pod = pod_of(manifests, "node")["spec"]
    [secrets] = [volume["projected"] for volume in pod["volumes"] if volume["name"] == "secrets"]
    contents = {"api_key": TOKEN, "webhook_secrets": WEBHOOK_SECRET, "hugging_face_token": "hf_token"}
    for source in secrets["sources"]:
        for item in source["secret"]["items"]:
            (folder / item["path"]).write_text(contents[item["path"]], encoding="utf-8")
    (folder / "node.yaml").write_text(config.replace(MOUNTED, str(folder)), encoding="utf-8")
    container = container_of(manifests, "node")
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    arguments = [str(folder / "node.yaml") if each == CONFIG else each for each in container["args"]]
    assert arguments[0] == "serve"
    context = parsed(("serve",), arguments[1:])
    return plan(
        context.params["model"], context.args, {each["name"]: each["value"] for each in container["env"]}
    )


def parsed(words: tuple[str, ...], arguments: list[str]) -> Any:
    """Let a command of `hallmark` read its arguments, and run nothing."""
    found = typer.main.get_command(app)
    for word in words:
        assert isinstance(found, TyperGroup)
        found = found.commands[word]
    return found.make_context(words[-1], arguments)


@pytest.mark.parametrize("name", VALUE_SETS)
def test_lint_finds_nothing(name: str) -> None:
    report = helm_python.lint(CHART, value_set(name), strict=True)
    assert report["total_charts_linted"] == 1
    # What is left is advice: the chart has no icon.
    assert [each for each in report["messages"] if each["severity"] > 1 or "icon" not in each["error"]] == []


@pytest.mark.parametrize("name", VALUE_SETS)
def test_manifests_are_valid_in_each_kubernetes(chart: helm_python.Chart, name: str) -> None:
    oldest = str(chart.metadata["kubeVersion"]).removeprefix(">=").removesuffix(".0-0")
    versions = dict.fromkeys((oldest, "1.31", kubernetes_validate.latest_version()))
    assert len(versions) == 3
    for manifest in rendered(chart, value_set(name)):
        for version in versions:
            assert version.startswith(kubernetes_validate.validate(manifest, version, strict=True))


def test_a_manifest_that_is_wrong_would_be_found(chart: helm_python.Chart) -> None:
    [manifest, *_] = of_kind(rendered(chart, value_set("defaults")), "StatefulSet").values()
    manifest["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(manifest, "1.31", strict=True)


def test_each_part_can_be_left_out(chart: helm_python.Chart) -> None:
    names = {
        name: {(each["kind"], each["metadata"]["name"]) for each in rendered(chart, value_set(name))}
        for name in ("defaults", "node-only", "receiver-only")
    }
    assert names["node-only"] == {
        ("ConfigMap", "demo-hallmark-node"),
        ("Service", "demo-hallmark-node"),
        ("Service", "demo-hallmark-node-control"),
        ("StatefulSet", "demo-hallmark-node"),
    }
    assert names["receiver-only"] == {
        ("NetworkPolicy", "demo-hallmark-receiver"),
        ("Service", "demo-hallmark-receiver"),
        ("StatefulSet", "demo-hallmark-receiver"),
    }
    assert names["defaults"] == names["node-only"] | names["receiver-only"]


HALLMARK_SECTION = "node.config.additional-config.hallmark"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {},
            "a node needs the token of its control routes: make a Secret with it, and name it in "
            "secrets.apiKey.existingSecret",
        ),
        (
            {"node": {"enabled": False}, "receiver": {"enabled": False}},
            "node.enabled and receiver.enabled are both false: there is nothing to install",
        ),
        (with_token(node={"config": {"port": 9000}}), "node.config.port: the chart sets this flag"),
        (with_token(node={"config": {"api-key": TOKEN}}), "node.config.api-key: a ConfigMap is no place for"),
        (
            with_token(node={"config": {"hf-token": TOKEN}}),
            "node.config.hf-token: a ConfigMap is no place for",
        ),
        (
            with_token(node={"config": {"enable-prefix-caching": False}}),
            "write no-enable-prefix-caching: true, or leave it out",
        ),
        *(
            (
                with_token(node={"config": {"additional-config": {"hallmark": {setting: "x"}}}}),
                f"{HALLMARK_SECTION}.{setting}: name a Secret in secrets.{secret}.existingSecret instead",
            )
            for setting, secret in (
                ("api_key", "apiKey"),
                ("api_key_file", "apiKey"),
                ("webhook_secrets", "webhookSecrets"),
                ("webhook_secrets_file", "webhookSecrets"),
            )
        ),
        *(
            (
                with_token(node={"extraArgs": [flag]}),
                "node.extraArgs: --additional-config there would replace",
            )
            for flag in ("--additional-config.hallmark.seq_len=64", "--additional_config={}", "--addit={}")
        ),
        (with_token(node={"extraArgs": ["--port=9000"]}), "node.extraArgs: the chart sets --port;"),
        (with_token(node={"extraArgs": [f"--api-key={TOKEN}"]}), "would see the secret of --api-key;"),
        (
            with_token(node={"env": [{"name": "HALLMARK_API_KEY", "value": TOKEN}]}),
            "node.env: HALLMARK_API_KEY is a secret; name a Secret in",
        ),
        (
            with_token(node={"env": [{"name": "VLLM_API_KEY", "value": TOKEN}]}),
            "node.env: VLLM_API_KEY is a secret; take it from a Secret, by valueFrom",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(
    chart: helm_python.Chart, values: Values, sentence: str
) -> None:
    with pytest.raises(helm_python.HelmRenderError) as refused:
        rendered(chart, values)
    assert sentence in str(refused.value)
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"nod": {}}, "'nod'"),
        ({"node": {"replicas": "two"}}, "'/node/replicas': got string, want integer"),
        ({"node": {"probes": {"startup": {"periodSecond": 5}}}}, "'periodSecond'"),
        ({"node": {"config": {"max_model_len": 2048}}}, "'max_model_len'"),
        (
            {"node": {"config": {"additional-config.hallmark.seq_len": 64}}},
            "'additional-config.hallmark.seq_len'",
        ),
        ({"node": {"config": {"additional-config": "{}"}}}, "'/node/config/additional-config': got string"),
        ({"node": {"outbox": {"size": "five"}}}, "'/node/outbox/size'"),
        ({"node": {"updateStrategy": "Recreate"}}, "'/node/updateStrategy'"),
        ({"image": {"digest": "sha256:abc"}}, "'/image/digest'"),
        ({"secrets": {"apiKey": {"value": "x"}}}, "'value'"),
        ({"fullnameOverride": "1st"}, "'/fullnameOverride'"),
        ({"receiver": {"networkPolicy": {"from": [{}]}}}, "'/receiver/networkPolicy/from/0'"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(chart: helm_python.Chart, values: Values, named: str) -> None:
    with pytest.raises(helm_python.HelmValuesError) as refused:
        rendered(chart, {**with_token(), **values})
    assert named in str(refused.value)


@pytest.mark.parametrize("name", WITH_NODE)
def test_hallmark_starts_what_the_values_say(
    chart: helm_python.Chart, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = value_set(name)
    manifests = rendered(chart, values)
    server = planned(manifests, tmp_path, monkeypatch)
    assert server.model == chart.merge_values(values)["node"]["model"]
    assert server.api_key == TOKEN
    assert server.settings.api_key_file == str(tmp_path / "api_key")
    is_signed = "webhookSecrets" in values["secrets"]
    assert [each.get_secret_value() for each in server.settings.webhook_secrets] == [
        WEBHOOK_SECRET
    ] * is_signed
    assert server.address == (None, 8000)
    # Where `hallmark outbox` looks for it without an option, and on the volume that outlives the pod.
    assert server.outbox == Path("/var/lib/hallmark/outbox-port-8000.db")
    mounts = {each["mountPath"]: each["name"] for each in container_of(manifests, "node")["volumeMounts"]}
    assert mounts[str(server.outbox.parent)] == "outbox"


def test_settings_of_the_values_stay(
    chart: helm_python.Chart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = planned(rendered(chart, value_set("node-only")), tmp_path, monkeypatch).settings
    assert (settings.max_batch_size, settings.callback_allowed_hosts) == (64, ("receiver.example",))


def test_flags_reach_the_file_as_they_are(chart: helm_python.Chart) -> None:
    flags = {
        "kv-cache-memory-bytes": 17179869184,
        "max-num-batched-tokens": 1048576,
        "gpu-memory-utilization": 0.85,
        "max-model-len": "8k",
        "served-model-name": ["yes", "010", "12:30", "1e3", "null"],
        "enforce-eager": True,
        "compilation-config": {"pass_config": {"fuse_norm_quant": False}},
    }
    config = of_kind(rendered(chart, with_token(node={"config": flags})), "ConfigMap")["demo-hallmark-node"]
    assert yaml.safe_load(config["data"]["node.yaml"]) == {
        **flags,
        "port": 8000,
        "additional-config": {"hallmark": {"api_key_file": f"{MOUNTED}/api_key"}},
    }


def test_vllm_reads_the_configuration_as_hallmark_does(
    chart: helm_python.Chart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.serve.instrumentator.health import router as health
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    ServeSubcommand().subparser_init(parser.add_subparsers(dest="subparser"))
    for name in WITH_NODE:
        values = value_set(name)
        (tmp_path / name).mkdir()
        server = planned(rendered(chart, values), tmp_path / name, monkeypatch)
        read = parser.parse_args(list(server.command[server.command.index("serve") :]))
        assert read.model_tag == server.model
        assert (read.host, read.port) == (None, 8000)
        section = read.additional_config["hallmark"]
        assert type(server.settings).from_additional_config(read.additional_config, {}) == server.settings
        assert section["api_key_file"] == str(tmp_path / name / "api_key")
        for flag, value in values.get("node", {}).get("config", {}).items():
            if flag != "additional-config":
                assert getattr(read, flag.replace("-", "_")) == value
    # It is vLLM's own route, which the probes ask.
    assert "/health" in paths(health.routes)


def paths(routes: Any) -> set[str]:
    return {route.path for route in routes if isinstance(route, APIRoute) and "GET" in route.methods}


@pytest.mark.parametrize("name", ["defaults", "receiver-only"])
def test_the_receiver_is_started_as_the_values_say(chart: helm_python.Chart, name: str) -> None:
    container = container_of(rendered(chart, value_set(name)), "receiver")
    assert container["args"][0] == "receiver"
    given = parsed(("receiver",), container["args"][1:]).params
    assert (given["host"], given["port"]) == ("0.0.0.0", container["ports"][0]["containerPort"])  # noqa: S104
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert mounts[str(Path(given["database"]).parent)] == "proofs"
    is_signed = "webhookSecrets" in value_set(name)["secrets"]
    assert given["secrets_file"] == (Path(MOUNTED, "webhook_secrets") if is_signed else None)
    assert mounts.get(MOUNTED) == ("secrets" if is_signed else None)


def test_probes_of_a_node_are_those_of_the_documentation(chart: helm_python.Chart) -> None:
    documented = (ROOT / "docs" / "reference" / "states.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```yaml\n(startupProbe:.*?)```", documented, re.DOTALL)
    container = container_of(rendered(chart, value_set("defaults")), "node")
    [port] = container["ports"]
    probes = {name: container[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    for probe in probes.values():
        assert probe["httpGet"]["port"] == port["name"]
        probe["httpGet"]["port"] = port["containerPort"]
    assert probes == yaml.safe_load(block)
    # The test of vLLM's parser looks for /health, which is vLLM's.
    assert paths(readiness.routes) == {probes["readinessProbe"]["httpGet"]["path"]}


def test_probes_and_scrapes_of_a_receiver_are_answered(chart: helm_python.Chart, tmp_path: Path) -> None:
    manifests = rendered(chart, value_set("defaults"))
    container = container_of(manifests, "receiver")
    annotations = pod_of(manifests, "receiver")["metadata"]["annotations"]
    asked = {
        container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    with TestClient(create_app(tmp_path / "proofs.db")) as client:
        for path in (*asked, annotations["prometheus.io/path"]):
            assert client.get(path).status_code == 200


@pytest.mark.parametrize("name", VALUE_SETS)
def test_services_lead_to_the_pods_that_they_are_for(chart: helm_python.Chart, name: str) -> None:
    manifests = rendered(chart, value_set(name))
    services = of_kind(manifests, "Service")
    for set_name, stateful_set in of_kind(manifests, "StatefulSet").items():
        labels = stateful_set["spec"]["template"]["metadata"]["labels"]
        assert matches(stateful_set["spec"]["selector"]["matchLabels"], labels)
        # Its governing Service is of this chart, and selects its pods.
        assert matches(services[stateful_set["spec"]["serviceName"]]["spec"]["selector"], labels)
        [container] = stateful_set["spec"]["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for service_name, service in services.items():
            is_for_it = service_name.removesuffix("-control") == set_name
            assert matches(service["spec"]["selector"], labels) is is_for_it
            if is_for_it:
                [port] = service["spec"]["ports"]
                assert port["targetPort"] in ports
                # A headless Service forwards nothing.
                if service["spec"].get("clusterIP") == "None":
                    assert port["port"] == ports[port["targetPort"]]
        annotations = stateful_set["spec"]["template"]["metadata"].get("annotations", {})
        if (chart.merge_values(value_set(name)))["prometheus"]["annotations"]:
            assert annotations["prometheus.io/scrape"] == "true"
            assert [int(annotations["prometheus.io/port"])] == list(ports.values())
        else:
            assert not [key for key in annotations if key.startswith("prometheus.io/")]


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    assert selector, "an empty selector matches everything"
    return selector.items() <= labels.items()


def test_chat_goes_to_ready_pods_and_control_to_each(chart: helm_python.Chart) -> None:
    services = of_kind(rendered(chart, value_set("defaults")), "Service")
    chat = services["demo-hallmark-node"]["spec"]
    control = services["demo-hallmark-node-control"]["spec"]
    assert not chat.get("publishNotReadyAddresses")
    assert "clusterIP" not in chat
    assert (control["clusterIP"], control["publishNotReadyAddresses"]) == ("None", True)


def test_only_nodes_of_the_release_and_those_named_reach_the_receiver(chart: helm_python.Chart) -> None:
    manifests = rendered(chart, value_set("defaults"))
    policy = of_kind(manifests, "NetworkPolicy")["demo-hallmark-receiver"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    node, receiver = (pod_of(manifests, each)["metadata"]["labels"] for each in ("node", "receiver"))
    assert matches(policy["podSelector"]["matchLabels"], receiver)
    assert not matches(policy["podSelector"]["matchLabels"], node)
    [rule] = policy["ingress"]
    [peer] = rule["from"]
    assert matches(peer["podSelector"]["matchLabels"], node)
    assert not matches(peer["podSelector"]["matchLabels"], receiver)
    other = pod_of(rendered(chart, with_token(fullnameOverride="demo-hallmark"), release="other"), "node")
    assert not matches(peer["podSelector"]["matchLabels"], other["metadata"]["labels"])
    assert rule["ports"] == [{"protocol": "TCP", "port": 8099}]

    named = of_kind(rendered(chart, value_set("receiver-only")), "NetworkPolicy")["demo-hallmark-receiver"]
    [rule] = named["spec"]["ingress"]
    assert rule["from"][1:] == value_set("receiver-only")["receiver"]["networkPolicy"]["from"]

    switched_off = with_token(receiver={"networkPolicy": {"enabled": False}})
    assert not of_kind(rendered(chart, switched_off), "NetworkPolicy")


@pytest.mark.parametrize("name", VALUE_SETS)
def test_pods_may_do_no_more_than_they_need(chart: helm_python.Chart, name: str) -> None:
    for stateful_set in of_kind(rendered(chart, value_set(name)), "StatefulSet").values():
        pod = stateful_set["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        [container] = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("name", VALUE_SETS)
def test_mounts_and_volumes_belong_together(chart: helm_python.Chart, name: str) -> None:
    for stateful_set in of_kind(rendered(chart, value_set(name)), "StatefulSet").values():
        pod = stateful_set["spec"]["template"]["spec"]
        [container] = pod["containers"]
        claims = [claim["metadata"]["name"] for claim in stateful_set["spec"]["volumeClaimTemplates"]]
        volumes = [*claims, *(volume["name"] for volume in pod["volumes"])]
        assert sorted(volumes) == sorted({mount["name"] for mount in container["volumeMounts"]})
        places = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert len(places) == len(set(places))
        # The root is read-only: what is not mounted cannot be written.
        folders = [each["value"] for each in container["env"] if each["value"].startswith("/var/cache")]
        for path in ("/tmp", *folders):  # noqa: S108
            assert any(path == place or path.startswith(f"{place}/") for place in places), path
        for claim in stateful_set["spec"]["volumeClaimTemplates"]:
            assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
            # Nothing of a claim's template can be changed by an upgrade, its labels neither.
            assert "helm.sh/chart" not in claim["metadata"]["labels"]


def test_ranks_share_memory_that_is_large_enough(chart: helm_python.Chart) -> None:
    manifests = rendered(chart, value_set("tensor-parallel"))
    [shm] = [each for each in pod_of(manifests, "node")["spec"]["volumes"] if each["name"] == "shm"]
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert {"name": "shm", "mountPath": "/dev/shm"} in container_of(manifests, "node")["volumeMounts"]  # noqa: S108


def test_a_gpu_is_asked_for_unless_the_values_say_otherwise(chart: helm_python.Chart) -> None:
    limits = {
        name: container_of(rendered(chart, value_set(name)), "node")["resources"]["limits"]
        for name in WITH_NODE
    }
    gpu = "nvidia.com/gpu"
    assert limits == {
        "cpu-node": {},
        "defaults": {gpu: 1},
        "node-only": {gpu: 1},
        "tensor-parallel": {gpu: 2},
    }


@pytest.mark.parametrize("name", VALUE_SETS)
def test_secrets_are_files_of_secrets_that_exist_already(chart: helm_python.Chart, name: str) -> None:
    manifests = rendered(chart, value_set(name))
    assert not of_kind(manifests, "Secret")
    expected = {
        "node-only": {
            "node": {
                "api_key": ("hallmark-api-key", "api-key"),
                "webhook_secrets": ("hallmark-webhook-secrets", "secrets"),
                "hugging_face_token": ("hugging-face", "token"),
            }
        },
        "receiver-only": {
            "receiver": {"webhook_secrets": ("hallmark-webhook-secrets", "webhook-secrets")},
        },
    }.get(name, {"node": {"api_key": ("hallmark-api-key", "api-key")}, "receiver": {}})
    for component, files in expected.items():
        pod = pod_of(manifests, component)["spec"]
        projected = [each["projected"] for each in pod["volumes"] if each["name"] == "secrets"]
        assert all(each["defaultMode"] == 0o440 for each in projected), "the group of the user reads them"
        assert {
            item["path"]: (source["secret"]["name"], item["key"])
            for each in projected
            for source in each["sources"]
            for item in source["secret"]["items"]
        } == files
        mounts = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "secrets"]
        assert mounts == [{"name": "secrets", "mountPath": MOUNTED, "readOnly": True}] * bool(files)


def test_the_token_of_hugging_face_is_a_file(chart: helm_python.Chart) -> None:
    environment = container_of(rendered(chart, value_set("node-only")), "node")["env"]
    assert {"name": "HF_TOKEN_PATH", "value": f"{MOUNTED}/hugging_face_token"} in environment
    default = container_of(rendered(chart, value_set("defaults")), "node")["env"]
    assert "HF_TOKEN_PATH" not in {each["name"] for each in default}


def test_a_variable_of_the_values_takes_the_place_of_the_charts_own(chart: helm_python.Chart) -> None:
    given = [{"name": "HF_HOME", "value": "/models"}, {"name": "OMP_NUM_THREADS", "value": "8"}]
    environment = container_of(rendered(chart, with_token(node={"env": given})), "node")["env"]
    assert environment[-2:] == given
    names = [each["name"] for each in environment]
    assert len(names) == len(set(names))


def test_a_change_of_the_configuration_restarts_nodes_and_nothing_else_does(chart: helm_python.Chart) -> None:
    def template(**node: Any) -> Manifest:
        return pod_of(rendered(chart, with_token(node=node)), "node")

    before = template()
    assert template(replicas=3) == before
    after = template(config={"max-model-len": 2048})
    checksums = [each["metadata"]["annotations"].pop("checksum/config") for each in (before, after)]
    assert checksums[0] != checksums[1]
    assert before == after


@pytest.mark.parametrize(
    ("values", "images"),
    [
        ({}, ("hallmark:{version}", "hallmark:{version}")),
        ({"image": {"tag": "next"}}, ("hallmark:next", "hallmark:next")),
        ({"receiver": {"image": {"tag": "0.1.0-cpu"}}}, ("hallmark:{version}", "hallmark:0.1.0-cpu")),
        (
            {
                "image": {"repository": "registry.example:5000/hallmark", "digest": f"sha256:{'0' * 64}"},
                "receiver": {"image": {"tag": "0.1.0-cpu"}},
            },
            (
                f"registry.example:5000/hallmark@sha256:{'0' * 64}",
                "registry.example:5000/hallmark:0.1.0-cpu",
            ),
        ),
    ],
)
def test_images(chart: helm_python.Chart, values: Values, images: tuple[str, str]) -> None:
    version = chart.metadata["appVersion"]
    manifests = rendered(chart, {**with_token(), **values})
    found = [container_of(manifests, each)["image"] for each in ("node", "receiver")]
    assert found == [image.format(version=version) for image in images]


def test_the_chart_is_of_hallmarks_version(chart: helm_python.Chart) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart.metadata["appVersion"] == project["version"]


def test_names_are_allowed_whatever_the_release_is_called(chart: helm_python.Chart) -> None:
    releases = [
        "a",
        "a.b",
        "a-b",
        "1st",
        "123",
        "true",
        "hallmark",
        "h.hallmark",
        "x" * 40,
        "x" * 53,
        "x" * 52 + "y",
    ]
    names: dict[str, set[str]] = {}
    for release in releases:
        helm_python.validate_release_name(release)
        manifests = rendered(chart, with_token(), release)
        names[release] = {each["metadata"]["name"] for each in manifests}
        for manifest in manifests:
            name, labels = manifest["metadata"]["name"], manifest["metadata"]["labels"]
            # A StatefulSet's name stands in a label of its pods, with a hash of ten characters.
            longest = 52 if manifest["kind"] == "StatefulSet" else 63
            assert len(name) <= longest
            assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
            assert labels["app.kubernetes.io/instance"] == release
            kubernetes_validate.validate(manifest, "1.31", strict=True)
    for one, other in combinations(names.values(), 2):
        assert not one & other


@pytest.mark.parametrize("name", VALUE_SETS)
def test_commands_of_the_notes_exist(chart: helm_python.Chart, name: str) -> None:
    notes = chart.render(value_set(name), name="demo", namespace="proofs")["hallmark/templates/NOTES.txt"]
    lines = [line.strip() for line in notes.replace("\\\n", " ").splitlines()]
    started = [shlex.split(line) for line in lines if line.startswith("hallmark round start")]
    assert len(started) == (name in WITH_NODE)
    receivers = [each for each in of_kind(rendered(chart, value_set(name)), "Service") if "receiver" in each]
    for words in started:
        given = ["1" if word == "HEIGHT" else word for word in words[3:]]
        options = parsed(("round", "start"), given).params
        assert options["callback_url"] == (f"http://{receivers[0]}.proofs.svc:8099" if receivers else None)
    assert ("Callbacks are not signed" in notes) is (name not in ("node-only", "receiver-only"))
    # What is left of templates is kubectl's.
    assert notes.count("{{") == notes.count("{{ index .data ") == len(started)
