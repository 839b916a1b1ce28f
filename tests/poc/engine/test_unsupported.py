"""Which features of vLLM are refused: by its flags, its arguments and its configuration."""

from argparse import Namespace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES, REFUSED, Family, write_configuration

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.engine.unsupported import (
    FEATURES,
    check_arguments,
    check_config,
    check_developer_mode,
    check_flags,
)
from hallmark.poc.settings.settings import Settings

# vLLM warns about its own affairs while a configuration is made.
pytestmark = pytest.mark.filterwarnings("default")


def test_the_plain_configuration_is_accepted(configure: Any) -> None:
    check_config(configure())
    check_config(configure(tensor_parallel_size=2))


@pytest.mark.parametrize(
    ("section", "attribute", "value", "feature"),
    [
        ("parallel_config", "data_parallel_size", 2, "data parallelism"),
        ("parallel_config", "decode_context_parallel_size", 2, "decode context parallelism"),
        ("parallel_config", "prefill_context_parallel_size", 2, "prefill context parallelism"),
        ("parallel_config", "_api_process_count", 2, "several API server processes"),
        ("parallel_config", "enable_dbo", True, "dual batch overlap"),
        ("parallel_config", "ubatch_size", 2, "micro-batches"),
        ("parallel_config", "enable_eplb", True, "expert load balancing"),
        ("offload_config", "offload_backend", "prefetch", "weight offloading"),
        ("model_config", "enable_sleep_mode", True, "sleep mode"),
        ("cache_config", "kv_sharing_fast_prefill", True, "--kv-sharing-fast-prefill"),
        ("observability_config", "jit_monitor_mode", "error", "--jit-monitor-mode error"),
        ("model_config", "uses_xdrope_dim", 4, "XD-RoPE"),
        ("model_config.hf_config", "architectures", ["VoxtralRealtimeGeneration"], "audio in every input"),
        ("model_config", "is_encoder_decoder", True, "encoder-decoder models"),
        (None, "lora_config", object(), "LoRA"),
    ],
)
def test_a_feature_that_poc_does_not_work_with_is_refused_by_name(
    configure: Any, section: str | None, attribute: str, value: object, feature: str
) -> None:
    config = configure()
    # Set afterwards: some of these cannot be configured on a machine without the hardware they are for.
    setattr(config if section is None else attrgetter(section)(config), attribute, value)
    with pytest.raises(UnsupportedError, match=feature):
        check_config(config)


def configuration_of(family: Family, configure: Any, directory: Path) -> Any:
    from imported_models import import_model

    write_configuration(family, directory)
    import_model(directory)
    return configure(model=str(directory))


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_is_refused_by_its_configuration(configure: Any, name: str, tmp_path: Path) -> None:
    family, words = REFUSED[name]
    with pytest.raises(UnsupportedError, match=words):
        check_config(configuration_of(family, configure, tmp_path / "model"))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_accepted_by_its_configuration(configure: Any, name: str, tmp_path: Path) -> None:
    check_config(configuration_of(FAMILIES[name], configure, tmp_path / "model"))


@pytest.mark.parametrize(
    ("kind", "is_refused"), [("qwen3_vl", True), ("qwen3_omni_moe", True), ("qwen2_5_vl", False)]
)
def test_images_in_several_layers_are_refused(configure: Any, kind: str, is_refused: bool) -> None:
    """By the model's configuration alone: vLLM's classes need torchvision."""
    from transformers import AutoConfig

    config = configure()
    config.model_config.hf_config = AutoConfig.for_model(kind)
    if not is_refused:
        check_config(config)
        return
    with pytest.raises(UnsupportedError, match="deepstack, as in Qwen3-VL"):
        check_config(config)


def test_stages_by_ray_are_refused(configure: Any) -> None:
    """Stages by vLLM's own processes are not, nor ranks of one stage by Ray."""
    config = configure()
    parallel = config.parallel_config
    for stages, backend in ((2, "mp"), (1, "ray")):
        parallel.pipeline_parallel_size, parallel.distributed_executor_backend = stages, backend
        check_config(config)
    parallel.pipeline_parallel_size = 2
    with pytest.raises(UnsupportedError, match="stages by Ray"):
        check_config(config)


