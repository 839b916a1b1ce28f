"""What an engine must be able to hold and be made of, on vLLM's own configuration and layers."""

from typing import Any

import pytest

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.settings.engine_limits import EngineLimits

# vLLM warns about its own affairs while a configuration is made.
pytestmark = pytest.mark.filterwarnings("default")


def test_the_default_batch_fits_the_plain_configuration(configure: Any) -> None:
    from hallmark.poc.engine.support import check_limits

    check_limits(configure(), EngineLimits())


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        ({"max_batch_size": 32, "seq_len": 257}, ("8224", "8192", "--max-num-batched-tokens")),
        ({"max_batch_size": 33, "seq_len": 16}, ("33", "32", "--max-num-seqs")),
        ({"max_batch_size": 1, "seq_len": 2049}, ("2049", "2048", "--max-model-len")),
    ],
)
def test_a_batch_beyond_the_engines_limits_is_refused_with_both_numbers(
    configure: Any, settings: dict[str, Any], numbers: tuple[str, ...]
) -> None:
    from hallmark.poc.engine.support import check_limits

    with pytest.raises(UnsupportedError) as refusal:
        check_limits(configure(), EngineLimits(**settings))
    assert all(number in str(refusal.value) for number in numbers)


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

    from hallmark.poc.engine.layer_copies import private_attention

    layer = make_layer(configure(), Attention, "layers.2")
    layer.kv_cache, scratch = torch.zeros(8, 2, 16, 128), torch.zeros(4, 2, 16, 128)
    layer.impl._k_scale_cache = layer.kv_cache[..., :1]
    private = private_attention(layer, scratch, lambda: None, lambda: None)
    assert private.impl._k_scale_cache is None
    assert private.kv_cache is scratch
    assert layer.impl._k_scale_cache is not None, "the live layer is as it was"
    layer.impl.another_view = layer.kv_cache[2:]
    with pytest.raises(UnsupportedError, match="'another_view' is a view of inference's KV cache"):
        private_attention(layer, scratch, lambda: None, lambda: None)


def test_layers_outside_the_allow_list_are_refused_by_name_and_type(configure: Any) -> None:
    """A subclass of attention may treat its cache differently, so only the plain class will do."""
    import torch
    from vllm.model_executor.layers.attention import Attention

    from hallmark.poc.engine.support import layers_with_caches

    class Windowed(Attention):
        pass

    config = configure()
    plain, other = make_layer(config, Attention, "layers.0"), make_layer(config, Windowed, "layers.1")
    found = layers_with_caches(config, {"layers.0": plain, "layers.0.experts": torch.nn.Identity()})
    assert found == {"layers.0": plain}
    with pytest.raises(UnsupportedError, match=r"'layers\.1' of type Windowed"):
        layers_with_caches(config, {"layers.0": plain, "layers.1": other})
    with pytest.raises(UnsupportedError, match="this one has none"):
        layers_with_caches(config, {})
