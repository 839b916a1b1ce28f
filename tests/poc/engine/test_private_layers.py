"""Layers that keep states, as a PoC batch finds them: where they begin, and what they write."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from vllm.config import CacheConfig
from vllm.model_executor.layers.mamba.short_conv import ShortConv

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.engine import layer_copies, private_layers, support

# vLLM warns about its own affairs while a configuration is made.
pytestmark = pytest.mark.filterwarnings("default")


def short_conv(kind: type[Any] = ShortConv) -> Any:
    """A layer of vLLM's, with what a copy looks at and no weights."""
    layer = object.__new__(kind)
    nn.Module.__init__(layer)
    layer.kv_cache = (torch.ones(8, 4, 2),)
    layer.cache_config = CacheConfig(mamba_cache_mode="align")
    return layer


def test_a_copied_layer_has_states_of_its_own_and_none_of_prefixes(configure: Any) -> None:
    config = private_layers._without_prefixes(configure())
    layer, states = short_conv(), (torch.zeros(4, 4, 2),)
    private = layer_copies.private_state_layer(layer, states, config)
    assert type(private) is ShortConv
    assert private.kv_cache is states
    assert private.cache_config.mamba_cache_mode == "none"
    assert float(layer.kv_cache[0].min()) == 1, "the live layer is as it was"
    assert layer.cache_config.mamba_cache_mode == "align"


def test_a_batchs_configuration_is_a_copy(configure: Any) -> None:
    live = configure()
    live.cache_config.mamba_cache_mode = "align"
    assert private_layers._without_prefixes(live).cache_config.mamba_cache_mode == "none"
    assert live.cache_config.mamba_cache_mode == "align"


def test_a_layer_that_keeps_a_view_of_its_live_states_is_refused(configure: Any) -> None:
    for is_in_a_tuple in (False, True):
        layer = short_conv()
        layer.first = layer.kv_cache if is_in_a_tuple else layer.kv_cache[0][0]
        with pytest.raises(UnsupportedError, match="ShortConv yet: its attribute 'first' is a view"):
            layer_copies.private_state_layer(layer, (torch.zeros(4, 4, 2),), configure())


def test_a_layer_with_a_state_begins_where_it_is_found() -> None:
    begun: list[str] = []
    layers = private_layers._NamedLayers({"conv": 1, "attention": 2}, {"conv": lambda: begun.append("conv")})
    assert layers["attention"] == 2
    assert begun == []
    assert layers["conv"] == 1
    assert begun == ["conv"]


def test_a_subclass_of_a_layer_with_a_state_is_refused(configure: Any) -> None:
    class Windowed(ShortConv):  # type: ignore[misc]  # of vLLM's, which has no types
        def get_kv_cache_spec(self, vllm_config: object) -> object:
            return vllm_config

    found = support.layers_with_caches(configure(), {"layers.0": short_conv()})
    assert [type(layer) for layer in found.values()] == [ShortConv]
    with pytest.raises(UnsupportedError, match=r"'layers\.0' of type Windowed.*MambaMixer2, .*ShortConv"):
        support.layers_with_caches(configure(), {"layers.0": short_conv(Windowed)})


@pytest.mark.parametrize("states", [(torch.ones(8, 4, 2), None), (torch.ones(8),)])
def test_states_of_another_form_are_refused(states: tuple[Tensor | None, ...]) -> None:
    layer = short_conv()
    layer.kv_cache = states
    with pytest.raises(UnsupportedError, match="cache of ShortConv layers: it is no plain tensor"):
        support.cache_of(layer)


def test_a_layer_begins_at_zeros_whatever_another_one_left() -> None:
    """But for the blocks in front and behind, which nothing names, and where the first forward is watched."""
    layers = object.__new__(private_layers.PrivateLayers)
    layers._checkpoint, layers._begun, layers.observer = lambda: None, None, None
    layers.scratch = {"conv": (torch.ones(4, 2, 3), torch.ones(4, 5))}
    layers._begin_state("conv")
    for states in layers.scratch["conv"]:
        assert [bool(block.any()) for block in states] == [True, False, False, True]
        states.fill_(1)
    layers.observer = lambda name: None
    layers._begin_state("conv")
    assert all(bool(states.all()) for states in layers.scratch["conv"])
