"""Which vLLM set-ups are refused, on vLLM's own configuration objects."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from hallmark.poc.errors import UnsupportedError
from hallmark.poc.settings import Settings

# vLLM warns about its own affairs while a configuration is made.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def configure(demo_model_directory: Path) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    def configure(**arguments: Any) -> Any:
        return EngineArgs(
            **{
                "model": str(demo_model_directory),
                "max_model_len": 2048,
                "max_num_batched_tokens": 8192,
                "max_num_seqs": 32,
                "enforce_eager": True,
                **arguments,
            }
        ).create_engine_config()

    return configure


def test_the_plain_configuration_is_accepted(configure: Any) -> None:
    from hallmark.poc.engine.support import check_config, check_limits

    check_config(configure())
    check_config(configure(tensor_parallel_size=2))
    check_limits(configure(), Settings())


@pytest.mark.parametrize(
    ("section", "attribute", "value", "feature"),
    [
        ("parallel_config", "pipeline_parallel_size", 2, "pipeline parallelism"),
        ("parallel_config", "data_parallel_size", 2, "data parallelism"),
        ("parallel_config", "decode_context_parallel_size", 2, "decode context parallelism"),
        ("parallel_config", "prefill_context_parallel_size", 2, "prefill context parallelism"),
        ("parallel_config", "_api_process_count", 2, "several API server processes"),
        ("parallel_config", "enable_dbo", True, "dual batch overlap"),
        ("parallel_config", "enable_eplb", True, "expert load balancing"),
        ("offload_config", "offload_backend", "prefetch", "weight offloading"),
        ("model_config", "enable_sleep_mode", True, "sleep mode"),
        ("cache_config", "kv_sharing_fast_prefill", True, "--kv-sharing-fast-prefill"),
        (None, "lora_config", object(), "LoRA"),
        (None, "kv_transfer_config", object(), "KV connectors"),
    ],
)
def test_a_feature_that_poc_does_not_work_with_is_refused_by_name(
    configure: Any, section: str | None, attribute: str, value: object, feature: str
) -> None:
    from hallmark.poc.engine.support import check_config

    config = configure()
    # Set afterwards: some of these cannot be configured on a machine without the hardware they are for.
    setattr(config if section is None else getattr(config, section), attribute, value)
    with pytest.raises(UnsupportedError, match=feature):
        check_config(config)


def test_per_layer_inputs_are_refused(configure: Any) -> None:
    from hallmark.poc.engine.support import check_config

    config = configure()
    config.model_config.hf_text_config.hidden_size_per_layer_input = 256
    with pytest.raises(UnsupportedError, match="per-layer inputs"):
        check_config(config)


@pytest.mark.parametrize(
    ("arguments", "environment", "front_end"),
    [
        ({"grpc": True}, {}, "gRPC"),
        ({"grpc_port": 50051}, {}, "gRPC"),
        ({}, {"VLLM_USE_RUST_FRONTEND": "1"}, "Rust"),
    ],
)
def test_other_front_ends_are_refused(
    arguments: dict[str, Any], environment: dict[str, str], front_end: str
) -> None:
    from hallmark.poc.engine.support import check_front_end

    check_front_end(Namespace(grpc_port=None), {"VLLM_USE_RUST_FRONTEND": "0"})
    with pytest.raises(UnsupportedError, match=front_end):
        check_front_end(Namespace(**arguments), environment)


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        ({"batch_size": 32, "seq_len": 257}, ("8224", "8192", "--max-num-batched-tokens")),
        ({"batch_size": 33, "seq_len": 16}, ("33", "32", "--max-num-seqs")),
        ({"batch_size": 1, "seq_len": 2049}, ("2049", "2048", "--max-model-len")),
    ],
)
def test_a_batch_beyond_the_engines_limits_is_refused_with_both_numbers(
    configure: Any, settings: dict[str, int], numbers: tuple[str, ...]
) -> None:
    from hallmark.poc.engine.support import check_limits

    with pytest.raises(UnsupportedError) as refusal:
        check_limits(configure(), Settings(**settings))
    assert all(number in str(refusal.value) for number in numbers)


@pytest.mark.parametrize(("version", "supported"), [("0.26.0", True), ("0.32.1", True), ("0.30.0rc1", True)])
def test_supported_versions_are_accepted(version: str, supported: bool) -> None:
    from hallmark.poc.engine.support import check_version

    check_version(version, allow_unsupported=False)


@pytest.mark.parametrize("version", ["0.25.1", "0.33.0", "1.0.0", "dev"])
def test_other_versions_are_refused_unless_a_setting_insists(version: str) -> None:
    from hallmark.poc.engine.support import check_version

    with pytest.raises(UnsupportedError, match=r"0\.26, .*0\.32.*allow_unsupported_vllm") as refusal:
        check_version(version, allow_unsupported=False)
    assert version in str(refusal.value)
    check_version(version, allow_unsupported=True)


def make_layer(config: Any, kind: type[Any], name: str) -> Any:
    """An attention layer as a model makes it."""
    import torch
    from vllm.config import set_current_vllm_config

    with set_current_vllm_config(config):
        torch.set_default_dtype(torch.bfloat16)
        try:
            return kind(4, 64, 0.125, prefix=name, cache_config=config.cache_config)
        finally:
            torch.set_default_dtype(torch.float32)


def test_a_copied_layer_inherits_no_view_of_inferences_cache(configure: Any) -> None:
    """Triton's attention keeps views of the live cache, through which a batch would write it."""
    import torch
    from vllm.model_executor.layers.attention import Attention

    from hallmark.poc.engine.attention import _private_layer

    layer = make_layer(configure(), Attention, "layers.2")
    layer.kv_cache, scratch = torch.zeros(8, 2, 16, 128), torch.zeros(4, 2, 16, 128)
    layer.impl._k_scale_cache = layer.kv_cache[..., :1]
    private = _private_layer(layer, scratch, lambda: None)
    assert private.impl._k_scale_cache is None
    assert private.kv_cache is scratch
    assert layer.impl._k_scale_cache is not None, "the live layer is as it was"
    layer.impl.another_view = layer.kv_cache[2:]
    with pytest.raises(UnsupportedError, match="'another_view' is a view of inference's KV cache"):
        _private_layer(layer, scratch, lambda: None)


def test_layers_outside_the_allow_list_are_refused_by_name_and_type(configure: Any) -> None:
    """A subclass of attention may treat its cache differently, so only the plain class will do."""
    import torch
    from vllm.model_executor.layers.attention import Attention

    from hallmark.poc.engine.support import attention_layers

    class Windowed(Attention):
        pass

    config = configure()
    plain, other = make_layer(config, Attention, "layers.0"), make_layer(config, Windowed, "layers.1")
    found = attention_layers(config, {"layers.0": plain, "layers.0.experts": torch.nn.Identity()})
    assert found == {"layers.0": plain}
    with pytest.raises(UnsupportedError, match=r"'layers\.1' of type Windowed"):
        attention_layers(config, {"layers.0": plain, "layers.1": other})
    with pytest.raises(UnsupportedError, match="this one has none"):
        attention_layers(config, {})
