"""What an engine must be able to hold and be made of: the limits of a batch, layers with caches or states."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.layers.attention import Attention, MLAAttention
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention
from vllm.model_executor.layers.mamba.mamba_mixer import MambaMixer
from vllm.model_executor.layers.mamba.mamba_mixer2 import MambaMixer2
from vllm.model_executor.layers.mamba.short_conv import ShortConv
from vllm.v1.attention.backend import AttentionType

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.settings.engine_limits import EngineLimits

AttentionLayer: TypeAlias = Attention | MLAAttention
"""Attention that a private forward can stand in for."""

StateLayer: TypeAlias = MambaMixer | MambaMixer2 | ShortConv | QwenGatedDeltaNetAttention
"""A layer that keeps a state of each sequence, which a private forward can stand in for."""

PrivateLayer: TypeAlias = AttentionLayer | StateLayer

# Each is looked up once in the forward context, and reaches its states only through what it finds there.
_STATE_LAYERS: Final = frozenset({MambaMixer, MambaMixer2, ShortConv, QwenGatedDeltaNetAttention})


def check_limits(config: VllmConfig, limits: EngineLimits) -> None:
    """Refuse settings whose batch is more than the engine was sized for.

    Raises:
        UnsupportedError: with both numbers.
    """
    tokens = limits.max_batch_size * limits.seq_len
    scheduler = config.scheduler_config
    if tokens > scheduler.max_num_batched_tokens:
        raise UnsupportedError(
            f"a PoC batch of max_batch_size {limits.max_batch_size} x seq_len {limits.seq_len} is {tokens} "
            f"tokens, more than vLLM's --max-num-batched-tokens of {scheduler.max_num_batched_tokens}: raise "
            f"that flag to {tokens}, or lower max_batch_size or seq_len in the hallmark settings"
        )
    if limits.max_batch_size > scheduler.max_num_seqs:
        raise UnsupportedError(
            f"max_batch_size {limits.max_batch_size} is more than vLLM's --max-num-seqs of "
            f"{scheduler.max_num_seqs}: raise that flag, or lower max_batch_size in the hallmark settings"
        )
    if limits.seq_len > config.model_config.max_model_len:
        raise UnsupportedError(
            f"seq_len {limits.seq_len} is more than vLLM's --max-model-len of "
            f"{config.model_config.max_model_len}: raise that flag, or lower seq_len in the hallmark settings"
        )


def layers_with_caches(config: VllmConfig, layers: Mapping[str, Any]) -> dict[str, PrivateLayer]:
    """Pick the layers with a cache or a state, which a private forward can stand in for, by exact type.

    Subclasses are refused too: they exist because they treat their cache differently.

    Args:
        config: the engine's configuration.
        layers: vLLM's `static_forward_context`, every layer that looks itself up by name.

    Raises:
        UnsupportedError: some layer keeps a cache or a state and is none of these: plain decoder `Attention`,
            MLA without an index of its own, and `StateLayer`.
    """
    found: dict[str, PrivateLayer] = {}
    for name, layer in layers.items():
        if _is_supported_attention(layer) or is_state_layer(layer):
            found[name] = layer
        elif isinstance(layer, Attention | MLAAttention) or (
            isinstance(layer, AttentionLayerBase) and layer.get_kv_cache_spec(config) is not None
        ):
            known = ", ".join(sorted(kind.__name__ for kind in _STATE_LAYERS))
            raise UnsupportedError(
                f"PoC does not work with the layer {name!r} of type {type(layer).__name__} yet: it keeps a "
                "cache or a state of its own, and only plain decoder attention, dense MLA and these are "
                f"supported: {known}"
            )
    if not found:
        raise UnsupportedError("PoC needs a model whose layers keep a cache or a state; this one has none")
    return found


def is_state_layer(layer: object) -> bool:
    """Return whether a layer is one of `StateLayer`, by exact type."""
    return type(layer) in _STATE_LAYERS


def cache_of(layer: Any) -> tuple[Tensor, ...]:
    """Return a layer's cache, or its states: dimension 0 of each counts blocks.

    Raises:
        UnsupportedError: it is something else than plain tensors.
    """
    cache = layer.kv_cache
    found = tuple(cache) if is_state_layer(layer) else (cache,)
    if not all(isinstance(part, Tensor) and part.dim() > 1 for part in found):
        raise UnsupportedError(
            f"PoC does not work with the cache of {type(layer).__name__} layers: it is no plain tensor"
        )
    return found


def _is_supported_attention(layer: Any) -> bool:
    if type(layer) is Attention:
        return bool(layer.attn_type == AttentionType.DECODER)
    # Where attention is no opaque op, MLA reaches its cache without the forward context.
    return type(layer) is MLAAttention and not layer.use_sparse and not layer.use_direct_call
