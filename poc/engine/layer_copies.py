"""Copies of a model's layers on caches and states of their own; nothing of the original is changed."""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.layers.attention import MLAAttention

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.engine.module_copy import copy_with
from hallmark.poc.engine.support import AttentionLayer, StateLayer, cache_of

__all__ = ["private_attention", "private_state_layer"]

# What an attention implementation derives from its layer or its cache on first use (FlashInfer, Triton); a
# copy derives its own.
_DERIVED_STATE = ("bmm1_scale", "bmm2_scale", "o_sf_scale", "_k_scale_cache", "_v_scale_cache")


def private_attention(
    layer: AttentionLayer, scratch: Tensor, before: Callable[[], None], after: Callable[[], None]
) -> AttentionLayer:
    """Copy a layer on a cache of its own, and call `before` and `after` around its attention."""
    variants = getattr(layer.impl, "get_impl_variants", lambda: (layer.impl,))()
    if tuple(variants) != (layer.impl,):
        raise UnsupportedError(
            f"PoC does not work with {type(layer.impl).__name__} yet: it is made of several implementations"
        )
    private = copy.copy(layer)
    private.impl = copy.copy(layer.impl)
    for name in _DERIVED_STATE:
        if hasattr(private.impl, name):
            setattr(private.impl, name, None)
    _check_no_view(private.impl, layer)
    private.kv_cache = scratch
    # What vLLM's custom op of attention calls on the layer that it finds in the context.
    stopping, name = (
        (private, "forward_impl") if isinstance(private, MLAAttention) else (private.impl, "forward")
    )
    attend = getattr(stopping, name)

    # Here a forward holds the residual, queries, keys and values, none of which is in a buffer that vLLM's
    # layers share.
    def stop_and_attend(*arguments: Any, **named: Any) -> Any:
        before()
        attended = attend(*arguments, **named)
        after()
        return attended

    setattr(stopping, name, stop_and_attend)
    return private


def private_state_layer(layer: StateLayer, states: tuple[Tensor, ...], config: VllmConfig) -> StateLayer:
    """Copy a layer on states of its own."""
    # vLLM 0.26's layers look for the mode of their cache by themselves.
    private = copy_with(layer, {"kv_cache": states, "cache_config": config.cache_config})
    _check_no_view(private, layer)
    return private


def _check_no_view(keeper: object, layer: Any) -> None:
    """Refuse a layer of which a copy keeps a view of inference's cache, under another name than its cache's.

    Raises:
        UnsupportedError: With the attribute's name.
    """
    live = {part.untyped_storage().data_ptr() for part in cache_of(layer)}
    for name, value in vars(keeper).items():
        kept = value if isinstance(value, tuple | list) else (value,)
        if any(isinstance(part, Tensor) and part.untyped_storage().data_ptr() in live for part in kept):
            raise UnsupportedError(
                f"PoC does not work with {type(keeper).__name__} yet: its attribute {name!r} is a view "
                "of inference's KV cache, which a PoC batch would write"
            )