ASKED = [
    ("data-parallel-size", 2.0),
    ("data-parallel-size-local", 0.0),
    ("data-parallel-rank", 0.0),
    ("data-parallel-start-rank", 1.0),
    ("data-parallel-external-lb", True),
    ("data-parallel-hybrid-lb", True),
    ("data-parallel-multi-port-external-lb", True),
    ("prefill-context-parallel-size", 2.0),
    ("decode-context-parallel-size", 4.0),
    ("headless", True),
    ("node-rank", 1.0),
    ("api-server-count", 2.0),
    ("api-server-count", 0.0),
    ("grpc", True),
    ("grpc-port", 50051.0),
    ("enable-dbo", True),
    ("ubatch-size", 2.0),
    ("enable-eplb", True),
    ("use-replayssm", True),
    ("offload-group-size", 8.0),
    ("cpu-offload-gb", 0.5),
    ("enable-lora", True),
    ("enable-sleep-mode", True),
    ("calculate-kv-scales", True),
    ("kv-sharing-fast-prefill", True),
    ("jit-monitor-mode", "error"),
]
"""Each flag that is refused, with a value that asks for the feature."""

HARMLESS = [
    ("data-parallel-size", 1.0),
    ("nnodes", 2.0),
    ("headless", False),
    ("node-rank", 0.0),
    ("ubatch-size", 0.0),
    ("ubatch-size", 1.0),
    ("api-server-count", 1.0),
    ("enable-lora", False),
    ("cpu-offload-gb", 0.0),
    ("tensor-parallel-size", 2.0),
    ("jit-monitor-mode", "warn"),
]


def test_every_flag_of_the_table_is_tried() -> None:
    assert {flag for flag, _ in ASKED} == {flag for feature in FEATURES for flag in feature.flags}


@pytest.mark.parametrize(("flag", "value"), ASKED)
def test_a_flag_that_asks_for_a_feature_is_refused(flag: str, value: object) -> None:
    with pytest.raises(UnsupportedError, match=r"^PoC does not work with .* yet\.$"):
        check_flags({flag: value}.get, {})
    with pytest.raises(UnsupportedError):
        check_arguments(Namespace(**{flag.replace("-", "_"): value}), {})


@pytest.mark.parametrize(("flag", "value"), HARMLESS)
def test_a_flag_that_asks_for_nothing_is_not(flag: str, value: object) -> None:
    check_flags({flag: value}.get, {})
    check_arguments(Namespace(**{flag.replace("-", "_"): value}), {})


def test_a_node_of_a_server_that_answers_on_another_is_not_refused() -> None:
    check_flags({"headless": True, "nnodes": 2.0, "node-rank": 1.0}.get, {})
    with pytest.raises(UnsupportedError, match="--headless without --nnodes"):
        check_flags({"headless": True, "nnodes": 1.0}.get, {})


def test_each_feature_has_its_sentence() -> None:
    asked = {"enable-lora": True, "data-parallel-rank": 0.0}
    with pytest.raises(UnsupportedError) as refusal:
        check_flags(asked.get, {"VLLM_USE_RUST_FRONTEND": "1"})
    assert str(refusal.value) == (
        "PoC does not work with data parallelism (--data-parallel-size > 1, --data-parallel-rank and the "
        "load balancers) yet. "
        "PoC does not work with LoRA (--enable-lora) yet. "
        "PoC does not work with vLLM's Rust front end (VLLM_USE_RUST_FRONTEND) yet."
    )
    nothing: dict[str, object] = {}
    check_flags(nothing.get, {"VLLM_USE_RUST_FRONTEND": "0"})


@pytest.mark.parametrize("value", ["1", " 2 ", "-1", "0", "00", "", "true"])
def test_developer_mode_is_on_where_vllm_takes_it_for_on(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import envs

    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", value)
    try:
        is_on = envs.environment_variables["VLLM_SERVER_DEV_MODE"]()
    except ValueError:
        is_on = False  # no such server starts
    environment = {"VLLM_SERVER_DEV_MODE": value}
    check_developer_mode(environment, is_allowed=True)
    if not is_on:
        check_developer_mode(environment, is_allowed=False)
        return
    with pytest.raises(UnsupportedError, match=r"by /collective_rpc, .* hallmark\.allow_developer_mode"):
        check_developer_mode(environment, is_allowed=False)


async def test_developer_mode_is_refused_by_the_plugin_before_a_worker_is_called(
    configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hallmark.poc.engine.client import connect

    class Client:
        """vLLM's client, which nobody may call."""

        vllm_config = configure()

    client: Any = Client()
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    with pytest.raises(UnsupportedError, match="developer mode is on"):
        await connect(client, Settings(), Namespace())


def test_vllms_own_defaults_are_accepted() -> None:
    """The arguments that vLLM's parser makes of no flag at all."""
    from vllm.entrypoints.cli.serve import cmd_init
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="vllm")
    cmd_init()[0].subparser_init(parser.add_subparsers(dest="subparser"))
    args = parser.parse_args(["serve", "some/model"])
    check_arguments(args, {})
    defaults = vars(args)
    unknown = [flag for flag, _ in ASKED if flag.replace("-", "_") not in defaults]
    # A flag that this version does not have any more.
    assert set(unknown) <= {"calculate-kv-scales"}
